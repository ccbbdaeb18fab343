"""Fields that check themselves: `eps: float = number(1e-3, above=0)`, `targets: str = pattern("q,v", "q,v", "k,v")`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from zoplat.core.errors import ZoplatError
from zoplat.core.search import Search

T = TypeVar("T", int, float, int | None, float | None)
V = TypeVar("V")


class FieldError(ZoplatError):
    """A field has a value that it can't have.

    Args:
        name: of the field.
        problem: what is wrong with it, such as "must be positive, got -1".
        flag: how the user sets it, such as "-o rule.beta=…".
    """

    def __init__(self, name: str, problem: str, flag: str = "") -> None:
        super().__init__(f"{name} {problem}" + (f"  ({flag})" if flag else ""))
        self.name, self.problem = name, problem

    def set_by(self, flag: str) -> FieldError:
        """The same error, with how the user sets the field."""
        return FieldError(self.name, self.problem, flag)


class Allowed(Protocol):
    """What a field may have."""

    def problem(self, value: Any) -> str:
        """What is wrong with a value, such as "must be positive, got 0"; empty where nothing is."""


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have.

    Attributes:
        above, at_least: lower bound, left out or included; None where there is none.
        below, at_most: upper bound, left out or included.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def problem(self, value: float) -> str:
        """What is wrong with a number; NaN lies in no range."""
        is_within = (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )
        return "" if is_within else f"must {self}, got {value}"

    def __str__(self) -> str:
        low, high = (self.above, self.at_least), (self.below, self.at_most)
        if high == (None, None):
            if self.above is not None:
                return "be positive" if self.above == 0 else f"be above {self.above:g}"
            return "be 0 or more" if self.at_least == 0 else f"be at least {self.at_least:g}"
        if None not in (self.above, self.at_most):
            return f"be above {self.above:g} and at most {self.at_most:g}"
        left = f"[{self.at_least:g}" if self.at_least is not None else f"({low[0]}"
        right = f"{self.at_most:g}]" if self.at_most is not None else f"{high[0]:g})"
        return f"lie in {left}, {right}"


@dataclass(frozen=True)
class Pattern:
    """Some names, or any regular expression.

    Attributes:
        names: those with a meaning of their own.
    """

    names: tuple[str, ...]

    def problem(self, value: str) -> str:
        """What is wrong with a text that does not compile."""
        try:
            re.compile(value)
        except re.error as problem:
            return f"must be {' or '.join(self.names)} or a regular expression, got {value} ({problem})"
        return ""


def number(
    default: T,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    search: Search | None = None,
) -> T:
    """A field of a part with the numbers that it may have; NaN is none of them. None, where it is allowed, is valid.

    Args:
        default: its value.
        above: lower bound, left out.
        at_least: lower bound, included.
        below: upper bound, left out.
        at_most: upper bound, included.
        search: where `zoplat compare --tune-trials` looks for a better value; it doesn't where this is None.
    """
    return _checked_by(Range(above, at_least, below, at_most), default, search)


def pattern(default: str, *names: str) -> str:
    """A field of a part that is one of some names or a regular expression."""
    return _checked_by(Pattern(names), default)


class Checked:
    """A dataclass whose fields are checked when it is made. What checks more calls `super().__post_init__()` first."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            allowed: Allowed | None = field.metadata.get("allowed")
            value = getattr(self, field.name)
            if allowed and value is not None and (problem := allowed.problem(value)):
                raise FieldError(field.name, problem)

    def require(self, holds: bool, field: str, problem: str) -> None:
        """Refuse the part unless something holds that is about more than one field.

        Args:
            holds: whether it does.
            field: the field to change.
            problem: what is wrong with it, such as "must be even, got 3".

        Raises:
            FieldError: it does not hold.
        """
        if not holds:
            raise FieldError(field, problem)


def _checked_by(allowed: Allowed, default: V, search: Search | None = None) -> V:
    field: Any = dataclasses.field(default=default, metadata={"allowed": allowed, "search": search})
    return field  # type: ignore[no-any-return]  # the default, once the class is made

"""Fields that check themselves: `eps: float = number(1e-3, above=0)`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from zoplat.core.errors import ZoplatError

T = TypeVar("T", int, float, int | None, float | None)


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

    def __contains__(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        low, high = (self.above, self.at_least), (self.below, self.at_most)
        if high == (None, None):
            if self.above == 0:
                return "be positive"
            return "be 0 or more" if self.at_least == 0 else f"be at least {self.at_least:g}"
        if None not in (self.above, self.at_most):
            return f"be above {self.above:g} and at most {self.at_most:g}"
        left = f"[{self.at_least:g}" if self.at_least is not None else f"({low[0]}"
        right = f"{self.at_most:g}]" if self.at_most is not None else f"{high[0]:g})"
        return f"lie in {left}, {right}"


def number(
    default: T,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> T:
    """A field of a part with the numbers that it may have; NaN is none of them. None, where it is allowed, is valid."""
    field: Any = dataclasses.field(default=default, metadata={"range": Range(above, at_least, below, at_most)})
    return field  # type: ignore[no-any-return]  # the default, once the class is made


class Checked:
    """A dataclass whose fields are checked when it is made. What checks more calls `super().__post_init__()` first."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            allowed, value = field.metadata.get("range"), getattr(self, field.name)
            if allowed is not None and value is not None and value not in allowed:
                raise FieldError(field.name, f"must {allowed}, got {value}")

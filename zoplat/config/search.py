"""The ranges in which a comparison looks for settings of a method: what its fields declare, and what a user says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from zoplat.config.parts import part_kind, setting_fields
from zoplat.config.usual import value_of
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.fields import Allowed, Range
from zoplat.core.rule import Scheduled
from zoplat.core.search import Around, Between, OneOf, Search

RATE = "rule.lr"
FOR_RATES = Around(10)
"""The range of a step size that is declared nowhere."""


def declarations(part: Any) -> dict[str, tuple[Search, Any, Allowed | None]]:
    """What a part and those inside it declare, as `declared` gives it."""
    return dict(_declared(part))


def declared(estimator: Estimator[Any]) -> dict[str, tuple[Search, Any, Allowed | None]]:
    """What an estimator, its rule and its law declare.

    The rule of an estimator inside another is left out, because it is not used.

    Returns:
        Dotted path of a setting, as `-o` takes it → its declaration, its value, the numbers that it may have. An
        estimator that declares nothing has its step size alone.
    """
    rate = value_of(estimator, "lr")
    if declares_nothing(estimator) and rate is not None:
        return {RATE: (FOR_RATES, rate, Range(at_least=0))}
    return declarations(estimator)


def declares_nothing(estimator: Estimator[Any]) -> bool:
    """Whether no field of an estimator, of its rule or of its law has a range."""
    return not declarations(estimator)


def ranges(
    estimator: Estimator[Any], given: Mapping[str, Any], fixed: Collection[str] = ()
) -> dict[str, Between | OneOf]:
    """Where to look for each setting of an estimator.

    Args:
        estimator: with its usual settings.
        given: what a user says: dotted path → a list of values, or a table with `low`, `high` and perhaps `log`;
            replaces what is declared for that path, and an empty list leaves the setting as it is.
        fixed: dotted paths of settings that a user chose; they are left as they are unless `given` has them too.

    Raises:
        ZoplatError: a range that can't be; a range around a value that is 0.
    """
    found = {path: (search, value) for path, (search, value, _) in declared(estimator).items() if path not in fixed}
    wanted = {path: (_as_given(path, asked), None) for path, asked in given.items()}
    both = {**found, **wanted}
    return {path: _at(path, search, value) for path, (search, value) in both.items() if search is not None}


def value_at(estimator: Estimator[Any], path: str) -> Any:
    """The value of the setting at a dotted path, as `-o` takes it.

    Raises:
        ZoplatError: there is no such setting.
    """
    part: Any = estimator
    for name in path.split("."):
        part = getattr(part, "schedule", None) if isinstance(part, Scheduled) and not hasattr(part, name) else part
        part = getattr(part, name, None)
    if part is None or part_kind(part):
        raise ZoplatError(f"[search] names {path}, which is no setting with a value of this method.")
    return part


def _at(path: str, search: Search, value: Any) -> Between | OneOf:
    try:
        return search.at(value)
    except ValueError as problem:
        raise ZoplatError(f"The range of {path} in a search: {problem}. Give another one in [search.METHOD].") from None


def _as_given(path: str, asked: Any) -> Search | None:
    """A user's range; None where the setting is to stay as it is."""
    if isinstance(asked, list):
        return OneOf(tuple(asked)) if asked else None
    numbers = {"low", "high"}
    if isinstance(asked, Mapping) and numbers <= asked.keys() <= numbers | {"log"}:
        low, high = (asked[name] for name in ("low", "high"))
        if all(type(x) in (int, float) for x in (low, high)) and isinstance(asked.get("log", True), bool):
            return Between(low, high, asked.get("log", True))
    raise ZoplatError(
        f"The range of {path} in a search must be a list of values, or a table such as "
        f"{{ low = 1e-4, high = 1e-2 }}, with log = false for a linear scale; got {asked!r}."
    )


def _declared(part: Any, path: str = "") -> Iterator[tuple[str, tuple[Search, Any, Allowed | None]]]:
    """Declarations in a part and in those inside it; what a schedule has belongs to its rule, as for `-o`."""
    for field in setting_fields(part):
        value, here = getattr(part, field.name), f"{path}{field.name}"
        if part_kind(value):
            is_unused = bool(path) and isinstance(part, Estimator) and field.name == "rule"
            if not is_unused:
                yield from _declared(value, path if here.endswith("rule.schedule") else f"{here}.")
        elif search := field.metadata.get("search"):
            yield here, (search, value, field.metadata.get("allowed"))

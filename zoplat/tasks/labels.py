"""Labels as data spell them: by name, by number, by letter, as a truth value."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from zoplat.core.errors import ZoplatError

WHOLE = re.compile(r"[+-]?\d{1,18}(?:\.0*)?", re.ASCII)
"""A whole number as text, which spreadsheets and pandas may write with a decimal point."""


def class_number(names: Sequence[str], value: Any, where: str) -> int:
    """The number of the class that a label means.

    Args:
        names: of the classes, in the order of their numbers.
        value: the label: a name, in any case where that is plain; true or false; or a number. Where names are numbers
            themselves, a number is such a name and never a place in the list.
        where: its file and line, for the error.

    Raises:
        ZoplatError: it is none of the classes.
    """
    if (found := _index(names, value, len(names))) is not None:
        return found
    listed = names if _has_numbers(names) else [f"{index} {name}" for index, name in enumerate(names)]
    raise ZoplatError(f"{where}: label {value!r} is not one of the task's: {', '.join(listed)}.")


def option_number(label: str, value: Any, names: Sequence[str], texts: Sequence[str]) -> int:
    """The index of the option that a label means.

    Args:
        label: the column, for the error.
        value: the label: the name of an option, its letter, its text, or its number from 0. Where names are numbers
            themselves, a number is such a name.
        names: of the options, such as the columns that they come from; empty texts for those without.
        texts: of the options.

    Raises:
        ValueError: it is none of the options.
    """
    if (found := _index(names, value, len(texts))) is not None:
        return found
    letters = string.ascii_uppercase[: len(texts)]
    if isinstance(value, str) and _whole(value) is None:
        letter, same = value.strip().upper(), [i for i, text in enumerate(texts) if text.strip() == value.strip()]
        if len(letter) == 1 and letter in letters:
            return letters.index(letter)
        if len(same) == 1:
            return same[0]
    ways = [f"one of {', '.join(known)}"] if (known := [name for name in names if name]) else []
    ways += [] if _has_numbers(names) else [f"a number from 0 to {len(texts) - 1}"]
    ways += [f"a letter from A to {letters[-1]}", "the text of the right option"]
    raise ValueError(f"'{label}' is {value!r}; it can be {', '.join(ways[:-1])}, or {ways[-1]}")


def choices(value: Any) -> tuple[list[str], list[str]]:
    """(names, texts) of options that one column lists; names are empty unless the column has them.

    Args:
        value: a list of texts; a table with such lists under `text` and `label`, as ARC has it; or a list of tables
            with a text and a label each.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        value = {key: [each.get(key) for each in value] for key in ("text", "label")}
    texts: Any = value.get("text") if isinstance(value, Mapping) else value
    names: Any = value.get("label") if isinstance(value, Mapping) else None
    if not _are_texts(texts) or len(texts) < 2:
        raise TypeError(f"choices must be a list of at least two texts, found {value!r}")
    names = names if _are_texts(names) and len(names) == len(texts) else [""] * len(texts)
    return [str(name) for name in names], [str(text).strip() for text in texts]


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(v, str | int | float) for v in value)
    )


def _index(names: Sequence[str], value: Any, count: int) -> int | None:
    """The index that a value means by a name or, where no name is a number, by its place among `count`."""
    if not isinstance(value, str | int | float) or not str(value).strip():
        return None
    spelled, number = str(value).strip(), _whole(value)
    for same in (
        [index for index, name in enumerate(names) if name == str(value)],
        [index for index, name in enumerate(names) if name.strip().casefold() == spelled.casefold()],
        [index for index, name in enumerate(names) if number is not None and _whole(name) == number],
    ):
        if len(same) == 1:
            return same[0]
    is_place = number is not None and not _has_numbers(names) and 0 <= number < count
    return number if is_place else None


def _has_numbers(names: Sequence[str]) -> bool:
    """Whether any name is a number."""
    return any(re.fullmatch(r"[+-]?\d+(\.\d*)?", name.strip(), re.ASCII) for name in names)


def _whole(value: Any) -> int | None:
    """The whole number that a value is or spells; None for another value."""
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    if isinstance(value, str) and WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return value if isinstance(value, int) and not isinstance(value, bool) else None

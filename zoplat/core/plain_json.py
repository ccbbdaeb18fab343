"""JSON that every reader takes: numbers that are not finite are null, and a key beside them says what they were."""

from __future__ import annotations

import json
import math
from typing import Any

REASONS = "not_finite"
"""Key of an object with the values that JSON has no form for: path of the null → "nan", "inf" or "-inf"."""


def to_text(value: Any, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """A value as JSON; an object in which numbers are not finite gets the key `REASONS`.

    >>> to_text({"drift": float("nan"), "steps": 3})
    '{"drift": null, "steps": 3, "not_finite": {"drift": "nan"}}'
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def with_numbers(table: dict[str, Any]) -> dict[str, Any]:
    """An object as it was before `to_text`: the numbers under `REASONS` in place of the nulls at its top."""
    reasons = table.get(REASONS)
    if not isinstance(reasons, dict):
        return table
    numbers = {key: float(text) for key, text in reasons.items() if key in table and text in ("nan", "inf", "-inf")}
    return {key: numbers.get(key, value) for key, value in table.items() if key != REASONS}


def _plain(value: Any) -> Any:
    """The value with null for numbers that are not finite; every outermost object says what they were."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    reasons: dict[str, str] = {}
    plain = _without(value, "", reasons)
    return {**plain, REASONS: reasons} if reasons and isinstance(plain, dict) else plain


def _without(value: Any, path: str, reasons: dict[str, str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        reasons[path] = str(float(value))
        return None
    if isinstance(value, dict):
        return {key: _without(one, f"{path}.{key}" if path else str(key), reasons) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without(one, f"{path}.{place}" if path else str(place), reasons) for place, one in enumerate(value)]
    return value

"""Settings under the names that configs and journals of earlier versions have for them."""

from __future__ import annotations

from typing import Any

STRATEGIES = {"walk": "sequential", "batch": "batched", "stream": "streaming"}


def renamed_setting(path: str, name: str, value: Any) -> tuple[str, Any]:
    """(name, value) as they are now, of a setting of the part at a dotted path.

    >>> renamed_setting("device", "road", "batch")
    ('strategy', 'batched')
    """
    if (path, name) == ("device", "road"):
        return "strategy", STRATEGIES.get(value, value)
    if (path, name) == ("device", "pack"):
        return "prepack", value
    return name, value


def renamed_header(header: dict[str, Any]) -> dict[str, Any]:
    """A journal's header with the names of now."""
    if "road" not in header:
        return header
    return {name: value for name, value in header.items() if name != "road"} | {
        "strategy": STRATEGIES[header["road"]],
    }

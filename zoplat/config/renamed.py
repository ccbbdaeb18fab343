"""Settings and headers of earlier versions: what they are called now, and which of them are gone.

Configs, journals and checkpoints on disk keep the old names; they are translated when they are read.
"""

from __future__ import annotations

from typing import Any

STRATEGIES = {"walk": "sequential", "batch": "batched", "stream": "streaming"}
"""Evaluation strategies by their old names."""
RENAMED = {("device", "road"): "strategy", ("device", "pack"): "prepack"}
"""(kind of part, old name of a field) → its name now."""
RETIRED = {
    ("step-rule", "low-rank-momentum"): {"rank"},
    **{("device", kind): {"graphs"} for kind in ("cpu", "cuda", "mps")},
}
"""(kind of part, registered name) → fields that it once had; their values are dropped."""


def renamed_setting(kind: str, name: str, value: Any) -> tuple[str, Any]:
    """(name, value) as they are now, of a setting that a part has no field for.

    >>> renamed_setting("device", "road", "batch")
    ('strategy', 'batched')
    """
    if (kind, name) == ("device", "road"):
        value = STRATEGIES.get(value, value)
    return RENAMED.get((kind, name), name), value


def is_retired(kind: str, part_name: str, name: str) -> bool:
    """Whether a part of this kind and registered name once had a field that it has no more.

    >>> is_retired("step-rule", "low-rank-momentum", "rank")
    True
    """
    return name in RETIRED.get((kind, part_name), ())


def renamed_header(header: dict[str, Any]) -> dict[str, Any]:
    """A journal's header under the names of now."""
    if "road" not in header:
        return header
    kept = {name: value for name, value in header.items() if name != "road"}
    return {**kept, "strategy": STRATEGIES[header["road"]]}

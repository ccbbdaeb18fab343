"""The trace of a run: the slopes that every step saw, and on some steps how far it moved the weights.

One line a step in trace.jsonl, which docs/how-to/watch-a-run.md explains. All of it comes from what a step computes
anyway, the answers of the oracle and the sample of the drift meter: no forward pass, and no pass over the weights.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.config.usual import value_of
from zoplat.core.device import Session
from zoplat.core.plain_json import to_text
from zoplat.paths import replace_text

EVERY = 10
"""Steps from one whose move is measured to the next."""
DIGITS = 6
"""Significant digits of the numbers in the file."""


@dataclass(frozen=True)
class TraceRecord:
    """One line of trace.jsonl.

    Attributes:
        step: from 0.
        passes: forward passes of training up to its end.
        slopes: projected gradients of the step, one a direction.
        moved: root mean square over the sampled weights of how far the step moved them, in units of the direction z,
            whose entries have their law's variance; under plain descent along one direction it is η·|slope|. None on
            steps that are not measured.
        reach: `moved` over ε: how far the step went, compared with how far the losses were looked for.
        updates: on measured steps, by block, the root mean square of its update over that of its weights.
    """

    step: int
    passes: int
    slopes: list[float] = field(default_factory=list)
    moved: float | None = None
    reach: float | None = None
    updates: dict[str, float] = field(default_factory=dict)

    @property
    def slope(self) -> float | None:
        """Root mean square of the slopes; None without any, or where they are not finite."""
        if not self.slopes or not all(map(math.isfinite, self.slopes)):
            return None
        return math.sqrt(fmean(slope * slope for slope in self.slopes))

    @property
    def descent(self) -> float | None:
        """How much the loss of the step's own batch falls by, to first order: moved · √n · slope for n directions."""
        slope = self.slope
        return None if slope is None or self.moved is None else self.moved * math.sqrt(len(self.slopes)) * slope

    def to_json(self) -> str:
        """The line, without what the step does not have."""
        table: dict[str, Any] = {"step": self.step, "passes": self.passes, "slopes": [_short(s) for s in self.slopes]}
        if self.moved is not None:
            updates = {name: _short(size) for name, size in self.updates.items()}
            table |= {"moved": _short(self.moved), "reach": self.reach and _short(self.reach), "updates": updates}
        return to_text(table)


class Trace:
    """Writes trace.jsonl, and has what is in it.

    Args:
        path: the file; continued where it exists.
        config: the settings of the run.
        session: its model.

    Attributes:
        records: one a step, those of earlier processes included; steps may be missing where a process was killed.
    """

    def __init__(self, path: Path, config: RunConfig, session: Session) -> None:
        self.path, self.space = path, session.space
        law = law_of(config.estimator)
        self.eps = value_of(config.estimator, "eps")
        self.variances = {block.name: law.variance(block.shape) if law else 1.0 for block in self.space.blocks}
        self.records: list[TraceRecord] = []

    def resume(self, steps: int) -> None:
        """Take up the records of the first steps, and drop what the file has beyond them."""
        self.records = [record for record in read_trace(self.path) if record.step < steps]
        if self.path.exists():
            replace_text(self.path, "".join(record.to_json() + "\n" for record in self.records))

    def before(self, step: int) -> None:
        """A step is about to be made."""
        if step % EVERY == 0:
            self.space.pin()

    def after(self, step: int, passes: int, slopes: list[float]) -> None:
        """A step was made, with these slopes; `passes` are those of the run up to now."""
        record = TraceRecord(step, passes, slopes)
        if step % EVERY == 0:
            moves = self.space.moved
            squares = [far * far / self.variances[name] for name, (far, _) in moves.items()]
            moved = math.sqrt(fmean(squares)) if squares else 0.0
            updates = {name: far / theta for name, (far, theta) in moves.items() if theta}
            record = TraceRecord(step, passes, slopes, moved, moved / self.eps if self.eps else None, updates)
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")


def read_trace(path: Path) -> list[TraceRecord]:
    """The records in a file, in order; none where there is no file, and without damaged lines."""
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").split("\n")[:-1]
    return [record for line in lines if (record := _record(line))]


def _record(line: str) -> TraceRecord | None:
    try:
        table = json.loads(line)
        slopes = [math.nan if slope is None else float(slope) for slope in table["slopes"]]
        moved, reach = (None if table.get(name) is None else float(table[name]) for name in ("moved", "reach"))
        updates = {str(name): float(size) for name, size in table.get("updates", {}).items() if size is not None}
        return TraceRecord(int(table["step"]), int(table["passes"]), slopes, moved, reach, updates)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _short(value: float) -> float:
    """A number with the digits that the file has."""
    return float(f"{value:.{DIGITS}g}")

"""Seconds, passes over the weights and peaks of a run, added up over the processes that made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from zoplat.paths import replace_text
from zoplat.training.directory import RunDirectory
from zoplat.training.meter import Meter
from zoplat.training.profiler import Phase, Profiler
from zoplat.training.progress import Progress
from zoplat.training.readings import Reading

FILE = "costs.json"
"""In the folder of the checkpoints: what a process that goes on with the run has to add its own to."""


@dataclass(frozen=True)
class Costs:
    """What a run has cost so far, in all of its processes.

    Attributes:
        seconds: of the whole run.
        seconds_training: of its steps.
        joules: of its steps, where the machine tells.
        passes_over_weights: how many times all trained weights were written in steps; restoring a run is left out.
        outside: forward passes that model and oracle did not count alike; see `Meter`.
        foreign: rows that the model read in steps and that are no training rows.
        phases: time and memory by phase.
        steps: that were made until this was written; a killed process may have made more.
    """

    seconds: float = 0.0
    seconds_training: float = 0.0
    passes_over_weights: float = 0.0
    outside: float = 0.0
    foreign: int = 0
    phases: dict[str, Phase] = field(default_factory=dict)
    joules: float = 0.0
    steps: int = 0

    @classmethod
    def read(cls, directory: RunDirectory) -> Costs:
        """Those of earlier processes; none where they wrote nothing, or what they wrote can't be understood."""
        try:
            table = json.loads((directory.checkpoints.folder / FILE).read_text(encoding="utf-8"))
            phases = {str(name): _phase(row) for name, row in table["phases"].items()}
            seconds, training, passes = (float(table[name]) for name in TOTALS)
            outside, foreign = float(table.get("outside", 0.0)), int(table.get("foreign", 0))
            joules, steps = float(table.get("joules", 0.0)), int(table.get("steps", 0))
            return cls(seconds, training, passes, outside, foreign, phases, joules, steps)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls()

    def after(
        self, profiler: Profiler, seconds: float, progress: Progress, passes_over_weights: float, meter: Meter
    ) -> Costs:
        """These and those of this process; what the progress has counts from the start of the run already."""
        merged = {**self.phases}
        for name, phase in profiler.phases.items():
            before = merged.get(name, Phase())
            peaks = [peak for peak in (before.device_peak, phase.device_peak) if peak is not None]
            merged[name] = Phase(
                before.seconds + phase.seconds,
                before.calls + phase.calls,
                max(before.host_peak, phase.host_peak),
                max(peaks, default=None),
                before.highest(phase),
            )
        moves = self.passes_over_weights + passes_over_weights
        outside, foreign = self.outside + meter.outside, self.foreign + meter.foreign
        total, training, joules = self.seconds + seconds, progress.seconds, progress.joules
        return Costs(total, training, moves, outside, foreign, merged, joules, progress.step)

    def profiler(self, profiler: Profiler) -> Profiler:
        """A profiler that has these phases in place of its own."""
        return replace(profiler, phases={**self.phases})

    def write(self, directory: RunDirectory, owners: dict[str, int], readings: Sequence[Reading] = ()) -> None:
        """Write memory.jsonl, and what `read` reads.

        Args:
            directory: of the run.
            owners: bytes of long-lived arrays by owner.
            readings: what the machine's probes have read.
        """
        phases = [{"kind": "phase", "phase": name, **asdict(phase)} for name, phase in self.phases.items()]
        directory.write_memory(
            [
                *phases,
                *({"kind": "owner", "owner": owner, "bytes": size} for owner, size in owners.items()),
                *(reading.row for reading in readings),
            ]
        )
        directory.checkpoints.folder.mkdir(exist_ok=True)
        replace_text(directory.checkpoints.folder / FILE, json.dumps(asdict(self)))


TOTALS = ("seconds", "seconds_training", "passes_over_weights")


def _phase(row: dict[str, Any]) -> Phase:
    peak = row["device_peak"]
    numbers = float(row["seconds"]), int(row["calls"]), int(row["host_peak"])
    owners = {str(owner): int(size) for owner, size in row.get("owners", {}).items()}
    return Phase(*numbers, None if peak is None else int(peak), owners)

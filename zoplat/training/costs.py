"""Seconds, passes over the weights and peaks of a run, added up over the processes that made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from zoplat.training.directory import RunDirectory
from zoplat.training.profiler import Phase, Profiler


@dataclass(frozen=True)
class Costs:
    """What a run has cost so far; memory.jsonl has it.

    Attributes:
        seconds: of the whole run.
        seconds_training: of its steps.
        passes_over_weights: how many times all trained weights were written in steps; restoring a run is left out.
        phases: time and memory by phase.
    """

    seconds: float = 0.0
    seconds_training: float = 0.0
    passes_over_weights: float = 0.0
    phases: dict[str, Phase] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: RunDirectory) -> Costs:
        """Those that earlier processes wrote; nothing where the file is missing or can't be understood."""
        phases, totals = {}, {}
        try:
            for line in directory.memory.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["kind"] == "phase":
                    phases[row["phase"]] = Phase(**{one.name: row[one.name] for one in fields(Phase)})
                elif row["kind"] == "run":
                    totals = {name: float(row[name]) for name in TOTALS}
        except (OSError, ValueError, KeyError, TypeError):
            return cls()
        return cls(**totals, phases=phases)

    def after(self, profiler: Profiler, seconds: float, seconds_training: float, passes_over_weights: float) -> Costs:
        """These and those of this process; `seconds_training` counts from the start of the run already."""
        merged = {**self.phases}
        for name, phase in profiler.phases.items():
            before = merged.get(name, Phase())
            peaks = [peak for peak in (before.device_peak, phase.device_peak) if peak is not None]
            merged[name] = Phase(
                before.seconds + phase.seconds,
                before.calls + phase.calls,
                max(before.host_peak, phase.host_peak),
                max(peaks, default=None),
            )
        return Costs(self.seconds + seconds, seconds_training, self.passes_over_weights + passes_over_weights, merged)

    def profiler(self, profiler: Profiler) -> Profiler:
        """A profiler that has these phases in place of its own."""
        return replace(profiler, phases={**self.phases})

    def rows(self, owners: dict[str, int]) -> Sequence[dict[str, Any]]:
        """The rows of memory.jsonl."""
        phases = [{"kind": "phase", "phase": name, **vars(phase)} for name, phase in self.phases.items()]
        held = [{"kind": "owner", "owner": owner, "bytes": size} for owner, size in owners.items()]
        return [*phases, *held, {"kind": "run", **{name: getattr(self, name) for name in TOTALS}}]


TOTALS = ("seconds", "seconds_training", "passes_over_weights")
"""What memory.jsonl says of the run as a whole."""

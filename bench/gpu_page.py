"""The GPU tables of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bench.cases import Pair
from bench.gpu_cases import JOB, MODELS, RUNS, SHAPE, pairs
from bench.gpu_figures import Figures
from bench.results import Row
from bench.tables import by_case, head, line, median_text, published_variant, setup_text, shape_text, times_as_fast

GIB = 1 << 30


class GpuTables:
    """Tables of GPU results.

    Args:
        content: runs and rows of the results.
    """

    def __init__(self, content: Mapping[str, list[Row]]) -> None:
        self.rows = content["rows"]
        self.figures = Figures(self.rows)

    def text(self) -> str:
        """All tables: bars first, then what they come from and what is missing."""
        tables = (self.missing(), self.tests(), self.passes(), self.steps(), self.peaks(), self.runs())
        return self.figures.table() + "".join(tables)

    def of(self, kind: str) -> list[Row]:
        """The rows of a kind."""
        return [row for row in self.rows if row["kind"] == kind]

    def missing(self) -> str:
        """What failed, and what there was no time for, in the newest run of each part."""
        lines = [
            f"- {row['step']}, {row['seconds']:.0f} s: {row['state']}{_listed(row)}\n"
            for row in self.of("part")
            if row["state"] != "done" or row["failed"]
        ]
        return "\nNot measured, or not to the end:\n\n" + "".join(lines) if lines else ""

    def tests(self) -> str:
        """How many tests passed, and the names of those that failed."""
        text = ""
        for row in self.of("tests"):
            counts = ", ".join(f"{row[name]} {name}" for name in ("passed", "failed", "skipped"))
            text += f"\n`{row['step']}`: {counts}{'' if row['is_whole'] else '; ended before all were run'}.\n"
            text += "".join(f"\n- `{name}`: {reason}" for name, reason in row["failures"].items())
            text += "\n" if row["failures"] else ""
        return text

    def passes(self) -> str:
        """Passes over the weights, a table for each dtype."""
        text = ""
        for dtype, group in groupby(self.of("pass"), lambda row: row["dtype"]):
            text += f"\n### {dtype} weights on a GPU\n\n" + head(("pass", "over `add_`", "ns a weight"))
            text += "".join(line([row["step"], median_text(row), f"{row['ns']:.5f}"]) for row in group)
        return text

    def steps(self) -> str:
        """Steps and their peaks, a table for each setup."""
        found, text = by_case(self.rows), ""
        columns = ("step", "passes", "rounds", "step ÷ its forwards", "times as fast as published")
        for model in MODELS:
            for _, group in groupby(pairs(model), lambda pair: pair.setup.name):
                some = [*group]
                lines = [self.step(found, pair, variant.name) for pair in some for variant in pair.variants]
                if any(lines):
                    text += f"\n### {setup_text(some[0])}, {shape_text(SHAPE)}\n\n"
                    text += head((*columns, "peak, GiB", "peak ÷ inference", "held ÷ inference"))
                    text += self.bare(found, some) + "".join(lines)
        return text

    def bare(self, found: dict[Any, Row], some: Sequence[Pair]) -> str:
        """The line of the bare forward pass, which is the faster of recorded and eager inference."""
        rows = [row for pair in some for v in pair.variants if (row := found.get((pair.key, v.name, SHAPE)))]
        median = statistics.median(row["bare_ms"] for row in rows)
        which = " or ".join(sorted({row["bare"] for row in rows}))
        return line([f"bare forward, {which}", 1, "", f"{median:,.2f} ms", "", "", "", ""])

    def step(self, found: dict[Any, Row], pair: Pair, name: str) -> str:
        """A line of the table of a setup; empty where it was not measured."""
        row, published = found.get((pair.key, name, SHAPE)), published_variant(pair)
        if row is None:
            return ""
        other = found.get((pair.key, published.name, SHAPE)) if published and "peak" in row else None
        cells = [name, row["passes"], row["rounds"], median_text(row)]
        cells.append(f"{times_as_fast(row, other):.3g}" if other else "")
        if "peak" not in row:
            return line([*cells, "", "", ""])
        ratios = row["peak"] / row["inference"], row["held"] / row["inference_held"]
        return line([*cells, f"{row['peak'] / GIB:.2f}", *(f"{ratio:.3f}" for ratio in ratios)])

    def peaks(self) -> str:
        """Peaks of published steps on models alone."""
        rows = self.of("bare peak")
        if not rows:
            return ""
        text = "\n### Peaks of published steps on a GPU\n\n" + head(("model, step", "peak, GiB", "peak ÷ inference"))
        return text + "".join(
            line(
                [f"{row['model']}, {row['step']}", f"{row['peak'] / GIB:.2f}", f"{row['peak'] / row['inference']:.2f}"]
            )
            for row in rows
        )

    def runs(self) -> str:
        """The main job, and the peaks of runs one after the other."""
        text = ""
        for row in self.of("job"):
            text += f"\n`{JOB}`: {row['seconds_training']:.1f} s of training for {row['passes']} forward passes, "
            text += f"{row['seconds']:.0f} s in all; dev {row['dev_before']:.3f} → {row['dev_after']:.3f}, "
            text += f"test {row['test_before']:.3f} → {row['test_after']:.3f}.\n"
        for row in self.of("runs"):
            peaks = ", ".join(f"{peak / GIB:.3f}" for peak in row["peaks"])
            text += f"\nPeaks of {RUNS} ({row['model']}, float32), GiB: {peaks}.\n"
        return text


def _listed(row: Row) -> str:
    """What a part left out and why."""
    reasons = [f"{label} failed ({reason})" for label, reason in row["failed"].items()]
    return "".join(f"; {what}" for what in [*reasons, *(f"{label} was not reached" for label in row["left"])])

"""The figures that the bars of `gpu_cases.BARS` are for, found in results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.gpu_cases import BARS, JOB, JOB_PASSES, RUNS, TESTS, Bar, setups
from bench.passes import ADD
from bench.results import Row
from bench.tables import Figure, line, times_as_fast

STATELESS = ("mezo, gaussian", "mezo, rademacher", "lozo")
"""Steps whose peak has a bar."""


class Figures:
    """Figures of GPU results.

    Args:
        rows: of the results.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.kinds: dict[str, tuple[str, Callable[..., float | None]]] = {
            "tests": (f"tests of `{TESTS}` that fail", self.failing),
            "replays": ("tests that replay a GPU's journal on the processor and fail", self.replays),
            "step": ("step ÷ its forwards", self.step),
            "gain": ("times as fast as the published step", self.gain),
            "traffic": ("step without its forwards ÷ its traffic at the speed of `add_`", self.traffic),
            "pass": (f"pass ÷ `{ADD}`", self.one_pass),
            "job": (f"training of `{JOB}`", self.job),
            "peak": ("peak ÷ inference", self.peak),
            "held": ("held by the allocator ÷ inference, recordings included", self.held),
            "runs": (f"highest peak ÷ first, {RUNS}", self.runs),
        }

    def figure(self, bar: Bar) -> Figure | None:
        """The figure of a bar; None where it was not measured."""
        value = self.kinds[bar.kind][1](*bar.case)
        if value is None:
            return None
        return Figure(f"{self.what(bar)}, on a GPU", value, bar.bar, bar.at_least, bar.unit)

    def what(self, bar: Bar) -> str:
        """What a bar is for, in words."""
        case = [part for part in bar.case if isinstance(part, str)]
        return ", ".join([*case, self.kinds[bar.kind][0]])

    def figures(self) -> list[Figure]:
        """The figures that were measured, of all bars."""
        return [figure for bar in BARS if (figure := self.figure(bar))]

    def table(self) -> str:
        """All bars, with what was measured and whether they are met."""
        text = line(("figure", "bar", "measured", "the bar is")) + line(("---", "---:", "---:", "---"))
        for bar in BARS:
            figure, sign = self.figure(bar), Figure("", 0.0, bar.bar, bar.at_least, bar.unit).sign
            shown = ("", "not measured") if figure is None else (f"{figure.value:.3g}{bar.unit}", figure.mark)
            text += line((self.what(bar), sign, *shown))
        return text

    def one(self, **fields: Any) -> Row | None:
        """The row with these fields."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in fields.items())), None)

    def failing(self) -> float | None:
        row = self.one(kind="tests")
        if row is None or not (row["failed"] or (row["is_whole"] and row["passed"])):
            return None  # none was run, or those that were run before time ran out have passed
        return float(row["failed"])

    def replays(self) -> float | None:
        row = self.one(kind="tests")
        return float(row["replays_failed"]) if row and row["replays"] else None

    def of_step(self, model: str, setup: str, step: str) -> Row | None:
        return self.one(kind="step", setup=setups(model)[setup].name, step=step)

    def step(self, model: str, setup: str, step: str) -> float | None:
        row = self.of_step(model, setup, step)
        return float(row["wall"]["median"]) if row else None

    def gain(self, model: str, setup: str, step: str) -> float | None:
        row = self.of_step(model, setup, step)
        published = {"mezo, gaussian": "published MeZO", "lozo": "published LOZO"}[step]
        other = self.of_step(model, setup, published)
        return times_as_fast(row, other) if row and other else None

    def traffic(self, model: str, step: str, state: int) -> float | None:
        row, add = self.of_step(model, "in place", step), self.one(kind="pass", dtype="bfloat16", step=ADD)
        if row is None or add is None:
            return None
        beside = (row["wall"]["median"] - 1) * row["passes"] * row["bare_ms"] * 1e6
        weights = row["weights"] / 2
        return float(beside / (weights * add["ns"] * (row["moves"] + state / 4)))

    def one_pass(self, dtype: str, step: str) -> float | None:
        row = self.one(kind="pass", dtype=dtype, step=step)
        return float(row["wall"]["median"]) if row else None

    def job(self) -> float | None:
        row = self.one(kind="job")
        return float(row["seconds_training"]) if row and row["passes"] == JOB_PASSES else None

    def peak(self, model: str) -> float | None:
        return self.largest(model, "peak", "inference")

    def held(self, model: str) -> float | None:
        return self.largest(model, "held", "inference_held")

    def largest(self, model: str, own: str, other: str) -> float | None:
        """The largest ratio of two fields among the steps without state."""
        rows = [row for row in self.rows if row.get("model") == model and row["step"] in STATELESS and own in row]
        return max((row[own] / row[other] for row in rows if row["kind"] == "step"), default=None)

    def runs(self) -> float | None:
        row = self.one(kind="runs")
        return max(row["peaks"]) / row["peaks"][0] if row and len(row["peaks"]) > 1 else None

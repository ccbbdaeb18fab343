"""The tables of docs/performance.md: results beside their bars, met or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.cases import (
    ALL,
    ENGINES,
    FOUR,
    ON_CPU,
    PUBLISHED_GAINS,
    RATE,
    STATELESS,
    STRATEGIES,
    TORCH,
    Engine,
    Pair,
    Shape,
    Variant,
    cpu,
    usual,
)
from bench.gpu_page import GpuTables
from bench.results import FOLDER, Row, read
from bench.tables import (
    Figure,
    by_case,
    forward_line,
    head,
    line,
    median_text,
    published_variant,
    setup_text,
    shape_text,
    speed_up,
)
from zoplat.core.losses import SIDE_TERMS

MIB = 1 << 20
KERNELS = "noise kernels"
STATELESS_OWNERS = (KERNELS, "scratch")
"""Owners that are not state of a method."""
README_PAIRS = ("full/float32/mezo", "full/float32/lozo")
README_STEPS = ("mezo, gaussian", "mezo, rademacher", "lozo", "lozo, batched", "published MeZO", "published LOZO")
"""The steps that README shows."""
BASELINES = {
    "float32": "reading and writing them",
    "bfloat16": "the same rounded to nearest",
    "uint4": "reading and writing as many in float32",
}
"""Dtype of weights → what passes over them are compared with."""

NONE = "No figure has been measured yet; `make bench` makes them."
NONE_ON_GPU = "`make bench-gpu` has not measured anything yet."
NONE_ON_ENGINES = "No figure has been measured yet; `make bench-engines` makes them."


class Page:
    """The generated parts of the page.

    Args:
        folder: of the results.

    Attributes:
        places: Markdown by the name of its mark in the page.
        figures: all figures that have a bar.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.cpu, self.gpu, self.engines = (read(folder / f"{name}.json") for name in ("cpu", "gpu", "engines"))
        self.figures: list[Figure] = []
        tables = {
            "steps": self.steps(),
            "gains": self.gains(),
            "rates": self.rates(),
            "memory": self.memory(),
            "passes": self.passes(),
        }
        self.places = {**{name: text or NONE for name, text in tables.items()}, "gpu": self.on_gpu()}
        self.places["engines"] = self.on_engines() or NONE_ON_ENGINES
        self.places |= {"runs": self.runs() or NONE, "bars": self.bars(), "brief": self.brief()}

    def steps(self) -> str:
        """Time of steps divided by that of their forward passes, a table for each setup."""

        def cell(pair: Pair, variant: Variant, shape: Shape, row: Row) -> str:
            what = f"{setup_text(pair)}, {variant.name}, {shape_text(shape)}"
            return self.ratio(
                Figure(f"step ÷ its forwards, {what}", row["wall"]["median"], variant.bars.get(shape)), row
            )

        return self.by_setup(self.cpu["rows"], cell, lambda pair, variant: True, bare=True)

    def brief(self) -> str:
        """The table of steps in README."""
        rows, pairs = (
            by_case(self.cpu["rows"]),
            [pair for pair in cpu("smollm2-135m") if pair.key.endswith(README_PAIRS)],
        )
        text = head(("rows × tokens", *README_STEPS))
        for shape in reversed(ALL):
            by_name = {v.name: rows.get((pair.key, v.name, shape)) for pair in pairs for v in pair.variants}
            text += line(
                [shape_text(shape), *(median_text(row) if (row := by_name[name]) else "" for name in README_STEPS)]
            )
        return text

    def gains(self) -> str:
        """The speed-up of each variant over the published step."""
        rows = by_case(self.cpu["rows"])

        def cell(pair: Pair, variant: Variant, shape: Shape, row: Row) -> str:
            gain = speed_up(rows, pair, shape, row)
            if gain is None:
                return ""
            what = f"times as fast as published, {setup_text(pair)}, {variant.name}, {shape_text(shape)}"
            figure = Figure(what, gain, PUBLISHED_GAINS.get(shape), at_least=True)
            self.figures.append(figure)
            return figure.cell(f"{gain:.3g}")

        return self.by_setup(
            self.cpu["rows"], cell, lambda pair, variant: bool(variant.settings and published_variant(pair))
        )

    def rates(self) -> str:
        """Rows × points a second of batched steps, over rows of plain inference a second."""

        def cell(pair: Pair, variant: Variant, shape: Shape, row: Row) -> str:
            rate = row["rate"]
            is_cheap = pair.setup.tune == "lora" or variant.strategy in SIDE_TERMS.values()
            what = f"rate of points, {setup_text(pair)}, {variant.name}, {shape_text(shape)}"
            figure = Figure(what, rate["median"], RATE if is_cheap else None, at_least=True)
            self.figures += [figure] if is_cheap else []
            return figure.cell(f"{rate['median']:.2f} ± {rate['spread']:.2f}")

        rows = [row for row in self.cpu["rows"] if "rate" in row]
        return self.by_setup(rows, cell, lambda pair, variant: variant.is_batched)

    def memory(self) -> str:
        """Peak memory above inference, a table for each model."""
        found = [row for row in self.cpu["rows"] if row["kind"] == "memory" and row["model"] in ON_CPU]
        text = ""
        for model, group in groupby(
            sorted(found, key=lambda row: ON_CPU.index(row["model"])), lambda row: row["model"]
        ):
            rows = list(group)
            weights, inference = rows[0]["weights"] / MIB, rows[0]["inference"] / MIB
            text += f"\n### {model}: {weights:,.0f} MiB of weights, {inference:,.0f} MiB for inference\n\n"
            text += head(
                (
                    "step",
                    "peak, MiB",
                    "above inference, MiB",
                    "× weights",
                    "owners, MiB",
                    "beside state and kernels, MiB",
                )
            )
            order = [variant.name for pair in cpu(model) for variant in pair.variants]
            text += "".join(map(self.peak, sorted(rows, key=lambda row: order.index(row["step"]))))
        return text

    def peak(self, row: Row) -> str:
        """A line of the memory table."""
        above, owners = row["peak"] - row["inference"], row["owners"]
        state = sum(size for name, size in owners.items() if name not in STATELESS_OWNERS)
        rest = (above - state - owners.get(KERNELS, 0)) / MIB
        bar = None if row["step"].startswith("published") else STATELESS * row["weights"] / MIB
        what = f"memory beside state and kernels, {row['model']}, {row['step']}: MiB"
        figure = Figure(what, rest, bar)
        self.figures += [figure] if bar is not None else []
        named = ", ".join(f"{name} {size / MIB:.1f}" for name, size in owners.items())
        cells = (row["step"], f"{row['peak'] / MIB:,.0f}", f"{above / MIB:,.1f}", f"{above / row['weights']:+.2f}")
        return line([*cells, named, "" if bar is None else figure.cell(f"{rest:.1f}")])

    def passes(self) -> str:
        """Passes over the weights, a table for each dtype."""
        text = ""
        for dtype, baseline in BASELINES.items():
            rows = [row for row in self.cpu["rows"] if row["kind"] == "pass" and row["dtype"] == dtype]
            if rows:
                text += f"\n### {dtype} weights\n\n" + head(("pass", f"over {baseline}", "ns a weight"))
                text += "".join(line([row["step"], median_text(row), f"{row['ns']:.3f}"]) for row in rows)
        return text

    def on_gpu(self) -> str:
        """What was measured on a GPU beside the bars, or what would be."""
        tables = GpuTables(self.gpu)
        self.figures += tables.figures.figures()
        note = "" if self.gpu["rows"] else f"{NONE_ON_GPU}\n\n"
        runs = "\n" + self.listed(self.gpu["runs"]) if self.gpu["runs"] else ""
        return note + tables.text() + runs

    def on_engines(self) -> str:
        """Steps on adapters: a table of times, and one of speed-up, slopes and peak memory for each engine."""
        steps = {(r["step"], r["pair"], tuple(r["shape"])): r for r in self.engines["rows"] if r["kind"] == "step"}
        shapes, text = sorted({shape for _, _, shape in steps}), ""
        if shapes:
            text += "\n" + head(
                ("engine", *(f"{shape_text(shape)}: {strategy}" for shape in shapes for strategy in STRATEGIES))
            )
        for engine in ENGINES:
            cells = [steps.get((engine.name, strategy, shape)) for shape in shapes for strategy in STRATEGIES]
            text += line([engine.name, *(median_text(row) if row else "" for row in cells)]) if any(cells) else ""
        columns = ("times as fast", "slopes agree by", "spread", "peak, MiB", "share")
        lines = [self.engine(engine, steps) for engine in ENGINES]
        text += "\n" + head(("engine, " + shape_text(FOUR), *columns)) + "".join(lines) if text else ""
        return text + ("\n" + self.listed(self.engines["runs"]) if text else "")

    def engine(self, engine: Engine, steps: dict[Any, Row]) -> str:
        """A line of the second table; engine and PyTorch are compared by the quicker strategy of each."""
        cells = ["", "", "", "", ""]

        def best_time(of: Engine) -> float | None:
            rows = [steps[of.name, strategy, FOUR] for strategy in STRATEGIES if (of.name, strategy, FOUR) in steps]
            return min((row["wall"]["median"] for row in rows), default=None)

        own, torch = best_time(engine), best_time(TORCH)
        if own and torch:
            cells[0] = self.cell(Figure(f"times as fast as PyTorch, {engine.name}", torch / own, engine.times, True))
        others = {(row["kind"], row["step"]): row for row in self.engines["rows"]}
        if slope := others.get(("slope", engine.name)):
            cells[1:3] = f"{slope['agreement']:.4f}", f"{slope['spread']:.2f}"
        own_peak, torch_peak = others.get(("engine peak", engine.name)), others.get(("engine peak", TORCH.name))
        if own_peak and torch_peak:
            share = Figure(f"peak over PyTorch's, {engine.name}", own_peak["peak"] / torch_peak["peak"], engine.peak)
            cells[3:] = f"{own_peak['peak'] / MIB:,.0f}", self.cell(share)
        return line([engine.name, *cells]) if any(cells) else ""

    def cell(self, figure: Figure) -> str:
        """The cell of a figure, which is counted if it has a bar."""
        self.figures += [figure] if figure.bar is not None else []
        return figure.cell(f"{figure.value:.2f}")

    def bars(self) -> str:
        """How many bars are met, and a list of those that are not."""
        if not self.figures:
            return NONE
        missed = [figure for figure in self.figures if not figure.is_met]
        text = f"{len(self.figures) - len(missed)} of {len(self.figures)} bars with a figure are met."
        lines = [f"- {figure.what}: {figure.value:.4g}, bar {figure.sign}" for figure in missed]
        return text + (" Not met:\n\n" + "\n".join(lines) if missed else "")

    def runs(self) -> str:
        """The runs on a CPU that the figures come from."""
        return self.listed(self.cpu["runs"])

    def listed(self, runs: Iterable[Row]) -> str:
        """Runs as lines of a list."""
        lines = []
        for run in runs:
            name = (run["accelerator"] or {}).get("name", f"{run['processor']}, {run['threads']} threads")
            versions = ", ".join(f"{what} {version}" for what, version in run["versions"].items())
            versions += f", commit {run['commit']}" if run.get("commit") else ""
            name += f", driver {run['accelerator']['driver']}" if run["accelerator"] else ""
            lines.append(f"- {run['date']}, {name}; {versions}: `{run['command']}`\n")
        return "".join(lines)

    def by_setup(
        self,
        rows: Sequence[Row],
        cell: Callable[[Pair, Variant, Shape, Row], str],
        wanted: Callable[[Pair, Variant], bool],
        bare: bool = False,
    ) -> str:
        """A table for each setup that has rows, a line for each variant, a column for each shape."""
        found, text = by_case(rows), ""
        pairs = usual([pair for model in ON_CPU for pair in cpu(model)], every=True)
        for _, group in groupby(pairs, lambda pair: pair.setup.name):
            steps = [(pair, variant) for pair in group for variant in pair.variants if wanted(pair, variant)]
            shapes = sorted(
                {key[2] for key in found if key[:2] in {(pair.key, variant.name) for pair, variant in steps}}
            )
            if not shapes:
                continue
            text += f"\n### {setup_text(steps[0][0])}\n\n" + head(("step", "passes", *map(shape_text, shapes)))
            text += forward_line(found, steps, shapes) if bare else ""
            for pair, variant in steps:
                rows_of = {shape: found[key] for shape in shapes if (key := (pair.key, variant.name, shape)) in found}
                cells = [cell(pair, variant, shape, rows_of[shape]) if shape in rows_of else "" for shape in shapes]
                text += line([variant.name, next(iter(rows_of.values()))["passes"], *cells]) if any(cells) else ""
        return text

    def ratio(self, figure: Figure, row: Row) -> str:
        """The cell of a ratio with its spread and bar; it is counted if it has a bar."""
        self.figures += [figure] if figure.bar is not None else []
        return figure.cell(median_text(row))

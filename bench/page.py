"""What docs/performance.md shows of the results: tables with the bars beside the figures, met or not."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.cases import (
    ALL,
    ENGINES,
    FOUR,
    ON_CPU,
    ON_CUDA,
    ON_GPU,
    PUBLISHED_GAINS,
    STATELESS,
    STRATEGIES,
    TORCH,
    Engine,
    Pair,
    Shape,
    Way,
    cpu,
    gpu,
    usual,
)
from bench.results import FOLDER, Row, read

MIB = 1 << 20
KERNELS = "noise kernels"
STATELESS_OWNERS = (KERNELS, "scratch")
"""Owners that are no state of a method."""
BRIEF = ("full/float32/mezo", "full/float32/lozo")
BRIEF_WAYS = ("mezo, gaussian", "mezo, rademacher", "lozo", "lozo, batched", "published MeZO", "published LOZO")
"""What README shows."""
NONE = "No figure has been measured yet; `make bench` makes them."
NONE_ON_GPU = "No GPU figure has been measured yet; `make bench-gpu` makes them."
NONE_ON_ENGINES = "No figure has been measured yet; `make bench-engines` makes them."


@dataclass(frozen=True)
class Held:
    """A figure and its bar.

    Attributes:
        what: in words.
        value: as measured.
        bar: the most it may be; the least where `at_least`; None where there is none.
        at_least: which of the two.
        unit: of both.
    """

    what: str
    value: float
    bar: float | None
    at_least: bool = False
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the bar is met."""
        assert self.bar is not None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    @property
    def sign(self) -> str:
        """The bar in symbols."""
        return f"{'≥' if self.at_least else '≤'} {self.bar:.3g}{self.unit}"

    def cell(self, shown: str) -> str:
        """The figure as it is shown, its bar beside it."""
        if self.bar is None:
            return shown
        return f"{shown} ({self.sign}: met)" if self.is_met else f"**{shown}** ({self.sign}: **not met**)"


class Page:
    """The generated places of the page.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.cpu, self.gpu, self.engines = (read(folder / f"{name}.json") for name in ("cpu", "gpu", "engines"))
        self.held: list[Held] = []
        tables = {"steps": self.steps(), "gains": self.gains(), "memory": self.memory(), "passes": self.passes()}
        self.places = {**{name: text or NONE for name, text in tables.items()}, "gpu": self.on_gpu() or NONE_ON_GPU}
        self.places["engines"] = self.on_engines() or NONE_ON_ENGINES
        self.places |= {"runs": self.runs() or NONE, "bars": self.bars(), "brief": self.brief()}

    def steps(self) -> str:
        """Step ÷ its forwards, a table for each setup."""

        def cell(pair: Pair, way: Way, shape: Shape, row: Row) -> str:
            what = f"{words(pair)}, {way.name}, {times(shape)}"
            return self.ratio(Held(f"step ÷ its forwards, {what}", row["wall"]["median"], way.bars.get(shape)), row)

        return self.by_setup(self.cpu["rows"], cell, lambda pair, way: True, bare=True)

    def brief(self) -> str:
        """What README shows of them."""
        rows, pairs = keyed(self.cpu["rows"]), [pair for pair in cpu("smollm2-135m") if pair.key.endswith(BRIEF)]
        text = head(("rows × tokens", *BRIEF_WAYS))
        for shape in reversed(ALL):
            held = {way.name: rows.get((pair.key, way.name, shape)) for pair in pairs for way in pair.ways}
            text += line([times(shape), *(figure(row) if (row := held[name]) else "" for name in BRIEF_WAYS)])
        return text

    def gains(self) -> str:
        """How many times as fast as the published step each way is."""
        rows = keyed(self.cpu["rows"])

        def cell(pair: Pair, way: Way, shape: Shape, row: Row) -> str:
            gain = gained(rows, pair, shape, row)
            if gain is None:
                return ""
            what = f"times as fast as published, {words(pair)}, {way.name}, {times(shape)}"
            held = Held(what, gain, PUBLISHED_GAINS.get(shape), at_least=True)
            self.held.append(held)
            return held.cell(f"{gain:.3g}")

        return self.by_setup(self.cpu["rows"], cell, lambda pair, way: bool(way.settings and beside(pair)))

    def memory(self) -> str:
        """Peaks above inference, a table for each model."""
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
            order = [way.name for pair in cpu(model) for way in pair.ways]
            text += "".join(map(self.peak, sorted(rows, key=lambda row: order.index(row["step"]))))
        return text

    def peak(self, row: Row) -> str:
        """A line of the table of memory."""
        above, owners = row["peak"] - row["inference"], row["owners"]
        state = sum(size for name, size in owners.items() if name not in STATELESS_OWNERS)
        rest = (above - state - owners.get(KERNELS, 0)) / MIB
        bar = None if row["step"].startswith("published") else STATELESS * row["weights"] / MIB
        what = f"memory beside state and kernels, {row['model']}, {row['step']}: MiB"
        held = Held(what, rest, bar)
        self.held += [held] if bar is not None else []
        named = ", ".join(f"{name} {size / MIB:.1f}" for name, size in owners.items())
        cells = (row["step"], f"{row['peak'] / MIB:,.0f}", f"{above / MIB:,.1f}", f"{above / row['weights']:+.2f}")
        return line([*cells, named, "" if bar is None else held.cell(f"{rest:.1f}")])

    def passes(self) -> str:
        """Passes over the weights."""
        text = ""
        for dtype, over in (("float32", "reading and writing them"), ("bfloat16", "the same rounded to nearest")):
            rows = [row for row in self.cpu["rows"] if row["kind"] == "pass" and row["dtype"] == dtype]
            if rows:
                text += f"\n### {dtype} weights\n\n" + head(("pass", f"over {over}", "ns a weight"))
                text += "".join(line([row["step"], figure(row), f"{row['ns']:.3f}"]) for row in rows)
        return text

    def on_gpu(self) -> str:
        """Steps and peaks on a GPU, a table for each model."""
        rows, text = keyed(self.gpu["rows"]), ""
        for model in ON_CUDA:
            lines = [
                self.step_on_gpu(rows, pair, way, row)
                for pair in gpu(model)
                for way in pair.ways
                if (row := rows.get((pair.key, way.name, ON_GPU)))
            ]
            if lines:
                columns = ("step", "passes", "step ÷ its forwards", "times as fast as published", "peak, GiB")
                text += f"\n### {model}, bfloat16, {times(ON_GPU)}\n\n" + head((*columns, "peak ÷ inference"))
                text += "".join(lines)
        return text + ("\n" + self.listed(self.gpu["runs"]) if text else "")

    def step_on_gpu(self, rows: dict[Any, Row], pair: Pair, way: Way, row: Row) -> str:
        """A line of a GPU's table."""
        what = f"{pair.setup.model} on a GPU, {way.name}"
        ratio = self.ratio(Held(f"step ÷ its forwards, {what}", row["wall"]["median"], way.bars.get(ON_GPU)), row)
        gain = gained(rows, pair, ON_GPU, row) if way.settings else None
        peak, share = "", ""
        if "peak" in row:
            held = Held(f"peak ÷ inference, {what}", row["peak"] / row["inference"], way.peak)
            self.held += [held] if held.bar is not None else []
            peak, share = f"{row['peak'] / 2**30:.2f}", held.cell(f"{held.value:.3f}")
        return line([way.name, row["passes"], ratio, "" if gain is None else f"{gain:.3g}", peak, share])

    def on_engines(self) -> str:
        """Steps on adapters, a table of their seconds and one of what else there is to say about each engine."""
        steps = {(r["step"], r["pair"], tuple(r["shape"])): r for r in self.engines["rows"] if r["kind"] == "step"}
        shapes, text = sorted({shape for _, _, shape in steps}), ""
        if shapes:
            text += "\n" + head(
                ("engine", *(f"{times(shape)}: {strategy}" for shape in shapes for strategy in STRATEGIES))
            )
        for engine in ENGINES:
            cells = [steps.get((engine.name, strategy, shape)) for shape in shapes for strategy in STRATEGIES]
            text += line([engine.name, *(figure(row) if row else "" for row in cells)]) if any(cells) else ""
        columns = ("times as fast", "slopes agree by", "spread", "peak, MiB", "share")
        lines = [self.engine(engine, steps) for engine in ENGINES]
        text += "\n" + head(("engine, " + times(FOUR), *columns)) + "".join(lines) if text else ""
        return text + ("\n" + self.listed(self.engines["runs"]) if text else "")

    def engine(self, engine: Engine, steps: dict[Any, Row]) -> str:
        """A line of the second table; an engine and PyTorch each by its quicker strategy."""
        cells = ["", "", "", "", ""]

        def seconds(of: Engine) -> float | None:
            told = [steps[of.name, strategy, FOUR] for strategy in STRATEGIES if (of.name, strategy, FOUR) in steps]
            return min((row["wall"]["median"] for row in told), default=None)

        mine, theirs = seconds(engine), seconds(TORCH)
        if mine and theirs:
            cells[0] = self.cell(Held(f"times as fast as PyTorch, {engine.name}", theirs / mine, engine.times, True))
        others = {(row["kind"], row["step"]): row for row in self.engines["rows"]}
        if slope := others.get(("slope", engine.name)):
            cells[1:3] = f"{slope['agreement']:.4f}", f"{slope['spread']:.2f}"
        here, there = others.get(("engine peak", engine.name)), others.get(("engine peak", TORCH.name))
        if here and there:
            share = Held(f"peak over PyTorch's, {engine.name}", here["peak"] / there["peak"], engine.peak)
            cells[3:] = f"{here['peak'] / MIB:,.0f}", self.cell(share)
        return line([engine.name, *cells])

    def cell(self, held: Held) -> str:
        """A figure that counts among the bars if it has one."""
        self.held += [held] if held.bar is not None else []
        return held.cell(f"{held.value:.2f}")

    def bars(self) -> str:
        """How many bars are met, and which are not."""
        if not self.held:
            return NONE
        missed = [held for held in self.held if not held.is_met]
        text = f"{len(self.held) - len(missed)} of {len(self.held)} bars with a figure are met."
        lines = [f"- {held.what}: {held.value:.4g}, bar {held.sign}" for held in missed]
        return text + (" Not met:\n\n" + "\n".join(lines) if missed else "")

    def runs(self) -> str:
        """Where the figures come from."""
        return self.listed(self.cpu["runs"])

    def listed(self, runs: Iterable[Row]) -> str:
        """Runs as lines."""
        lines = []
        for run in runs:
            name = (run["accelerator"] or {}).get("name", f"{run['processor']}, {run['threads']} threads")
            versions = ", ".join(f"{what} {version}" for what, version in run["versions"].items())
            lines.append(f"- {run['date']}, {name}; {versions}: `{run['command']}`\n")
        return "".join(lines)

    def by_setup(
        self,
        rows: Sequence[Row],
        cell: Callable[[Pair, Way, Shape, Row], str],
        wanted: Callable[[Pair, Way], bool],
        bare: bool = False,
    ) -> str:
        """A table for each setup that has rows, a line for each way, a column for each shape."""
        found, text = keyed(rows), ""
        pairs = usual([pair for model in ON_CPU for pair in cpu(model)], every=True)
        for _, group in groupby(pairs, lambda pair: pair.setup.name):
            same = [(pair, way) for pair in group for way in pair.ways if wanted(pair, way)]
            shapes = sorted({key[2] for key in found if key[:2] in {(pair.key, way.name) for pair, way in same}})
            if not shapes:
                continue
            text += f"\n### {words(same[0][0])}\n\n" + head(("step", "passes", *map(times, shapes)))
            text += forwards(found, same, shapes) if bare else ""
            for pair, way in same:
                held = {shape: found[key] for shape in shapes if (key := (pair.key, way.name, shape)) in found}
                cells = [cell(pair, way, shape, held[shape]) if shape in held else "" for shape in shapes]
                text += line([way.name, next(iter(held.values()))["passes"], *cells]) if any(cells) else ""
        return text

    def ratio(self, held: Held, row: Row) -> str:
        """A figure with its spread and bar."""
        self.held += [held] if held.bar is not None else []
        return held.cell(figure(row))


def keyed(rows: Iterable[Row]) -> dict[Any, Row]:
    """Steps by (pair, name, shape)."""
    steps = (row for row in rows if row["kind"] == "step")
    return {(f"{row['setup']}/{row['pair']}", row["step"], tuple(row["shape"])): row for row in steps}


def forwards(found: dict[Any, Row], same: Sequence[tuple[Pair, Way]], shapes: Sequence[Shape]) -> str:
    """The line of bare forward passes, of one setup."""
    keys = [(pair.key, way.name) for pair, way in same]
    medians = [statistics.median(found[(*k, s)]["bare_ms"] for k in keys if (*k, s) in found) for s in shapes]
    return line(["bare forward", 1, *(f"{median:,.1f} ms" for median in medians)])


def beside(pair: Pair) -> Way | None:
    """The published step of a pair, if it has one."""
    return next((way for way in pair.ways if way.published), None)


def gained(rows: dict[Any, Row], pair: Pair, shape: Shape, row: Row) -> float | None:
    """Seconds of the published step over those of a row."""
    published = beside(pair)
    other = rows.get((pair.key, published.name, shape)) if published else None
    if other is None:
        return None
    return float(other["wall"]["median"] * other["passes"] / (row["wall"]["median"] * row["passes"]))


def words(pair: Pair) -> str:
    """A setup in words."""
    return pair.setup.name.replace("/", ", ")


def times(shape: Shape) -> str:
    """A shape as a heading."""
    return f"{shape[0]} × {shape[1]}"


def figure(row: Row) -> str:
    """Median and spread on the wall's clock."""
    return f"{row['wall']['median']:.2f} ± {row['wall']['spread']:.2f}"


def head(names: Sequence[str]) -> str:
    """The first two lines of a table."""
    return line(names) + line(["---"] + ["---:"] * (len(names) - 1))


def line(cells: Sequence[Any]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |\n"

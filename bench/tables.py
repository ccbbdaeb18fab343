"""Figures with their bars, and the Markdown tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cases import Pair, Shape, Variant
from bench.results import Row


@dataclass(frozen=True)
class Figure:
    """A measured figure and the bar that it has to meet.

    Attributes:
        what: its description.
        value: as measured.
        bar: the most it may be, or with `at_least` the least; None for no bar.
        at_least: whether the bar is a lower bound.
        unit: of value and bar.
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

    @property
    def mark(self) -> str:
        """Whether the bar is met, in words."""
        return "met" if self.is_met else "**not met**"

    def cell(self, shown: str) -> str:
        """The text of a table's cell: the figure as shown, its bar, and whether that is met."""
        if self.bar is None:
            return shown
        return f"{shown if self.is_met else f'**{shown}**'} ({self.sign}: {self.mark})"


def by_case(rows: Iterable[Row]) -> dict[Any, Row]:
    """The rows of steps by (pair, name, shape)."""
    steps = (row for row in rows if row["kind"] == "step")
    return {(f"{row['setup']}/{row['pair']}", row["step"], tuple(row["shape"])): row for row in steps}


def forward_line(found: dict[Any, Row], steps: Sequence[tuple[Pair, Variant]], shapes: Sequence[Shape]) -> str:
    """The line with the time of a bare forward pass, for one setup."""
    keys = [(pair.key, variant.name) for pair, variant in steps]
    medians = [statistics.median(found[(*k, s)]["bare_ms"] for k in keys if (*k, s) in found) for s in shapes]
    return line(["bare forward", 1, *(f"{median:,.1f} ms" for median in medians)])


def published_variant(pair: Pair) -> Variant | None:
    """The published step of a pair; None if it has none."""
    return next((variant for variant in pair.variants if variant.published), None)


def speed_up(rows: dict[Any, Row], pair: Pair, shape: Shape, row: Row) -> float | None:
    """Time of the published step divided by that of a row; None where the former was not measured."""
    published = published_variant(pair)
    other = rows.get((pair.key, published.name, shape)) if published else None
    return None if other is None else times_as_fast(row, other)


def times_as_fast(row: Row, other: Row) -> float:
    """Time of the step of another row, measured beside it, divided by that of a row."""
    return float(other["wall"]["median"] * other["passes"] / (row["wall"]["median"] * row["passes"]))


def setup_text(pair: Pair) -> str:
    """The setup of a pair as a heading."""
    return pair.setup.name.replace("/", ", ")


def shape_text(shape: Shape) -> str:
    """A shape as a heading: rows × tokens."""
    return f"{shape[0]} × {shape[1]}"


def median_text(row: Row) -> str:
    """Median and spread of the wall-clock ratio."""
    return f"{row['wall']['median']:.2f} ± {row['wall']['spread']:.2f}"


def head(names: Sequence[str]) -> str:
    """The first two lines of a table."""
    return line(names) + line(["---"] + ["---:"] * (len(names) - 1))


def line(cells: Sequence[Any]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |\n"

"""The tables of docs/explanation/scaling.md: steps as measured and as predicted, and what 1,024 ranks would take."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.results import FOLDER, Row, read
from bench.scaling_model import Line, Work, fitted, step_seconds
from bench.tables import head, line

NONE = "No figure has been measured yet; `python bench/scaling.py` makes them."
QUARTILES = 1.349
"""Between the quartiles of a normal distribution, in standard deviations."""
LONG = 2000
"""Steps that are simulated for a case that was measured."""
FEWEST, ENOUGH = 10, 4096
"""The same in the projection: fewest steps, and steps × ranks that are enough."""
FAR = Line(delay=0.05, bandwidth=12.5e6)
"""A wide-area network: 100 ms there and back, 100 Mbit/s for each rank."""
LOST = 0.01
FORWARD = 1.0
"""Seconds of a forward pass of the whole batch in the projection."""
POINTS = 1024
SPREAD = 0.1
"""Of the seconds of a rank in the projection."""
MANY = (1, 4, 16, 64, 256, 1024)


def places(folder: Path = FOLDER) -> dict[str, str]:
    """Markdown by the name of its mark in the page."""
    found = read(folder / "scaling.json")
    rows = found["rows"]
    if not rows:
        return dict.fromkeys(("scaling-fit", "scaling-steps", "scaling-far"), NONE)
    return {"scaling-fit": fits(rows), "scaling-steps": steps(rows, found["runs"]), "scaling-far": far(rows)}


def work_of(rows: Sequence[Row], setup: str) -> Work:
    """The work of one rank, fitted to its steps."""
    alone = [row for row in rows if row["setup"] == setup and row["size"] == 1]
    return fitted([(row["queries"], points_of(row) // row["of"], row["rows"], row["mean"] / 1000) for row in alone])


def spread_of(rows: Sequence[Row], setup: str) -> float:
    """Standard deviation of the steps of one rank over their mean, by their quartiles, as of a normal distribution."""
    alone = [row for row in rows if row["setup"] == setup and row["size"] == 1]
    return float(statistics.median((row["high"] - row["low"]) / QUARTILES / row["mean"] for row in alone))


def points_of(row: Row) -> int:
    """Points of a step of two-sided MeZO."""
    return 2 * int(row["queries"])


def line_of(rows: Sequence[Row]) -> Line:
    """What exchanges take without delay, alone, and the bytes of a message."""
    two, four = sorted((row for row in rows if row["size"] > 1 and not row["queries"]), key=lambda row: row["size"])
    software, peer = two["mean"] / 1000, (four["mean"] - two["mean"]) / 2000
    return Line(software=software, peer=max(0.0, peer), message=four["line"] / (four["size"] - 1))


def predicted(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Steps of several ranks, each with the milliseconds that the model gives; it has not seen any of them."""
    setups, between = {row["setup"] for row in rows}, line_of(rows)
    alone = {setup: (work_of(rows, setup), spread_of(rows, setup)) for setup in setups}
    for row in rows:
        if row["size"] > 1 and row["queries"]:
            shape = (row["queries"], points_of(row), row["rows"])
            work, spread = alone[row["setup"]]
            seconds = work.shared(row["parallel"], row["size"], *shape)
            there = replace(between, delay=row["delay"], loss=row["loss"])
            yield row, 1000 * step_seconds(seconds, row["size"], there, spread=spread, steps=LONG)


def fits(rows: Sequence[Row]) -> str:
    """What the model was fitted to."""
    text = head(("forward passes", "a direction, ms", "a point, ms", "a row of a point, ms", "spread of steps"))
    for setup in dict.fromkeys(row["setup"] for row in rows):
        work = work_of(rows, setup)
        cells = [f"{1000 * value:.1f}" for value in (work.query, work.point, work.row)]
        text += line([setup, *cells, f"{100 * spread_of(rows, setup):.0f} %"])
    between = line_of(rows)
    return text + (
        f"\nAn exchange without delay takes {1000 * between.software:.2f} ms between two ranks, and "
        f"{1000 * between.peer:.2f} ms more for each further one."
    )


def steps(rows: Sequence[Row], runs: Sequence[Row]) -> str:
    """Every measured case of several ranks beside its prediction."""
    names = ("forward passes", "shared", "ranks", "delay, ms", "loss", "measured, ms", "predicted, ms", "difference")
    text = head((*names, "bytes exchanged", "bytes on the line", "packets"))
    for row, model in predicted(rows):
        cells = [row["setup"], row["parallel"], row["size"], f"{1000 * row['delay']:g}", f"{100 * row['loss']:g} %"]
        cells += [f"{row['mean']:.1f}", f"{model:.1f}", f"{100 * (model / row['mean'] - 1):+.0f} %"]
        text += line([*cells, f"{row['sent']:.0f}", f"{row['line']:,.0f}", f"{row['packets']:.0f}"])
    return text + "".join(
        f"\n- `{run['command']}`, {run['date']}, {run['processor']}, torch {run['versions']['torch']}, "
        f"commit {run['commit']}."
        for run in runs
    )


def far(rows: Sequence[Row]) -> str:
    """Many ranks over a wide-area network, each with some of the points of a step."""
    measured, work = line_of(rows), Work(0.0, FORWARD, 0.0)
    without = replace(FAR, software=measured.software, peer=measured.peer, message=measured.message)
    lossy = replace(without, loss=LOST)
    columns = ("mesh", "mesh, 1 % lost", "star", "star, 1 % lost", "ring")
    text = head(("ranks", *(f"{name}, s" for name in columns), "mesh: times as fast", "bytes on the line"))
    for size in MANY:
        seconds, count = work.shared("queries", size, POINTS, POINTS, 1), max(FEWEST, ENOUGH // size)
        cells = [
            step_seconds(seconds, size, there, pattern, SPREAD, count)
            for there, pattern in ((without, "mesh"), (lossy, "mesh"), (without, "star"), (lossy, "star"))
        ]
        cells.append(step_seconds(seconds, size, without, "ring", SPREAD, count))
        shown = [f"{value:,.2f}" for value in cells]
        text += line(
            [f"{size:,}", *shown, f"{POINTS * FORWARD / cells[0]:.0f}", f"{(size - 1) * without.message:,.0f}"]
        )
    return text

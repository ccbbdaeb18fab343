"""Progress of a run while it goes on, and its summary at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from zoplat import __version__
from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.config.usual import OWN, value_of
from zoplat.core.device import Session
from zoplat.registry import catalogue
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.outlook import Outlook
from zoplat.training.profiling import Suggestion
from zoplat.training.progress import Progress as RunProgress
from zoplat.training.result import Result

INTERVAL = 10.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def display(as_json: bool, quiet: bool) -> Iterator[Callback]:
    """A callback that shows progress: a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield Callback()
        return
    console = plain_console(stderr=as_json)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = ("{task.description}", BarColumn(), "{task.completed:g}/{task.total:g} {task.fields[unit]}")
    tail = (
        "· {task.fields[passes]} passes · loss {task.fields[loss]} · dev {task.fields[dev]} ·",
        TimeRemainingColumn(),
    )
    texts = [TextColumn(column) if isinstance(column, str) else column for column in (*columns, *tail)]
    with Progress(*texts, console=console, transient=True) as bar:
        yield Bar(console, bar)


def plain_console(stderr: bool = False) -> Console:
    """A console that prints names and paths as they are: brackets and colons in them mean nothing."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    console.soft_wrap = not console.is_terminal  # lines stay whole in files and pipes
    return console


class Lines(Callback):
    """Prints lines: when the model is open, every ten seconds, and for each evaluation."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.recent: list[float] = []
        self.dev = "–"
        self.skipped = 0
        self.printed = time.monotonic()
        self.pace = Pace()

    def limited(self, text: str) -> None:
        self.console.print(text)

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        self.config, facts, name_of = config, session.facts, catalogue().name_of
        law, rule = law_of(config.estimator), name_of("step-rule", config.estimator.rule)
        parts = f"{name_of('sampler', law)}, {rule}" if law else rule
        share = f"{facts['trainable_parameters']:,} trainable weights ({config.tune.name})"
        self.console.print(
            f"zoplat {__version__} ·",
            Text(config.estimator_name, "bold"),
            f"({parts}) · {config.task} · seed {config.seed}\n"
            f"{facts['model']} in {facts['dtype']} · {share} · device {facts['device']} · {facts['threads']} threads\n"
            f"{self.rates(config)}run directory {directory}",
        )
        if config.tune.is_adapter and config.origins.get("lr", "").endswith(OWN):
            self.warned(
                f"lr {value_of(config.estimator, 'lr'):g} is not made for {config.tune.name}: adapters mostly need "
                "an lr of 1e-3 or more and an eps of 1e-2. Give --lr and --eps"
            )

    @staticmethod
    def rates(config: RunConfig) -> str:
        """One line with the step size and ε, and where each comes from; empty where that is not known."""
        known = [(name, value_of(config.estimator, name), where) for name, where in config.origins.items()]
        texts = [f"{name} {value:g} ({where})" for name, value, where in known]
        return " · ".join(texts) + "\n" if texts else ""

    def resumed(self, step: int) -> None:
        self.console.print(f"resumed: {step} steps restored from the checkpoint and the journal")

    def stepped(self, progress: RunProgress, loss: float | None) -> None:
        if loss is not None:
            self.recent = [*self.recent[-19:], loss]
        self.note_skipped(progress)
        if text := self.pace.after(progress, self.config):
            self.console.print(text)
        if time.monotonic() - self.printed > INTERVAL:
            self.printed = time.monotonic()
            self.console.print(
                f"step {progress.step} · {progress.passes} passes · loss {self.loss} · dev {self.dev} · "
                f"{progress.seconds:.0f} s{self.left(progress)}"
            )

    def evaluated(self, record: dict[str, Any]) -> None:
        if record["split"] == "dev":
            self.dev = f"{record['score']:.1%}"
        self.pace.scored(record)
        kept = ", from an earlier run" if record["kept"] else ""
        self.console.print(
            f"step {record['step']}: {record['split']} {record['metric']}",
            Text(f"{record['score']:.1%}", "bold"),
            f"({record['rows']} rows{kept})",
        )

    def warned(self, text: str) -> None:
        self.console.print(Text("Warning:", "yellow"), text)

    def judged(self, progress: RunProgress, outlook: Outlook) -> None:
        style = {"learning": "green", "diverging": "red", "not learning": "yellow"}.get(outlook.word, "")
        self.console.print(f"after {progress.passes} passes:", Text(f"{outlook}", style))

    def note_skipped(self, progress: RunProgress) -> None:
        """Say it when the first step is skipped; the summary has how many were."""
        if progress.skipped and not self.skipped:
            self.warned(f"step {progress.step} was skipped, for example because its loss was not finite")
        self.skipped = progress.skipped

    @property
    def loss(self) -> str:
        """Mean of the newest losses, as text."""
        return f"{sum(self.recent) / len(self.recent):.3f}" if self.recent else "–"

    def left(self, progress: RunProgress) -> str:
        """Estimate of the time left, as text; empty where the budget is only time."""
        share = progress.share(self.config)
        return f" · about {duration(progress.seconds / share * (1 - share))} left" if share else ""


class Pace:
    """How long a run will take here, said once: after its second step in this process, which warms nothing up."""

    def __init__(self) -> None:
        self.first: RunProgress | None = None
        self.is_said = False
        self.scoring: dict[str, float] = {}

    def scored(self, record: dict[str, Any]) -> None:
        """A split was scored; the record is a line of metrics.jsonl."""
        if not record["kept"]:
            self.scoring[record["split"]] = record["seconds"]

    def after(self, progress: RunProgress, config: RunConfig) -> str:
        """What to say after a step; mostly nothing."""
        if self.is_said or progress.is_over(config):
            return ""
        if self.first is None:
            self.first = replace(progress)
            return ""
        step, done = progress.seconds - self.first.seconds, progress.share(config)
        gained = done - (self.first.share(config) or 0) if done is not None else 0
        left = (1 - (done or 0)) / gained if gained else math.inf
        for budget, spent, before in (
            (config.max_seconds, progress.seconds, self.first.seconds),
            (config.max_tokens, progress.tokens or 0, self.first.tokens or 0),
            (config.max_joules, progress.joules, self.first.joules),
        ):
            if budget and spent > before:
                left = min(left, (budget - spent) / (spent - before))
        if math.isinf(left):  # a skipped step brought a budget of passes no nearer to its end
            return ""
        self.is_said, left = True, math.ceil(left)
        evaluations = left // config.evaluate_every + 1 if config.evaluate_every else 1
        scoring = evaluations * self.scoring.get("dev", 0.0) + self.scoring.get("test", 0.0)
        also = f" and {duration(scoring)} of scoring" if scoring else ""
        return f"a step takes {step:.2g} s here: about {duration(left * step)} of training{also} ahead"


def duration(seconds: float) -> str:
    """Seconds in the unit in which people say them.

    >>> duration(12.3), duration(500), duration(9000)
    ('12 s', '8 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


class Bar(Lines):
    """A progress bar in place of the lines between evaluations."""

    def __init__(self, console: Console, bar: Progress) -> None:
        super().__init__(console)
        self.bar = bar

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        super().opened(config, session, directory)
        names = {"steps": "steps", **{unit: f"max_{unit}" for unit in ("passes", "seconds", "tokens", "joules")}}
        self.unit, total = next((unit, total) for unit, name in names.items() if (total := getattr(config, name)))
        self.line = self.bar.add_task("training", total=total, unit=self.unit, passes=0, loss="–", dev="–")

    def stepped(self, progress: RunProgress, loss: float | None) -> None:
        if loss is not None:
            self.recent = [*self.recent[-19:], loss]
        self.note_skipped(progress)
        if text := self.pace.after(progress, self.config):
            self.console.print(text)
        done = {**vars(progress), "steps": progress.step}[self.unit]
        self.bar.update(self.line, completed=done, passes=progress.passes, loss=self.loss, dev=self.dev)


def print_summary(result: Result) -> None:
    """Print the scores of a run, its cost, and its memory by phase."""
    console, summary = plain_console(), result.summary
    scores = Table("", "before", "after", box=None, pad_edge=False)
    for split, (before, after) in summary.scores.items():
        scores.add_row(f"{split} {summary.metric}", f"{before:.1%}", Text(f"{after:.1%}", "bold"))
    ratio = summary.overhead_ratio
    cost = f"; a step costs {ratio} × its forward passes" if ratio else ""
    console.print()
    console.print(scores)
    console.print(
        f"\n{summary.steps} steps, {summary.forward_passes} forward passes, "
        f"{summary.seconds_training:.0f} s of training, {summary.seconds:.0f} s in all; "
        f"the loss was {summary.loss_trend}{cost}"
    )
    if summary.skipped_steps:
        why = "the losses all being the same, or not finite" if summary.step_rule == "normalized" else ""
        console.print(f"{summary.skipped_steps} of {summary.steps} steps skipped, {why or 'the loss not being finite'}")
    if (summary.outlook and summary.outlook != "learning") or summary.advice:
        console.print(f"{summary.outlook}".capitalize() + (f". {summary.advice}" if summary.advice else ""))
    if summary.general_kl is not None:
        console.print(
            f"general text: loss {summary.general_loss_before:.4f} → {summary.general_loss_after:.4f} nats a token, "
            f"KL(before ‖ after) {summary.general_kl:.2g}"
        )
    console.print()
    console.print(memory_table(result))
    console.print(f"\n{memory_line(result)}")
    console.print(f"\nrun directory: {result.directory}\npicture: zoplat report {result.directory}")


def memory_line(result: Result) -> str:
    """Peak memory of the whole run and of inference alone, opening the model included in both."""
    whole, before = result.summary.peak_bytes, result.summary.inference_peak_bytes
    place = "device" if whole.device else "host"
    peak, inference = (whole.device, before.device) if whole.device else (whole.host, before.host)
    if not inference:
        return f"peak {place} memory {mebibytes(peak)}"
    return (
        f"peak {place} memory {mebibytes(peak)}, {peak / inference:.2f} × the {mebibytes(inference)} that opening the "
        "model and inference alone need"
    )


def memory_table(result: Result) -> Table:
    """Seconds and peak memory by phase, and the ratio to the peak of inference."""
    table = Table("phase", "seconds", "peak memory", "of inference", box=None, pad_edge=False)
    phases = [row for row in RunDirectory(result.directory).read_memory() if row["kind"] == "phase"]
    peaks = {row["phase"]: row["device_peak"] or row["host_peak"] for row in phases}
    inference = max(peaks.get(phase, 0) for phase in ("inference", "baseline"))
    for row in phases:
        peak = peaks[row["phase"]]
        table.add_row(
            row["phase"], f"{row['seconds']:.1f}", mebibytes(peak), f"{peak / inference:.2f}" if inference else "–"
        )
    return table


def mebibytes(count: int) -> str:
    """A number of bytes in MiB, as text."""
    return f"{count / 2**20:,.0f} MiB"


def print_profile(measured: dict[str, Any]) -> None:
    """Print phases and owners, as `training.profiling.profile` measured them."""
    console = plain_console()
    console.print(
        f"{measured['estimator']} on {measured['model']} "
        f"({measured['device']}, {measured['dtype']}, restore {measured['restore']}): "
        f"{measured['seconds_a_step']:.3f} s and {measured['forward_passes_a_step']:g} forward passes a step"
    )
    table = Table("phase", "seconds", "of", "peak, host", "device", box=None)
    for row in measured["phases"]:
        device = "–" if row["device_peak"] is None else mebibytes(row["device_peak"])
        table.add_row(row["phase"], f"{row['seconds']:.3f}", row["of"], mebibytes(row["host_peak"]), device)
    console.print(table)
    shown = [row for row in measured["phases"] if row["owners"]]
    owners = Table("owner", *(row["phase"] for row in shown), box=None)
    for name in dict.fromkeys(name for row in shown for name in row["owners"]):
        owners.add_row(name, *(mebibytes(row["owners"][name]) if name in row["owners"] else "–" for row in shown))
    console.print(owners)
    probes = Table("probe", "quantity", "mean", "most", "in all", box=None)
    for row in measured["probes"]:
        values = (row["mean"], row["most"], row["total"])
        probes.add_row(row["probe"], row["quantity"], *(_in_unit(value, row["unit"]) for value in values))
    if probes.row_count:
        console.print(probes)


def _in_unit(value: float | None, unit: str) -> str:
    """A reading of a machine probe, as text."""
    if value is None:
        return "–"
    return mebibytes(int(value)) if unit == "B" else f"{value:,.1f} {unit}"


def print_radii(found: Suggestion) -> None:
    """Print the radii that were tried, and the suggested one."""
    console = plain_console()
    table = Table("ε", "slopes differ from those at the next ε by", box=None)
    for eps, error in found.error.items():
        mark = "  ← suggested" if eps == found.eps else ""
        table.add_row(f"{eps:.1e}", f"{100 * error:.1f} %{mark}" if math.isfinite(error) else "not finite")
    console.print(table)
    console.print(f"--eps {found.eps:.1e}   noise of a loss {found.noise:.1e}, {found.passes} forward passes")


def print_agreement(found: dict[str, Any]) -> None:
    """Print the cosines of estimates with the gradient, as `training.agreement.agreement` measured them."""
    console, cosines = plain_console(), found["cosines"]
    alone = 1 / math.sqrt(found["weights"])
    console.print(
        f"{found['estimator']}, {len(cosines)} estimates in {found['steps']} steps: cosine with the gradient of their "
        f"batch {found['mean']:.4f} on average, {min(cosines):.4f} to {max(cosines):.4f}; one random direction among "
        f"{found['weights']:,} weights has {alone:.4f}"
    )
    table = Table("block", "mean cosine", box=None)
    for name, cosine in found["blocks"].items():
        table.add_row(name, f"{cosine:.4f}")
    console.print(table)

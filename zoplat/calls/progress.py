"""The progress of a run while it goes on: on a terminal, in a notebook, and in a file of output."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.config.usual import OWN, value_of
from zoplat.core.device import Session
from zoplat.core.notices import counted
from zoplat.registry import catalogue
from zoplat.training.callbacks import Callback
from zoplat.training.outlook import Outlook
from zoplat.training.progress import Progress as RunProgress
from zoplat.training.summary import Summary

INTERVAL = 10.0
"""Seconds between lines of progress where there is no terminal."""


EVERY = 0.25
"""Seconds between changes of what a notebook shows."""


@contextmanager
def display(as_json: bool, quiet: bool) -> Iterator[Callback]:
    """A callback that shows progress for a command: a bar on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield Callback()
        return
    console = plain_console(stderr=as_json)
    if not console.is_terminal:
        yield Lines(console)
        return
    with Progress(*_columns(), console=console, transient=True) as bar:
        yield Bar(console, bar)


@contextmanager
def shown(progress: bool | None) -> Iterator[Callback]:
    """A callback that shows the progress of a function.

    Args:
        progress: whether to; None for in a notebook only, where somebody looks on. A script prints nothing unasked.
    """
    if not (is_notebook() if progress is None else progress):
        yield Callback()
    elif is_notebook():
        yield Cell(plain_console(), Progress(*_columns()))
    else:
        with display(as_json=False, quiet=False) as callback:
            yield callback


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _columns() -> list[ProgressColumn]:
    """What a bar consists of."""
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:g}/{task.total:g} {task.fields[unit]}"),
        TextColumn("· {task.fields[passes]} passes · loss {task.fields[loss]} · dev {task.fields[dev]} ·"),
        TimeRemainingColumn(),
    ]


def plain_console(stderr: bool = False) -> Console:
    """A console that prints names and paths as they are: brackets and colons in them mean nothing."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, force_jupyter=False)
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
            f"zoplat {version('zoplat')} ·",
            Text(config.estimator_name, "bold"),
            f"({parts}) · {config.task} · seed {config.seed}\n"
            f"{facts['model']} in {facts['dtype']} · {share} · device {facts['device']} · "
            f"{counted(facts['threads'], 'thread')}\n"
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
        self.console.print(f"resumed: {counted(step, 'step')} restored from the checkpoint and the journal")

    def stepped(self, progress: RunProgress, loss: float | None) -> None:
        self.follow(progress, loss)
        if time.monotonic() - self.printed > INTERVAL:
            self.printed = time.monotonic()
            self.console.print(
                f"step {progress.step} · {counted(progress.passes, 'pass')} · loss {self.loss} · dev {self.dev} · "
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
            f"({counted(record['rows'], 'row')}{kept})",
        )

    def warned(self, text: str) -> None:
        self.console.print(Text("Warning:", "yellow"), text)

    def judged(self, progress: RunProgress, outlook: Outlook) -> None:
        style = {"learning": "green", "diverging": "red", "not learning": "yellow"}.get(outlook.word, "")
        self.console.print(f"after {counted(progress.passes, 'pass')}:", Text(f"{outlook}", style))

    def follow(self, progress: RunProgress, loss: float | None) -> None:
        """Take in a step: its loss, whether it was skipped, and once how long the run will take."""
        if loss is not None:
            self.recent = [*self.recent[-19:], loss]
        self.note_skipped(progress)
        if text := self.pace.after(progress, self.config):
            self.console.print(text)

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
        return f" · about {duration(progress.seconds / share * (1 - share))} left" if share and share < 1 else ""


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
        self.follow(progress, loss)
        done = {**vars(progress), "steps": progress.step}[self.unit]
        self.bar.update(self.line, completed=done, passes=progress.passes, loss=self.loss, dev=self.dev)


class Cell(Bar):
    """The bar in the output of a notebook's cell, which the front end replaces as it changes; no widgets are needed."""

    def __init__(self, console: Console, bar: Progress) -> None:
        super().__init__(console, bar)
        self.changed, self.handle = 0.0, None  # type: float, Any

    def stepped(self, progress: RunProgress, loss: float | None) -> None:
        super().stepped(progress, loss)
        if time.monotonic() - self.changed > EVERY:
            self.show()

    def finished(self, summary: Summary) -> None:
        super().finished(summary)
        self.show()

    def show(self) -> None:
        """Show the bar as it is now."""
        from IPython.display import display as shown_in_cell

        self.changed = time.monotonic()
        if self.handle is None:
            self.handle = shown_in_cell(self.bar, display_id=True)
        else:
            self.handle.update(self.bar)

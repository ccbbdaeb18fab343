"""Asking a model without training it: with no examples, with some in the prompt, or through a probe of its features."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoplat import probe
from zoplat.batches import by_length, derived_seed
from zoplat.device import LOSSES, Example, Head, Row, Session
from zoplat.errors import ZoplatError
from zoplat.metrics import metric
from zoplat.objective import answers
from zoplat.settings import RunConfig
from zoplat.tasks import Template, data

NOTHING = "N/A"
"""What stands in the place of every text in a prompt about nothing (Zhao et al., arXiv:2102.09690)."""


@dataclass(frozen=True)
class Way:
    """How the model is asked.

    Attributes:
        shots: solved examples of the training split before every prompt; the same for all rows.
        calibrate: take off an option's log-probability what it has after a prompt without content (Holtzman et al.,
            arXiv:2104.08315).
        probe: a linear classifier on the features of the last layer, fitted on the training split, answers in place
            of the model.
    """

    shots: int = 0
    calibrate: bool = False
    probe: bool = False

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ZoplatError(f"shots must be 0 or more, got {self.shots}  (--shots)")
        if self.probe and (self.shots or self.calibrate):
            raise ZoplatError("--probe answers by a classifier of its own; leave --shots and --calibrate out.")

    @property
    def name(self) -> str:
        """What tables call it."""
        if self.probe:
            return "linear-probe"
        return (f"icl-{self.shots}" if self.shots else "zero-shot") + ("-calibrated" if self.calibrate else "")


def evaluate(config: RunConfig, session: Session, splits: dict[str, data.Rows], way: Way, split: str) -> dict[str, Any]:
    """Score of one split at the weights as they stand.

    Args:
        config: the task, the template, the size of batches and the seed.
        session: an opened model.
        splits: rows of the task.
        way: how it is asked.
        split: which rows.

    Raises:
        ZoplatError: the task or the device can't be asked in this way.
    """
    task, began = data.find(config.task), time.perf_counter()
    asking = Asking(config, session, tuple(_chosen(splits["train"], way.shots, config.seed)))
    examples = [asking.example(row, where) for where, row in splits[split]]
    if way.probe:
        told = _probed(asking, splits["train"], asking.encoded(examples))
    elif way.calibrate:
        told = _calibrated(asking, splits[split])
    else:
        told = answered(session, asking.encoded(examples), config.read_at_once)
    return {
        "status": "done",
        "way": way.name,
        "task": config.task,
        "split": split,
        "rows": len(examples),
        "shots": way.shots,
        "metric": task.metric,
        "score": metric(task.metric)(told, [example.right for example in examples]),
        "seconds": round(time.perf_counter() - began, 3),
        **{name: session.facts.get(name) for name in ("model", "device", "dtype", "head")},
        "seed": config.seed,
    }


def answered(session: Session, rows: Sequence[Row], size: int) -> list[str]:
    """What the model answers to each row, read in batches of similar length."""
    told = [""] * len(rows)
    for batch in by_length(rows, size):
        for i, answer in zip(batch, answers(session, [rows[i] for i in batch]), strict=True):
            told[i] = answer
    return told


@dataclass(frozen=True)
class Asking:
    """How rows of a task become what a model reads.

    Attributes:
        config: the task, the template and the objective.
        session: has the model.
        shown: rows whose solution stands before every prompt.
    """

    config: RunConfig
    session: Session
    shown: Sequence[tuple[str, dict[str, Any]]] = ()

    def rows(self, raw: data.Rows) -> list[Row]:
        """Encoded, in their order."""
        return self.encoded([self.example(row, where) for where, row in raw])

    def encoded(self, examples: Sequence[Example]) -> list[Row]:
        """Examples with what stands before all of them, encoded."""
        solved = [self.example(row, where) for where, row in self.shown]
        before = "".join(f"{e.prompt}{e.options[e.label]}{e.suffix}".rstrip() + "\n\n" for e in solved)
        return self.session.encode(self._as_chat([replace(e, prompt=before + e.prompt) for e in examples]))

    def example(self, row: dict[str, Any], where: str) -> Example:
        """One row as text."""
        example = data.find(self.config.task).example(row, where, _template(self.config.template, self.session.head))
        loss = next((known for known in LOSSES if known == self.config.objective), None)
        return replace(example, loss=loss) if loss else example

    def _as_chat(self, examples: list[Example]) -> list[Example]:
        if self.config.template != "chat":
            return examples
        turns = self.session.chat([example.prompt for example in examples])
        told = zip(examples, turns, strict=True)
        return [replace(e, prompt=turn, options=tuple(option.lstrip() for option in e.options)) for e, turn in told]


def _template(asked: str, head: Head) -> Template:
    if asked == "auto":
        return "cloze" if head == "masked" else "plain" if head == "classifier" else "prompt"
    return "plain" if asked == "plain" else "prompt"


def _chosen(rows: data.Rows, count: int, seed: int) -> data.Rows:
    if count > len(rows):
        raise ZoplatError(f"--shots {count} is more than the {len(rows)} training rows.")
    return random.Random(derived_seed(seed, "shots")).sample(rows, count)


def _calibrated(asking: Asking, raw: data.Rows) -> list[str]:
    """Best options by Σ log p(option | prompt) − Σ log p(option | the same prompt about nothing)."""
    task = data.find(asking.config.task)
    if task.generates:
        raise ZoplatError(f"--calibrate compares options, and task '{asking.config.task}' has none.")
    real = [replace(asking.example(row, where), score="sum") for where, row in raw]
    empty = [asking.example({**row, **dict.fromkeys(task.fields, NOTHING)}, where) for where, row in raw]
    bare = [replace(e, prompt=about.prompt, suffix=about.suffix) for e, about in zip(real, empty, strict=True)]
    different = list(dict.fromkeys(replace(e, label=0, answers=()) for e in bare))
    known = dict(zip(different, _scores(asking, different), strict=True))
    told = []
    for example, blank, scores in zip(real, bare, _scores(asking, real), strict=True):
        expected = known[replace(blank, label=0, answers=())]
        gains = [score - without for score, without in zip(scores, expected, strict=True)]
        told.append(example.best(gains))
    return told


def _scores(asking: Asking, examples: Sequence[Example]) -> list[list[float]]:
    rows = asking.encoded(examples)
    told: list[list[float]] = [[] for _ in rows]
    for batch in by_length(rows, asking.config.read_at_once):
        for i, scores in zip(batch, asking.session.scores([rows[i] for i in batch]), strict=True):
            told[i] = scores
    return told


def _probed(asking: Asking, training: data.Rows, rows: Sequence[Row]) -> list[str]:
    """The class that a logistic regression on the features of the training rows gives to each row."""
    config = asking.config
    if not data.find(config.task).classes:
        raise ZoplatError(f"--probe predicts classes, and the options of task '{config.task}' change from row to row.")
    if "features" not in config.device.answers:
        raise ZoplatError(f"--probe needs the features of a model, which '{config.device_name}' does not give.")
    known = asking.rows(training)
    labels = [row.example.label for row in known]
    classes = probe.fit_and_predict(_features(asking, known), labels, _features(asking, rows))
    return [row.example.options[number].strip() for row, number in zip(rows, classes, strict=True)]


def _features(asking: Asking, rows: Sequence[Row]) -> list[list[float]]:
    told: list[list[float]] = [[] for _ in rows]
    for batch in by_length(rows, asking.config.read_at_once):
        for i, features in zip(batch, asking.session.features([rows[i] for i in batch]), strict=True):
            told[i] = features
    return told

"""PromptEncoder a model without training it: with no examples, with some in the prompt, or through a linear_probe of its features."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.evaluation import linear_probe
from zoplat.evaluation.answers import answered, by_length
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.tasks import data
from zoplat.tasks.metrics import metric

NOTHING = "N/A"
"""What stands in the place of every text in a prompt about nothing (Zhao et al., arXiv:2102.09690)."""


def evaluate(
    config: RunConfig, session: Session, splits: dict[str, data.Rows], way: EvaluationProtocol, split: str
) -> dict[str, Any]:
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
    asking = PromptEncoder(config, session, tuple(_chosen(splits["train"], way.shots, config.seed)))
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


def _chosen(rows: data.Rows, count: int, seed: int) -> data.Rows:
    if count > len(rows):
        raise ZoplatError(f"--shots {count} is more than the {len(rows)} training rows.")
    return random.Random(derived_seed(seed, "shots")).sample(rows, count)


def _calibrated(asking: PromptEncoder, raw: data.Rows) -> list[str]:
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


def _scores(asking: PromptEncoder, examples: Sequence[Example]) -> list[list[float]]:
    rows = asking.encoded(examples)
    told: list[list[float]] = [[] for _ in rows]
    for batch in by_length(rows, asking.config.read_at_once):
        for i, scores in zip(batch, asking.session.scores([rows[i] for i in batch]), strict=True):
            told[i] = scores
    return told


def _probed(asking: PromptEncoder, training: data.Rows, rows: Sequence[Row]) -> list[str]:
    """The class that a logistic regression on the features of the training rows gives to each row."""
    config = asking.config
    if not data.find(config.task).classes:
        raise ZoplatError(
            f"--linear_probe predicts classes, and the options of task '{config.task}' change from row to row."
        )
    if "features" not in config.device.answers:
        raise ZoplatError(f"--linear_probe needs the features of a model, which '{config.device_name}' does not give.")
    known = asking.rows(training)
    labels = [row.example.label for row in known]
    classes = linear_probe.fit_and_predict(_features(asking, known), labels, _features(asking, rows))
    return [row.example.options[number].strip() for row, number in zip(rows, classes, strict=True)]


def _features(asking: PromptEncoder, rows: Sequence[Row]) -> list[list[float]]:
    told: list[list[float]] = [[] for _ in rows]
    for batch in by_length(rows, asking.config.read_at_once):
        for i, features in zip(batch, asking.session.features([rows[i] for i in batch]), strict=True):
            told[i] = features
    return told

"""Evaluate a model at fixed weights: zero-shot, few-shot, calibrated, or through a linear probe of its features."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.config.seeds import derived_seed
from zoplat.core.device import Session
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.example import Example, Row
from zoplat.evaluation import linear_probe
from zoplat.evaluation.predictions import best, in_batches, predictions, score_of
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.tasks import data
from zoplat.tasks.metrics import metric_of

CONTENT_FREE = "N/A"
"""Replaces every text in a prompt without content (Zhao et al., arXiv:2102.09690)."""


def evaluate(
    config: RunConfig, session: Session, splits: dict[str, data.Rows], protocol: EvaluationProtocol, split: str
) -> dict[str, Any]:
    """The score of one split at the weights as they are, with the facts that belong to it.

    Args:
        config: the task, the template, the size of batches and the seed.
        session: an opened model.
        splits: raw rows of the task by split; "train" gives few-shot examples and what a linear probe is fitted on.
        protocol: zero-shot, few-shot, calibrated or linear probe.
        split: which rows are scored.

    Raises:
        ZoplatError: the task or the device does not support the protocol.
    """
    task, began = data.find(config.task), time.perf_counter()
    encoder = PromptEncoder(config, session, _demonstrations(splits["train"], protocol.shots, config.seed))
    examples = [encoder.example(row, where) for where, row in splits[split]]
    if protocol.linear_probe:
        predicted: Sequence[str | None] = _by_linear_probe(encoder, splits["train"], encoder.rows(splits[split], split))
    elif protocol.calibrate:
        predicted = _calibrated(encoder, splits[split])
    else:
        predicted = predictions(session, encoder.rows(splits[split], split), config.scored_at_once)
    score, unanswered = score_of(metric_of(task), predicted, examples)
    return {
        "status": "done",
        "way": protocol.name,
        "task": config.task,
        "split": split,
        "rows": len(examples),
        "shots": protocol.shots,
        "metric": task.metric,
        "score": score,
        "unanswered": unanswered,
        "seconds": round(time.perf_counter() - began, 3),
        **{name: session.facts.get(name) for name in ("model", "device", "dtype", "head")},
        "seed": config.seed,
    }


def _demonstrations(training: data.Rows, count: int, seed: int) -> data.Rows:
    """Training rows for a few-shot prompt, drawn with the seed."""
    if count > len(training):
        raise ZoplatError(f"--shots {count} is more than the {len(training)} training rows. Use fewer.")
    return random.Random(derived_seed(seed, "shots")).sample(training, count)


def _calibrated(encoder: PromptEncoder, raw: data.Rows) -> list[str | None]:
    """Best options by Σ log p(option | prompt) − Σ log p(option | the same prompt without content)."""
    task = data.find(encoder.config.task)
    if task.generates:
        raise ZoplatError(f"--calibrate compares options, and task '{encoder.config.task}' has none. Leave it out.")
    examples = [replace(encoder.example(row, where), score="sum") for where, row in raw]
    emptied = [encoder.example({**row, **dict.fromkeys(task.fields, CONTENT_FREE)}, where) for where, row in raw]
    baselines = [
        replace(example, prompt=empty.prompt, suffix=empty.suffix, label=0, references=())
        for example, empty in zip(examples, emptied, strict=True)
    ]
    distinct = list(dict.fromkeys(baselines))
    baseline_scores = dict(zip(distinct, _scores(encoder, distinct), strict=True))
    predicted = []
    for example, baseline, scores in zip(examples, baselines, _scores(encoder, examples), strict=True):
        gains = [score - base for score, base in zip(scores, baseline_scores[baseline], strict=True)]
        predicted.append(best(example, gains))
    return predicted


def _by_linear_probe(encoder: PromptEncoder, training: data.Rows, rows: Sequence[Row]) -> list[str]:
    """The class that a logistic regression on the features of the training rows assigns to each row."""
    config = encoder.config
    if not data.find(config.task).classes:
        raise ZoplatError(
            f"--probe predicts classes, and the options of task '{config.task}' change from row to row. Leave it out."
        )
    if "features" not in config.device.answers:
        raise ZoplatError(
            f"--probe needs the features of a model, which '{config.device_name}' does not give. Use --device cpu."
        )
    known = encoder.rows(training, "train")
    labels = [row.example.label for row in known]
    features, others = _features(encoder, known), _features(encoder, rows)
    if not all(math.isfinite(x) for line in (*features, *others) for x in line):
        raise RunFailed("--probe: the features of some rows are not numbers (NaN). Look at the weights of the model.")
    classes = linear_probe.fit_and_predict(features, labels, others)
    return [row.example.options[number].strip() for row, number in zip(rows, classes, strict=True)]


def _scores(encoder: PromptEncoder, examples: Sequence[Example]) -> list[list[float]]:
    """For each example, one score per option."""
    return in_batches(encoder.session.scores, encoder.encoded(examples), encoder.config.scored_at_once)


def _features(encoder: PromptEncoder, rows: Sequence[Row]) -> list[list[float]]:
    """For each row, its features of the last layer."""
    return in_batches(encoder.session.features, rows, encoder.config.scored_at_once)

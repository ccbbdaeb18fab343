"""Metrics: from predictions and reference texts to one number, the higher the better."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import string
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from zoplat.core.errors import RunFailed, ZoplatError, unknown
from zoplat.core.example import Example
from zoplat.tasks import commands
from zoplat.tasks.task import Task

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
"""(predictions, for each all texts that count as right) → score."""
COMMAND = "command:"
"""Prefix of a metric that is a program."""
Judge = Callable[[Path, Sequence[Example]], float]
"""(folder with the exported model or adapter, rows) → score, the higher the better."""
ADAPTER = "adapter:"
"""Prefix of an objective that is a program, which is given the model itself and not its predictions."""


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions that equal one of their references, in [0, 1]."""
    return fmean(text in right for text, right in zip(predictions, references, strict=True))


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Accuracy that ignores case, punctuation, articles and white space."""
    return _mean_of_best(predictions, references, lambda one, other: float(_words(one) == _words(other)))


def f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F1 of the words in common with the nearest reference, as for SQuAD."""
    return _mean_of_best(predictions, references, _f1)


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L with the nearest reference, by the package rouge-score; raises ZoplatError without it."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ZoplatError("Metric 'rouge' needs a package that is not installed: pip install 'zoplat[eval]'") from None
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return _mean_of_best(predictions, references, lambda one, other: scorer.score(other, one)["rougeL"].fmeasure)


def macro_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F1 of each class that is predicted or right, and their mean without weights."""
    classes = {text for right in references for text in right[:1]} | set(predictions) - {""}
    return fmean(_f1_of_class(predictions, references, {name}) for name in classes)


def binary_f1(
    predictions: Sequence[str], references: Sequence[Sequence[str]], positive: Collection[str] = ("yes",)
) -> float:
    """F1 of one class; for a task it is the second of its two classes, the one with number 1."""
    return _f1_of_class(predictions, references, positive)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "exact-match": exact_match,
    "f1": f1,
    "macro-f1": macro_f1,
    "binary-f1": binary_f1,
    "rouge": rouge,
}
"""Metrics by name; "f1" of a task with classes is "macro-f1"."""


ROW_METRICS = (accuracy, exact_match, f1, rouge)
"""Metrics that are means of the scores of rows."""


def metric_of(task: Task, name: str = "") -> Metric:
    """The metric of a task, or the one of a name for the predictions that a task asks for.

    Raises:
        ZoplatError: there is no such metric, or it is one of classes and the task has none, or not two.
    """
    name, classes = name or task.metric, task.class_names
    if name in ("macro-f1", "binary-f1") and not classes:
        raise ZoplatError(
            f"Metric '{name}' compares classes, and the options of this task differ by row. Use accuracy or f1."
        )
    if name == "binary-f1" and len(classes) != 2:
        raise ZoplatError(f"Metric 'binary-f1' is for two classes, and the task has {len(classes)}. Use macro-f1.")
    if name == "binary-f1":
        return partial(binary_f1, positive=classes[1][1:] or classes[1])
    return macro_f1 if name == "f1" and classes else metric(name)


def metric(name: str) -> Metric:
    """The metric of a name: one of `METRICS`, "module:function", or "command:PROGRAM ARGUMENTS".

    A function gets the predictions and, for each, the texts that count as right. A command gets the same as JSON lines
    `{"answer": …, "right": […]}` on standard input and prints one number. Higher is better. Either is run only if
    `commands.require` takes it as the user's own.

    Raises:
        ZoplatError: no metric has that name, there is no such function, or its module can't be imported.
    """
    if name in METRICS:
        return METRICS[name]
    if name.startswith(COMMAND):
        return _command(name)
    if ":" in name:
        return _function(name)
    raise unknown("metric", name, METRICS, "or module:function, or command:PROGRAM")


def _function(name: str) -> Metric:
    """The metric "module:function", imported when it is first used; raises RunFailed when the function does."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ZoplatError(f"'{name}' is no module:function; for example judged:score.")

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        commands.require(name)
        function = _imported(name, module, attribute)
        try:
            return float(function(predictions, references))
        except (Exception, SystemExit) as problem:
            raise RunFailed(f"{name} failed: {type(problem).__name__}: {problem}") from problem

    if commands.is_known(name):
        _imported(name, module, attribute)
    return score


def _imported(name: str, module: str, attribute: str) -> Callable[..., Any]:
    """The function of a module; raises ZoplatError where there is none, whatever importing the module raises."""
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise ZoplatError(f"{name}: no such function ({problem}).") from None
    except (Exception, SystemExit) as problem:
        reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        raise ZoplatError(f"{name}: module '{module}' can't be imported ({reason}).") from None
    if not callable(function):
        raise ZoplatError(f"{name} is not a function but {type(function).__name__}.")
    return function  # type: ignore[no-any-return]


def _command(name: str) -> Metric:
    """The metric of a program and its arguments; raises RunFailed when that does not print a number."""
    words = _program(name, COMMAND)

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        pairs = zip(predictions, references, strict=True)
        lines = [json.dumps({"answer": text, "right": list(right)}) for text, right in pairs]
        return _printed(name, words, "\n".join(lines) + "\n")

    return score


def judge_of(name: str) -> Judge | None:
    """The objective "adapter:PROGRAM ARGUMENTS"; None for one of another form.

    The program gets a JSON object on standard input, `{"adapter": FOLDER, "rows": [{"prompt": …, "options": […],
    "label": …, "right": […]}, …]}`, and prints one number. It is run only if `commands.require` takes it as the user's.

    Raises:
        ZoplatError: it names no program.
    """
    if not name.startswith(ADAPTER):
        return None
    words = _program(name, ADAPTER)

    def score(folder: Path, examples: Sequence[Example]) -> float:
        rows = [
            {"prompt": e.prompt, "options": list(e.options), "label": e.label, "right": list(e.right)} for e in examples
        ]
        return _printed(name, words, json.dumps({"adapter": str(folder), "rows": rows}) + "\n")

    return score


def _program(name: str, prefix: str) -> list[str]:
    """The program and its arguments; raises ZoplatError where there is none."""
    try:
        words = shlex.split(name.removeprefix(prefix))
    except ValueError as problem:
        raise ZoplatError(f"'{name}': {problem}; quotes come in pairs, as in a shell.") from None
    if not words:
        raise ZoplatError(f"'{prefix}' names no program; for example {prefix}python judge.py.")
    return words


def _printed(name: str, words: Sequence[str], text: str) -> float:
    """The number that a program prints for a text; raises RunFailed when it does not."""
    commands.require(name)
    printed = commands.answer_of(words, text)
    try:
        return float(printed)
    except ValueError:
        raise RunFailed(f"{shlex.join(words)} must print one number, got {printed[:100]!r}.") from None


def _mean_of_best(
    predictions: Sequence[str], references: Sequence[Sequence[str]], similarity: Callable[[str, str], float]
) -> float:
    """Mean over predictions of their similarity to the most similar reference."""
    pairs = zip(predictions, references, strict=True)
    return fmean(max(similarity(text, reference) for reference in right) for text, right in pairs)


def _f1_of_class(predictions: Sequence[str], references: Sequence[Sequence[str]], texts: Collection[str]) -> float:
    """2·TP / (2·TP + FP + FN) of the class that some texts stand for; 0 where it neither is nor is predicted."""
    predicted = [text in texts for text in predictions]
    right = [any(text in texts for text in some) for some in references]
    both = sum(one and other for one, other in zip(predicted, right, strict=True))
    return 2 * both / (sum(predicted) + sum(right)) if both else 0.0


def _f1(one: str, other: str) -> float:
    words, expected = Counter(_words(one)), Counter(_words(other))
    common = (words & expected).total()
    return 2 * common / (words.total() + expected.total()) if common else 0.0


def _words(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles (Rajpurkar et al., 2016)."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()

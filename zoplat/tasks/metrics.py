"""Metrics: from predictions and reference texts to one number, the higher the better."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import string
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from zoplat.core.errors import RunFailed, ZoplatError, unknown
from zoplat.tasks import commands

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
"""(predictions, for each all texts that count as right) → score."""
COMMAND = "command:"
"""Prefix of a metric that is a program."""


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


METRICS: dict[str, Metric] = {"accuracy": accuracy, "exact-match": exact_match, "f1": f1, "rouge": rouge}


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
    try:
        words = shlex.split(name.removeprefix(COMMAND))
    except ValueError as problem:
        raise ZoplatError(f"'{name}': {problem}; quotes come in pairs, as in a shell.") from None
    if not words:
        raise ZoplatError(f"'{COMMAND}' names no program; for example {COMMAND}python judge.py.")

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        commands.require(name)
        pairs = zip(predictions, references, strict=True)
        lines = [json.dumps({"answer": text, "right": list(right)}) for text, right in pairs]
        printed = commands.answer_of(words, "\n".join(lines) + "\n")
        try:
            return float(printed)
        except ValueError:
            raise RunFailed(f"{shlex.join(words)} must print one number, got {printed[:100]!r}.") from None

    return score


def _mean_of_best(
    predictions: Sequence[str], references: Sequence[Sequence[str]], similarity: Callable[[str, str], float]
) -> float:
    """Mean over predictions of their similarity to the most similar reference."""
    pairs = zip(predictions, references, strict=True)
    return fmean(max(similarity(text, reference) for reference in right) for text, right in pairs)


def _f1(one: str, other: str) -> float:
    words, expected = Counter(_words(one)), Counter(_words(other))
    common = (words & expected).total()
    return 2 * common / (words.total() + expected.total()) if common else 0.0


def _words(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles (Rajpurkar et al., 2016)."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()

"""How answers are judged: from what was answered and what counts as right to one number, the higher the better."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import string
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from zoplat.core.errors import RunFailed, ZoplatError, unknown

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
"""(answers, for each all texts that count as right) → score."""
COMMAND = "command:"


def accuracy(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Share of answers that count as right, in [0, 1]."""
    return fmean(answer in known for answer, known in zip(answers, right, strict=True))


def exact_match(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """The same, apart from case, punctuation, articles and blanks."""
    return _mean_of_best(answers, right, lambda one, other: float(_words(one) == _words(other)))


def f1(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Mean F1 of the words in common with the nearest right answer, as for SQuAD."""
    return _mean_of_best(answers, right, _f1)


def rouge(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L of the nearest right answer, by the package rouge-score."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ZoplatError("Metric 'rouge' needs a package that is not installed: pip install 'zoplat[eval]'") from None
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return _mean_of_best(answers, right, lambda one, other: scorer.score(other, one)["rougeL"].fmeasure)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "exact-match": exact_match, "f1": f1, "rouge": rouge}


def metric(name: str) -> Metric:
    """The metric of a name: one of `METRICS`, "module:function", or "command:PROGRAM ARGUMENTS".

    A function gets the answers and, for each, the texts that count as right. A command gets the same as JSON lines
    `{"answer": …, "right": […]}` on standard input and prints one number. Higher is better.

    Raises:
        ZoplatError: there is none of that name.
    """
    if name in METRICS:
        return METRICS[name]
    if name.startswith(COMMAND):
        return _command(shlex.split(name.removeprefix(COMMAND)))
    if ":" in name:
        return _function(name)
    raise unknown("metric", name, METRICS, "or module:function, or command:PROGRAM")


def _function(name: str) -> Metric:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise ZoplatError(f"{name}: no such function ({problem}).") from None
    if not callable(found):
        raise ZoplatError(f"{name} is no function, but {type(found).__name__}.")

    def judge(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
        try:
            return float(found(answers, right))
        except Exception as problem:
            raise RunFailed(f"{name} failed: {type(problem).__name__}: {problem}") from problem

    return judge


def _command(words: list[str]) -> Metric:
    if not words:
        raise ZoplatError(f"'{COMMAND}' names no program; for example {COMMAND}python judge.py.")

    def judge(answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
        lines = [json.dumps({"answer": a, "right": list(r)}) for a, r in zip(answers, right, strict=True)]
        try:
            done = subprocess.run(words, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        except OSError as problem:
            raise RunFailed(f"{words[0]} could not be started: {problem.strerror}.") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunFailed(f"{shlex.join(words)} ended with status {done.returncode}: {last}")
        try:
            return float(done.stdout)
        except ValueError:
            raise RunFailed(f"{shlex.join(words)} must print one number, got {done.stdout[:100]!r}.") from None

    return judge


def _mean_of_best(answers: Sequence[str], right: Sequence[Sequence[str]], alike: Callable[[str, str], float]) -> float:
    return fmean(max(alike(answer, text) for text in known) for answer, known in zip(answers, right, strict=True))


def _f1(one: str, other: str) -> float:
    words, expected = Counter(_words(one)), Counter(_words(other))
    common = (words & expected).total()
    return 2 * common / (words.total() + expected.total()) if common else 0.0


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles (Rajpurkar et al., 2016)."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()

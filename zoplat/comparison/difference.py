"""What differs between two runs: settings, data, model, versions, the first step that went another way, the results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoplat.comparison.terms import terms_of
from zoplat.training.binding import BUDGET
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal, StepRecord

SPLITS = ("train", "dev", "test")
CHOOSING = ("limit", "per_class")
"""Settings that choose rows, by which runs differ where their rows do."""
MODEL = ("model", "model_digest", "start_digest", "noise")
"""Keys of a journal's header that say what a run began with."""
RESULTS = (
    *("status", "metric", "dev_before", "dev_after", "test_before", "test_after", "verdict", "steps", "skipped_steps"),
    *("forward_passes", "evaluation_passes", "seconds", "seconds_training", "overhead_ratio", "drift"),
    *("peak_bytes", "inference_peak_bytes", "weights_digest"),
)
"""Numbers of a summary that are shown side by side."""
NOT_COUNTED = (
    *("evaluation_passes", "seconds", "seconds_training", "overhead_ratio", "drift"),
    *("peak_bytes", "inference_peak_bytes"),
)
"""Those of them that differ from day to day, or by how often a run was stopped: drift is measured from then on."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Steps:
    """How the journals of two runs compare, step by step.

    Attributes:
        counts: steps of each.
        differing: steps of both whose answers or step size are not the same.
        first: the first of them; None where all are equal.
        what: "answers", "number of answers" or "lr": what differs there.
        answer: which answer, from 1; None where it is no answer.
        of: answers of that step in each run.
        values: what each run has there.
        largest: the largest difference between two answers of one place, and the step where it is; None where there is
            none.
    """

    counts: tuple[int, int]
    differing: int = 0
    first: int | None = None
    what: str = ""
    answer: int | None = None
    of: tuple[int, int] | None = None
    values: Pair | None = None
    largest: tuple[float, int] | None = None

    @property
    def are_equal(self) -> bool:
        """Whether both runs made the same steps, bit by bit."""
        return self.first is None and self.counts[0] == self.counts[1]


@dataclass(frozen=True)
class Difference:
    """What differs between two runs; each pair has the first run's value and the second's.

    Attributes:
        runs: the run directories.
        settings: by path, those that differ.
        data: by split, number of rows and digest, where they differ.
        model: what differs of the model, its starting weights and the random numbers.
        versions: by package, those that differ; they do not count.
        steps: the journals; None where one of the runs has none.
        results: by name, the numbers of both summaries that either has.
        checksums: of the journals, over all of their lines; equal only where the headers are equal too.
    """

    runs: tuple[str, str]
    settings: dict[str, Pair] = field(default_factory=dict)
    data: dict[str, Pair] = field(default_factory=dict)
    model: dict[str, Pair] = field(default_factory=dict)
    versions: dict[str, Pair] = field(default_factory=dict)
    steps: Steps | None = None
    results: dict[str, Pair] = field(default_factory=dict)
    checksums: Pair = (None, None)

    @property
    def are_equal(self) -> bool:
        """Whether the runs are the same in all that matters: time, memory, place and versions of packages do not."""
        results = {name: pair for name, pair in self.results.items() if name not in NOT_COUNTED}
        ends = all(_same(*pair) for pair in results.values())
        return not (self.settings or self.data or self.model) and (self.steps is None or self.steps.are_equal) and ends

    def to_json(self) -> dict[str, Any]:
        """Plain values by key."""
        return {"equal": self.are_equal, **asdict(self)}


def difference(one: RunDirectory, other: RunDirectory) -> Difference:
    """Compare two runs, finished or not.

    Raises:
        ZoplatError: a file of one of them is damaged.
    """
    journals = one.read_journal(), other.read_journal()
    headers = [journal.header if journal else {} for journal in journals]
    terms = [terms_of(directory) for directory in (one, other)]
    for known, directory, header in zip(terms, (one, other), headers, strict=True):
        settings = header.get("settings") or directory.read_settings()
        known["seed"] = str(settings.get("seed"))
        last = directory.read_settings()  # a run may have gone on with a larger budget than it began with
        known.update({name: str(last[name]) for name in BUDGET if name in last})
    differing = _of_shared_parts(_pairs(*terms))
    data = _pairs(*(header.get("rows") or {} for header in headers))
    if data:  # rows may be fewer for these; of equal ones it does not matter how they were chosen
        differing |= _pairs(*({name: _asked(directory, name) for name in CHOOSING} for directory in (one, other)))
    apart = (*SPLITS, *(f"version of {name}" for header in headers for name in _versions(header)), "model")
    summaries = [summary.to_json() if (summary := run.read_summary()) else {} for run in (one, other)]
    results = {name: (summaries[0].get(name), summaries[1].get(name)) for name in RESULTS}
    return Difference(
        runs=(str(one.path), str(other.path)),
        settings={name: pair for name, pair in differing.items() if name not in apart},
        data=data,
        model=_pairs(*({name: header.get(name) for name in MODEL} for header in headers)),
        versions=_pairs(*map(_versions, headers)),
        steps=compare_steps(journals[0], journals[1]) if journals[0] and journals[1] else None,
        results={name: pair for name, pair in results.items() if pair != (None, None)},
        checksums=(journals[0] and journals[0].chain, journals[1] and journals[1].chain),
    )


def compare_steps(one: Journal, other: Journal) -> Steps:
    """The first step at which two journals differ, and how far they differ after it."""
    counts = (len(one.steps), len(other.steps))
    pairs = list(zip(one.steps, other.steps, strict=False))
    differing = [(mine, theirs) for mine, theirs in pairs if _what(mine, theirs)]
    if not differing:
        return Steps(counts)
    mine, theirs = differing[0]
    what = _what(mine, theirs)
    answer = _place(mine, theirs) if what == "answers" else None
    values = (len(mine.answers), len(theirs.answers)) if what == "number of answers" else (mine.lr, theirs.lr)
    if answer is not None:
        values = (mine.answers[answer], theirs.answers[answer])
    gaps = [(gap, mine.step) for mine, theirs in differing for gap in _gaps(mine, theirs)]
    return Steps(
        counts=counts,
        differing=len(differing),
        first=mine.step,
        what=what,
        answer=None if answer is None else answer + 1,
        of=(len(mine.answers), len(theirs.answers)),
        values=values,
        largest=max(gaps, default=None),
    )


def _what(mine: StepRecord, theirs: StepRecord) -> str:
    """What differs between two records of one step; empty where nothing does."""
    if len(mine.answers) != len(theirs.answers):
        return "number of answers"
    if _place(mine, theirs) is not None:
        return "answers"
    return "" if mine.lr == theirs.lr else "lr"


def _place(mine: StepRecord, theirs: StepRecord) -> int | None:
    """The first answer that differs, from 0."""
    pairs = zip(mine.answers, theirs.answers, strict=False)
    return next((place for place, pair in enumerate(pairs) if not _same(*pair)), None)


def _gaps(mine: StepRecord, theirs: StepRecord) -> Iterator[float]:
    """The differences between answers of one step, where both are finite."""
    for a, b in zip(mine.answers, theirs.answers, strict=False):
        if math.isfinite(a - b):
            yield abs(a - b)


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    """The values that differ, by name, in the order of the first mapping."""
    names = dict.fromkeys((*one, *other))
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _of_shared_parts(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Without the settings that only one of two parts has, where the parts are others: their names say enough."""

    def is_named(path: str) -> bool:
        parts = path.split(".")[:-1]
        return any(".".join([*parts[:depth], "name"]) in pairs for depth in range(1, len(parts) + 1))

    return {path: pair for path, pair in pairs.items() if None not in pair or not is_named(path)}


def _asked(directory: RunDirectory, name: str) -> str | None:
    """A setting on record, as text; None where there is none."""
    value = directory.read_settings().get(name)
    return None if value is None else str(value)


def _versions(header: Mapping[str, Any]) -> dict[str, Any]:
    return {**(header.get("versions") or {}), **(header.get("plugins") or {})}


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; NaN equals NaN."""
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))

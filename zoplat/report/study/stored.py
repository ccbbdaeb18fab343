"""A study in one file: all that a report reads of its runs, without journals and weights, to keep and to share.

Each line is an object with one key, which says what it is:

    study       format, ended, unfinished, command, and settings as study.toml has them; the first line
    failed, violation, chosen       an entry of comparison.json
    base        a table of which later ones say what they differ in: the terms of a run, or its environment
    shown       (end of the prompt, right answer) of the first test rows
    predicted   step, shown (number of such a line, from 0), the texts that were predicted for those rows, and for all
                rows whether the prediction is right, as a letter 1 or 0
    run         place, method, summary as in summary.json, metrics, phases, predicted (numbers of such lines), terms
                and environment: (number of a base, what differs from it)

The same runs always give the same text. Places are relative to the folder that the study is in, and of other whole
paths only the last name is kept. A file whose name ends in .gz is compressed.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.plain_json import to_text, with_numbers
from zoplat.report.study.reading import Study
from zoplat.report.study.runs import ReportedRun
from zoplat.training.predicted import Predicted
from zoplat.training.summary import Summary

FORMAT = 1
"""Of the file; a later one can't be read by this version."""
GZIP = b"\x1f\x8b"
MOST = 1 << 28
"""Bytes of a study that is not compressed."""
METRICS = ("step", "split", "score", "rows", "passes", "seconds_training")
PHASES = ("phase", "seconds", "calls", "host_peak", "device_peak")
"""What of a row of metrics.jsonl, and of memory.jsonl, is kept."""
WHOLE = re.compile(r"(?<![\w.:/])/(?:[^/\s'\",;]+/)+")
"""The folders of a whole path."""


def opened(paths: Sequence[Path]) -> Study:
    """The runs in folders of comparisons, in run directories, and in files of studies, as one comparison.

    Raises:
        ZoplatError: a path is none of these, a run that was named is not finished, or a file is damaged.
    """
    studies = [_read(path) if path.is_file() else Study.in_folder(path) for path in paths]
    return studies[0] if len(studies) == 1 else Study.joined(studies)


def as_lines(study: Study, paths: Iterable[Path] = ()) -> str:
    """The text of a study's file.

    Args:
        study: the comparison.
        paths: where it was read; places are relative to the folders that these are in.
    """
    homes = sorted({f"{path.absolute().parent}/" for path in paths}, key=len, reverse=True)
    return "".join(f"{to_text(line, ensure_ascii=False)}\n" for line in _lines(study, homes))


def compressed(text: str) -> bytes:
    """A text as gzip; the same bytes for the same text."""
    return gzip.compress(text.encode(), mtime=0)


def _lines(study: Study, homes: Sequence[str]) -> Iterator[dict[str, Any]]:
    names = ("ended", "unfinished", "command", "settings")
    head = {"format": FORMAT, **{name: getattr(study, name) for name in names}}
    own = {name: value for name, value in study.settings.get("study", {}).items() if name != "storage"}
    if own:
        head["settings"] = {**study.settings, "study": own}
    yield {"study": _portable(head, homes)}
    for kind, entries in (("failed", study.failed), ("violation", study.violations), ("chosen", study.chosen)):
        yield from ({kind: _portable(entry, homes)} for entry in entries)
    tables, texts, predictions = _Bases(), _Pool("shown"), _Pool("predicted")
    for method in study.methods:
        for run in method.runs:
            place = _portable(run.place, homes)
            line = {
                "place": place,
                "method": run.method,
                "summary": _portable(_plain({**run.summary.to_json(), "run_dir": place}), homes),
                "metrics": [_plain(_some(row, METRICS)) for row in run.metrics],
                "phases": [_plain(_some(row, PHASES)) for row in run.phases],
                "predicted": [predictions.number(_predicted(one, texts)) for one in run.predictions.values()],
                "terms": tables.differing(_portable(run.terms, homes)),
                "environment": tables.differing(_portable(run.environment, homes)),
            }
            for pool in (tables, texts, predictions):
                yield from pool.fresh()
            yield {"run": line}


class _Pool:
    """Values that many runs share, each of which is written once.

    Args:
        kind: of their lines.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._numbers: dict[str, int] = {}
        self._fresh: list[Any] = []

    def number(self, value: Any) -> int:
        """The number of a value, which is new if it has not been asked for before."""
        key = json.dumps(value)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._fresh.append(value)
        return self._numbers[key]

    def fresh(self) -> list[dict[str, Any]]:
        """The lines of what is new since this was asked last."""
        lines, self._fresh = [{self.kind: value} for value in self._fresh], []
        return lines


class _Bases(_Pool):
    """Tables of which many differ in a few values."""

    def __init__(self) -> None:
        super().__init__("base")
        self._by_keys: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def differing(self, table: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The number of a table with the same keys, and what differs from it."""
        base = self._by_keys.setdefault((*table,), table)
        return self.number(base), {key: value for key, value in table.items() if value != base[key]}


def _predicted(predicted: Predicted, texts: _Pool) -> dict[str, Any]:
    return {
        "step": predicted.step,
        "shown": texts.number(predicted.shown),
        "texts": predicted.texts[: len(predicted.shown)],
        "right": "".join("01"[right] for right in predicted.right),
    }


def _some(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """An object whose numbers that are not finite are null, by itself, as it is in the files of a run."""
    plain: dict[str, Any] = json.loads(to_text(table))
    return plain


def _portable(value: Any, homes: Sequence[str]) -> Any:
    """A value whose texts name no place on somebody's machine."""
    if isinstance(value, Mapping):
        return {key: _portable(one, homes) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(one, homes) for one in value]
    if not isinstance(value, str):
        return value
    for home in homes:
        value = value.replace(home, "")
    return WHOLE.sub("", value)


def _read(path: Path) -> Study:
    """The study in a file; raises ZoplatError where it is none, or is damaged."""
    try:
        return _Reader().study(_text(path))
    except OSError as problem:
        raise ZoplatError(f"{path} can't be read: {problem.strerror or problem}.") from None
    except (LookupError, TypeError, ValueError, AttributeError, EOFError, RecursionError, zlib.error) as problem:
        raise ZoplatError(
            f"{path} is not the file of a study, or it is damaged ({type(problem).__name__}: {problem}). `zoplat "
            "report STUDY --to FILE.jsonl` writes one."
        ) from None


def _text(path: Path) -> str:
    """What a file says, compressed or not; raises ValueError for more than any study has."""
    with path.open("rb") as file:
        is_compressed = file.read(len(GZIP)) == GZIP
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it has more than {MOST >> 20} MiB")
    return content.decode()


class _Reader:
    """Lines of a file, to which later ones refer by number."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {
            kind: [] for kind in ("study", "failed", "violation", "chosen", "base", "shown", "predicted", "run")
        }

    def study(self, text: str) -> Study:
        """The study in a text; raises ValueError, LookupError or TypeError where it is none."""
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            try:
                [(kind, value)] = json.loads(line).items()
                self.kept[kind].append(self._run(value) if kind == "run" else value)
            except (LookupError, TypeError, ValueError, AttributeError) as problem:
                raise ValueError(f"line {number}: {type(problem).__name__}: {problem}") from None
        [head] = self.kept["study"]
        if head.pop("format") != FORMAT:
            raise ValueError("it was written by a later version of zoplat")
        if not self.kept["run"]:
            raise ValueError("it has no run")
        entries = {"failed": "failed", "violations": "violation", "chosen": "chosen"}
        return Study.of(self.kept["run"], **head, **{name: self.kept[kind] for name, kind in entries.items()})

    def _run(self, line: dict[str, Any]) -> ReportedRun:
        predictions = [self._predicted(self.kept["predicted"][number]) for number in line["predicted"]]
        return ReportedRun(
            Summary.from_json(with_numbers(line["summary"])),
            self._table(*line["terms"]),
            line["method"],
            line["place"],
            [with_numbers(row) for row in line["metrics"]],
            [with_numbers(row) for row in line["phases"]],
            {one.step: one for one in predictions},
            self._table(*line["environment"]),
        )

    def _table(self, number: int, changed: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.kept["base"][number], **changed}

    def _predicted(self, line: dict[str, Any]) -> Predicted:
        shown = [(str(prompt), str(answer)) for prompt, answer in self.kept["shown"][line["shown"]]]
        return Predicted(line["step"], line["texts"], [mark == "1" for mark in line["right"]], shown)

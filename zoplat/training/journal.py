"""The append-only record of a run: with its settings, the answers of the oracle are enough to rebuild the weights.

A header, then one JSON line per step. Each line has a checksum of itself and of all lines before it, so that a
changed byte anywhere is found, and the line is named.
"""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from zoplat.config.renamed import STRATEGIES, renamed_header
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.losses import SIDE_TERMS

VERSION = 1
TEXTS = ("versions", "plugins", "rows")
"""Objects in the header whose values are text."""
HEADER = {
    "settings": dict,
    **dict.fromkeys(("strategy", "noise", "dtype", "start_digest", "metric", "model_digest"), str),
}
"""Key of the header → type of its value; each may be None too."""
KNOWN = {*STRATEGIES.values(), *SIDE_TERMS.values()}
"""Evaluation strategies that a header may name."""


@dataclass(frozen=True)
class StepRecord:
    """One step.

    Attributes:
        step: from 0.
        answers: everything the oracle answered, in order; NaN and ±∞ included.
        lr: step size; None where the rule has none.
        loss: mean of the finite losses among the answers; None if there are none.
        groups: settings of an optimizer's parameter groups from this step on; None where they are as before, and in a
            run.
    """

    step: int
    answers: list[float]
    lr: float | None
    loss: float | None = None
    groups: list[dict[str, Any]] | None = None


class JournalWriter:
    """Appends steps; the system has each of them when `append` returns, so a killed process loses none.

    Args:
        path: the file; overwritten unless `after` is given.
        header: the first line of a new journal.
        after: the journal to continue, as it was read; what follows it in the file is cut off.
        sync_every: steps after which the lines are flushed to the disk, so that a power cut loses no more; None for
            at checkpoints only.
        advice: what to do where a line can't be written; that for a run when empty.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any],
        after: Journal | None = None,
        sync_every: int | None = None,
        advice: str = "",
    ) -> None:
        self.path, self.sync_every, self.advice = path, sync_every, advice
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if after else os.O_TRUNC)
        self._file = os.open(path, flags, 0o644)
        self._chain, self._bytes = (after.chain, after.bytes) if after else ("", 0)
        if after:
            os.ftruncate(self._file, after.bytes)
        else:
            self._write({"zoplat_journal": VERSION, **header})

    def append(self, record: StepRecord) -> None:
        """Write one step.

        Raises:
            RunFailed: the line can't be written, or the file is not there any more; what is there is whole.
        """
        answers = [answer if abs(answer) < float("inf") else str(answer) for answer in record.answers]
        groups = {} if record.groups is None else {"groups": record.groups}
        self._write({"step": record.step, "answers": answers, "lr": record.lr, "loss": record.loss, **groups})
        self.check_there()
        if self.sync_every and (record.step + 1) % self.sync_every == 0:
            self.sync()

    def sync(self) -> None:
        """Have everything on the disk when this returns."""
        os.fsync(self._file)

    def check_there(self) -> None:
        """Raise RunFailed where the file was deleted or moved, or its folder was."""
        try:
            is_there = os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            is_there = False
        if not is_there:
            advice = "Begin it afresh, or move the folder back and add --resume."
            raise RunFailed(
                f"{self.path} is gone: the file or its folder was deleted or moved while the run went on. Without it "
                f"the run can't be resumed or replayed. {self.advice or advice}"
            )

    def close(self) -> None:
        """Flush everything to the disk and close the file."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _write(self, fields: dict[str, Any]) -> None:
        body = json.dumps(fields, ensure_ascii=False)
        chain = chained_checksum(self._chain, body)
        line = f'{body[:-1]}, "checksum": "{chain}"}}\n'.encode()
        rest = memoryview(line)
        try:
            while rest:  # the system may take a part only, for example where the disk is nearly full
                rest = rest[os.write(self._file, rest) :]
        except OSError as problem:
            with suppress(OSError):
                os.ftruncate(self._file, self._bytes)
            advice = f"Put that right and go on with --resume --out {shlex.quote(str(self.path.parent))}."
            raise RunFailed(
                f"{self.path} can't be written: {problem.strerror}. It is whole up to the step before. "
                f"{self.advice or advice}"
            ) from problem
        self._chain, self._bytes = chain, self._bytes + len(line)


@dataclass(frozen=True)
class Journal:
    """A journal that was read and verified.

    Attributes:
        header: what the answers depend on beside the settings, such as versions, dtype, noise and strategy.
        steps: the records of steps 0, 1, 2, …, without a gap.
        ends: for each line, header included, its checksum and the offset in bytes of its end.
    """

    header: dict[str, Any]
    steps: list[StepRecord]
    ends: list[tuple[str, int]]

    @property
    def chain(self) -> str:
        """Checksum of the last line."""
        return self.ends[-1][0]

    @property
    def bytes(self) -> int:
        """Length in bytes up to the end of the last complete line."""
        return self.ends[-1][1]

    def until(self, step: int) -> Journal:
        """The journal as it was after `step` steps."""
        return Journal(self.header, self.steps[:step], self.ends[: step + 1])

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read and verify a journal. An incomplete last line, which a killed process may leave, is ignored.

        Raises:
            ZoplatError: there is no journal, a line does not match its checksum, or a step is missing.
        """
        journal, damage = cls.read_whole_lines(path)
        if damage:
            is_of_run = (path.parent / "config.toml").exists()
            how = f": `zoplat repair {shlex.quote(str(path.parent))}` goes back to them" if is_of_run else ""
            raise ZoplatError(f"{damage} The lines before it are intact{how}.")
        return journal

    @classmethod
    def read_whole_lines(cls, path: Path) -> tuple[Journal, str]:
        """The journal up to its first damaged line, and what is wrong with that line; empty where all is well.

        Raises:
            ZoplatError: there is no journal, or its header is damaged.
        """
        try:
            content = path.read_bytes()
        except OSError as problem:
            raise ZoplatError(f"{path} can't be read: {problem.strerror}.") from None
        whole = content[: content.rfind(b"\n") + 1]
        chain, header, length = "", {}, 0
        steps: list[StepRecord] = []
        ends: list[tuple[str, int]] = []
        try:
            for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
                fields, chain = _verified(line, chain, f"{path}, line {number}")
                if number == 1:
                    header = _header(fields, path)
                else:
                    steps.append(_record(fields, len(steps), path))
                length += len(line) + 1
                ends.append((chain, length))
            damage = ""
        except _Damaged as problem:
            damage = str(problem)
        if not header:
            raise ZoplatError(damage or f"{path} is not a journal of version {VERSION}: it has no such header.")
        return cls(header, steps, ends), damage


class _Damaged(Exception):
    """A line of a journal that can't be used."""


def _verified(line: bytes, chain: str, where: str) -> tuple[dict[str, Any], str]:
    body, mark, end = line.rpartition(b', "checksum": "')
    chain = chained_checksum(chain, body.decode(errors="replace") + "}")
    if not mark or end != f'{chain}"}}'.encode():
        raise _Damaged(f"{where}: the line does not match its checksum; the journal was changed or damaged.")
    try:
        fields = json.loads(body + b"}")
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _Damaged(f"{where}: the line is no JSON object.")
    return fields, chain


def _header(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    if fields.get("zoplat_journal") != VERSION:
        raise _Damaged(f"{path} is not a journal of version {VERSION}: it has no such header.")
    try:
        header = renamed_header(fields)
    except (KeyError, TypeError):
        raise _Damaged(f"{path}: the header names an evaluation strategy that no version had.") from None
    for name, value in header.items():
        if value is not None and not _is_meant(name, value):
            raise _Damaged(f"{path}: the header has {name} {str(value)[:80]}, which no version wrote.")
    return header


def _is_meant(name: str, value: Any) -> bool:
    """Whether a value in the header can be what a key stands for."""
    if name in TEXTS:
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    return isinstance(value, HEADER.get(name, object)) and (name != "strategy" or value in KNOWN)


def _record(fields: dict[str, Any], step: int, path: Path) -> StepRecord:
    found = fields.get("step")
    if found != step:
        raise _Damaged(f"{path}: step {step} is missing; found step {found} in its place.")
    try:
        answers = [float(answer) for answer in fields["answers"]]
        lr, loss = (None if fields.get(name) is None else float(fields[name]) for name in ("lr", "loss"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _Damaged(f"{path}: step {step} has fields that are no numbers.") from None
    groups = fields.get("groups")
    if groups is not None and not (isinstance(groups, list) and all(isinstance(one, dict) for one in groups)):
        raise _Damaged(f"{path}: step {step} has settings of groups that no version wrote.")
    return StepRecord(step, answers, lr, loss, groups)


def chained_checksum(chain: str, body: str) -> str:
    """Checksum of a line, from that of the line before ("" for the header) and its JSON without the checksum."""
    return blake2b((chain + body).encode(), digest_size=8).hexdigest()

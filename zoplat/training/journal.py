"""The append-only record of a run: what the oracle answered is all that the weights depend on.

A header, then one JSON line per step. Each line carries a checksum of itself and of all before it, so a
changed byte anywhere is found, and named by its line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from zoplat.config.renamed import renamed_header
from zoplat.core.errors import ZoplatError

VERSION = 1


@dataclass(frozen=True)
class StepRecord:
    """One step.

    Attributes:
        step: from 0.
        answers: losses in the order they were asked for, as the oracle gave them; NaN and ±∞ included.
        lr: step size applied, where the rule has one.
        loss: mean of the finite losses among the answers; None without any.
    """

    step: int
    answers: list[float]
    lr: float | None
    loss: float | None = None


class JournalWriter:
    """Appends steps; each is on its way to the disk when `append` returns.

    Args:
        path: the journal; a new one is begun unless `after` is given.
        header: written as the first line of a new journal.
        after: what was read of a journal to continue; a torn last line is cut off.
    """

    def __init__(self, path: Path, header: dict[str, Any], after: Journal | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | (0 if after else os.O_TRUNC)
        self._file = os.open(path, flags, 0o644)
        self._chain = after.chain if after else ""
        if after:
            os.ftruncate(self._file, after.bytes)
            os.lseek(self._file, after.bytes, os.SEEK_SET)
        else:
            self._write({"zoplat_journal": VERSION, **header})

    def append(self, record: StepRecord) -> None:
        """Write one step in a single system call."""
        answers = [answer if abs(answer) < float("inf") else str(answer) for answer in record.answers]
        self._write({"step": record.step, "answers": answers, "lr": record.lr, "loss": record.loss})

    def close(self) -> None:
        """Make sure that the disk has it all."""
        os.fsync(self._file)
        os.close(self._file)

    def _write(self, fields: dict[str, Any]) -> None:
        body = json.dumps(fields, ensure_ascii=False)
        self._chain = _checksum(self._chain, body)
        os.write(self._file, f'{body[:-1]}, "checksum": "{self._chain}"}}\n'.encode())


@dataclass(frozen=True)
class Journal:
    """A journal as read.

    Attributes:
        header: what the run was.
        steps: its records, in order, without gaps.
        ends: for each line, its checksum and how many bytes there are up to its end.
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
        """Length up to the end of the last line."""
        return self.ends[-1][1]

    def until(self, step: int) -> Journal:
        """The journal as it was after `step` steps."""
        return Journal(self.header, self.steps[:step], self.ends[: step + 1])

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read and verify.

        A last line without its end is what a killed process leaves; it is left out.

        Raises:
            ZoplatError: no journal there, or a line that does not match its checksum.
        """
        try:
            content = path.read_bytes()
        except OSError as problem:
            raise ZoplatError(f"{path} can't be read: {problem.strerror}.") from None
        whole = content[: content.rfind(b"\n") + 1]
        chain, parsed, ends, length = "", [], [], 0
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            fields, chain = _verified(line, chain, f"{path}, line {number}")
            parsed.append(fields)
            length += len(line) + 1
            ends.append((chain, length))
        if not parsed or parsed[0].get("zoplat_journal") != VERSION:
            raise ZoplatError(f"{path} is not a journal of version {VERSION}: it has no such header.")
        return cls(renamed_header(parsed[0]), list(_records(parsed[1:], path)), ends)


def _verified(line: bytes, chain: str, where: str) -> tuple[dict[str, Any], str]:
    body, mark, end = line.rpartition(b', "checksum": "')
    chain = _checksum(chain, body.decode(errors="replace") + "}")
    if not mark or end != f'{chain}"}}'.encode():
        raise ZoplatError(
            f"{where}: the line does not match its checksum; the journal was changed or damaged. "
            "What stands before this line is intact."
        )
    fields: dict[str, Any] = json.loads(body + b"}")
    return fields, chain


def _records(lines: list[dict[str, Any]], path: Path) -> Iterator[StepRecord]:
    for step, fields in enumerate(lines):
        if fields["step"] != step:
            raise ZoplatError(f"{path}: step {step} is missing; found step {fields['step']} in its place.")
        yield StepRecord(step, [float(answer) for answer in fields["answers"]], fields["lr"], fields.get("loss"))


def _checksum(chain: str, body: str) -> str:
    return blake2b((chain + body).encode(), digest_size=8).hexdigest()

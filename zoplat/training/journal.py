"""The append-only record of a run: with its settings, the answers of the oracle are enough to rebuild the weights.

A header, then one JSON line per step. Each line has a checksum of itself and of all lines before it, so that a
changed byte anywhere is found, and the line is named.
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
        answers: everything the oracle answered, in order; NaN and ±∞ included.
        lr: step size; None where the rule has none.
        loss: mean of the finite losses among the answers; None if there are none.
    """

    step: int
    answers: list[float]
    lr: float | None
    loss: float | None = None


class JournalWriter:
    """Appends steps; the system has each of them when `append` returns, so a killed process loses none.

    Args:
        path: the file; overwritten unless `after` is given.
        header: the first line of a new journal.
        after: the journal to continue, as it was read; what follows it in the file is cut off.
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
        """Flush everything to the disk and close the file."""
        os.fsync(self._file)
        os.close(self._file)

    def _write(self, fields: dict[str, Any]) -> None:
        body = json.dumps(fields, ensure_ascii=False)
        self._chain = chained_checksum(self._chain, body)
        os.write(self._file, f'{body[:-1]}, "checksum": "{self._chain}"}}\n'.encode())


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
    chain = chained_checksum(chain, body.decode(errors="replace") + "}")
    if not mark or end != f'{chain}"}}'.encode():
        raise ZoplatError(
            f"{where}: the line does not match its checksum; the journal was changed or damaged. "
            "The lines before it are intact."
        )
    fields: dict[str, Any] = json.loads(body + b"}")
    return fields, chain


def _records(lines: list[dict[str, Any]], path: Path) -> Iterator[StepRecord]:
    for step, fields in enumerate(lines):
        if fields["step"] != step:
            raise ZoplatError(f"{path}: step {step} is missing; found step {fields['step']} in its place.")
        yield StepRecord(step, [float(answer) for answer in fields["answers"]], fields["lr"], fields.get("loss"))


def chained_checksum(chain: str, body: str) -> str:
    """Checksum of a line, from that of the line before ("" for the header) and its JSON without the checksum."""
    return blake2b((chain + body).encode(), digest_size=8).hexdigest()

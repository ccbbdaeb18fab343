"""Machines that share a folder and nothing else: members join a run, compute some of its points, and may leave.

The run is the host. For each question it writes who takes part, waits for their losses, and writes the answers; what is
older than a step is in the journal, from which members that came late or fell behind catch up. Every file is written
whole under another name and renamed; there are no locks. In `ranks/` of the run directory:

    host.json                 the number of this process of the run; another one after a restart
    member-ID.json            a member wants to take part
    ask-STEP-K.json           question K of a step: the members that compute its points, in order
    share-STEP-K-ID.json      losses of a member
    answers-STEP-K.json       all losses
    agreed.json               digests of the weights, by what they are digests of
    ended.json                the run is at its end
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoplat.core.errors import RunFailed
from zoplat.core.exchange import Ended, Exchange
from zoplat.paths import replace_text

FOLDER = "ranks"
"""Name of the folder in a run directory."""
PATIENCE, FACTOR = 10.0, 3.0
"""A member is dropped when it has been silent for so many seconds, and so many times as long as the host's share."""
LONGEST_SLEEP = 0.02
"""Seconds between two looks at the folder, after some that were closer together."""


class Restarted(Exception):
    """The host is another process than before; members begin again from its journal."""


class _Folder(Exchange):
    """What the host and its members have in common.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._question = 0

    def begin(self, step: int) -> None:
        super().begin(step)
        self._question = 0

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        raise RunFailed("Members of a run that share a folder compute points; they can't share rows.")

    def broadcast(self, data: bytes, length: int) -> bytes:
        return data

    def fail(self) -> None:
        """Nothing: the run goes on without a member, and members wait for a host that is started again."""

    def _next(self) -> str:
        self._question += 1
        return f"{self.step}-{self._question}"

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value)
        replace_text(self.folder / f"{name}.json", text)
        self.sent += len(text)

    def _read(self, name: str) -> Any:
        """What a file holds; None where it is not there."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


class Host(_Folder):
    """The run, which members help while they are there; alone it computes everything itself."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.members: list[str] = []
        self._is_open = False

    def begin(self, step: int) -> None:
        """Take in who has come since, and remove the files of answered questions."""
        super().begin(step)
        for path in self.folder.glob("*.json"):  # others are being written
            kind, *numbers = path.stem.split("-")
            if kind == "member":
                with suppress(OSError):
                    path.unlink()
                self.members += [number for number in numbers if number not in self.members]
            elif kind in ("ask", "share", "answers") and int(numbers[0]) < step - 1:
                with suppress(OSError):
                    path.unlink()

    def share(self, data: bytes = b"") -> bytes:
        """Make the folder ready, once; members read what they need from the run directory."""
        if not self._is_open:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)  # a member may rename it now
            self._write("host", f"{os.getpid()}-{time.time_ns()}")
            self._is_open = True
        return data

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        return [list(numbers)]

    def points(self, count: int, compute: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
        name = self._next()
        if not self.members:
            return list(compute(range(count)))
        size = len(self.members) + 1
        self._write(f"ask-{name}", self.members)
        began = time.monotonic()
        found = dict(zip(range(0, count, size), compute(range(0, count, size)), strict=True))
        patience = max(PATIENCE, FACTOR * (time.monotonic() - began))
        deadline = time.monotonic() + patience
        for rank, member in enumerate(list(self.members), start=1):
            indices = range(rank, count, size)
            losses = self._losses_of(f"share-{name}-{member}", deadline) if indices else []
            if losses is None or len(losses) != len(indices):
                self.members.remove(member)
                losses = list(compute(indices))
            found |= dict(zip(indices, losses, strict=True))
        answers = [found[index] for index in range(count)]
        self._write(f"answers-{name}", answers)
        return answers

    def by_first(self, count: int, compute: Callable[[], Sequence[float]]) -> list[float]:
        name, answers = self._next(), list(compute())
        if self.members:
            self._write(f"answers-{name}", answers)
        return answers

    def agree(self, what: str, value: str) -> None:
        """Write down what members must have too."""
        self._write("agreed", {**(self._read("agreed") or {}), what: value})

    def end(self) -> None:
        self._write("ended", self.step)

    def _losses_of(self, name: str, deadline: float) -> list[float] | None:
        pause = _Pause()
        while True:
            losses: list[float] | None = self._read(name)
            if losses is not None or time.monotonic() > deadline:
                return losses
            pause.sleep()


class Member(_Folder):
    """A process that helps a run.

    Args:
        run: its directory.
        length: bytes of its journal that this process has read already.
        seconds: after which a host that does not answer is given up.
    """

    rank = 1

    def __init__(self, run: Path, length: int, seconds: float) -> None:
        super().__init__(run)
        self.journal, self.seconds = run / "journal.jsonl", seconds
        self.computed = 0
        self._name, self._host = f"{os.getpid()}x{time.time_ns()}", self._read("host")
        self._length, self._records, self._given = length, dict[int, list[float]](), 0
        self._announce()

    def begin(self, step: int) -> None:
        super().begin(step)
        self._given = 0
        self._records = {known: answers for known, answers in self._records.items() if known >= step}

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Wait for the end, which is the only answer."""
        found: list[list[float]] = self._waited(lambda: None)
        return found

    def points(self, count: int, compute: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
        name, shared = self._next(), False

        def look() -> list[float] | None:
            nonlocal shared
            asked = None if shared else self._read(f"ask-{name}")
            if asked is not None:
                shared = True
                if self._name in asked:
                    indices = range(1 + asked.index(self._name), count, len(asked) + 1)
                    self._write(f"share-{name}-{self._name}", list(compute(indices)))
                    self.computed += len(indices)
                else:
                    self._announce()
            return self._answers(name, count)

        return self._took(self._waited(look))

    def by_first(self, count: int, compute: Callable[[], Sequence[float]]) -> list[float]:
        name = self._next()
        return self._took(self._waited(lambda: self._answers(name, count)))

    def agree(self, what: str, value: str) -> None:
        agreed = self._waited(lambda: (self._read("agreed") or {}).get(what), ends=False)
        if agreed != value:
            raise RunFailed(
                f"This member has another {what} than the run: {value} here, {agreed} there. Its versions or its kind "
                "of processor differ; the run goes on without it."
            )

    def _announce(self) -> None:
        self._write(f"member-{self._name}", self.step)

    def _took(self, answers: list[float]) -> list[float]:
        self._given += len(answers)
        return answers

    def _answers(self, name: str, count: int) -> list[float] | None:
        """Answers of a question, from their file or from the journal."""
        if (answers := self._read(f"answers-{name}")) is not None:
            return [float(answer) for answer in answers]
        self._read_journal()
        record = self._records.get(self.step)
        return None if record is None else record[self._given : self._given + count]

    def _read_journal(self) -> None:
        """Read the lines that were added to the journal."""
        if self.journal.stat().st_size <= self._length:
            return
        with self.journal.open("rb") as file:
            file.seek(self._length)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._length += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            if record["step"] >= self.step:
                self._records[record["step"]] = [float(answer) for answer in record["answers"]]

    def _waited(self, look: Callable[[], Any], ends: bool = True) -> Any:
        """What `look` finds, as soon as it finds something."""
        deadline, pause = time.monotonic() + self.seconds, _Pause()
        while True:
            if (found := look()) is not None:
                return found
            if ends and self._read("ended") is not None:
                raise Ended
            if self._read("host") != self._host:
                raise Restarted
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"{self.folder.parent}: the run has not gone on for {self.seconds:g} s. Start it again with "
                    "--resume, and join again; a run with long evaluations needs a longer --rank-timeout."
                )
            pause.sleep()


class _Pause:
    """Sleeps that become longer."""

    def __init__(self) -> None:
        self.seconds = 0.001

    def sleep(self) -> None:
        time.sleep(self.seconds)
        self.seconds = min(LONGEST_SLEEP, 1.5 * self.seconds)

"""Programs that score predictions: who may start them, and how one is run.

What a user types is the user's own: `--objective command:…`, and a task file that belongs to the user and is named on
the command line. It is remembered by its text and the working folder. What another file names (a run directory, a
settings file, a task file of another user) is run after it was remembered, or with --allow-commands.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO

from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.permissions import COMMANDS, VARIABLE, is_granted
from zoplat.paths import private_folder

SECONDS = 120.0
"""The longest that a program may take for one answer, unless the environment says otherwise."""
SECONDS_VARIABLE = "ZOPLAT_COMMAND_SECONDS"
MOST = 1 << 16
"""Bytes that a program may print."""
_own: set[str] = set()
_typed: set[str] = set()
_kept: set[str] = set()


def is_code(name: str) -> bool:
    """Whether the name of a metric or objective is a program or a function."""
    return ":" in name


def typed(objective: object, task: object) -> None:
    """Note what the user gave for this command itself: an objective, the path of a task file."""
    if isinstance(objective, str) and is_code(objective):
        _own.add(objective)
    if isinstance(task, str | Path) and "\0" not in str(task):
        _typed.add(os.path.realpath(task))


def note(metric: str, task: Path) -> None:
    """Take the metric of a task file as the user's own, if the user gave the file and it belongs to the user."""
    if is_code(metric) and os.path.realpath(task) in _typed and _belongs(task):
        _own.add(metric)


def is_known(name: str) -> bool:
    """Whether the user wrote this program or function, ran it here before, or allows commands."""
    return name in _own or is_granted(COMMANDS) or _mark(name) in _remembered()


def require(name: str) -> None:
    """Raise ZoplatError unless the user wrote this program or function, ran it here before, or allows commands."""
    if not is_known(name):
        raise ZoplatError(
            f"A file, not this command line, asks to run '{name[:200]}' as you. Look at it, and if you trust whoever "
            f"wrote it, add --allow-commands (or set {VARIABLE}={COMMANDS})."
        )
    _remember(name)


def answer_of(words: Sequence[str], text: str) -> str:
    """What a program prints for a text on its standard input; it is started without a shell.

    Raises:
        RunFailed: it can't be started, fails, takes too long, or prints too much.
    """
    seconds, name = _seconds(), shlex.join(words)
    with tempfile.TemporaryFile() as given:
        given.write(text.encode("utf-8", "replace"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                words, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or problem
            raise RunFailed(f"{words[0]} could not be started: {reason}.") from None
    streams = [_Stream(process, process.stdout), _Stream(process, process.stderr)]
    try:
        process.wait(seconds)
        for stream in streams:
            stream.reader.join(seconds)
    except subprocess.TimeoutExpired:
        raise RunFailed(
            f"{name} took longer than {seconds:g} s and was stopped. Set {SECONDS_VARIABLE} to allow it more."
        ) from None
    finally:
        _stop(process)
    printed, errors = (stream.text for stream in streams)
    if any(stream.is_full for stream in streams):
        raise RunFailed(f"{name} printed more than {MOST // 1024} KiB and was stopped; it must print one number.")
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1][:500]
        raise RunFailed(f"{name} ended with status {process.returncode}: {last}")
    return printed


class _Stream:
    """What a process prints, read in a thread; the process is stopped when it prints too much."""

    def __init__(self, process: subprocess.Popen[bytes], file: IO[bytes] | None) -> None:
        self.process, self.file = process, file
        self.data = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.file
        with self.file:
            while len(self.data) <= MOST:
                more = self.file.read1(MOST) if hasattr(self.file, "read1") else self.file.read(MOST)
                if not more:
                    return
                self.data += more
        _stop(self.process)

    @property
    def is_full(self) -> bool:
        return len(self.data) > MOST

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _seconds() -> float:
    given = os.environ.get(SECONDS_VARIABLE)
    try:
        seconds = float(given) if given else SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ZoplatError(f"{SECONDS_VARIABLE} must be a positive number of seconds, got '{given}'.")
    return min(seconds, 1e6)


def _belongs(path: Path) -> bool:
    """Whether a file is this user's, or root's, and not everybody may write it."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return not facts.st_mode & stat.S_IWOTH and (not hasattr(os, "geteuid") or facts.st_uid in (0, os.geteuid()))


def _mark(name: str) -> str:
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        folder = ""
    return sha256(f"{folder}\n{name}".encode("utf-8", "surrogatepass")).hexdigest()


def _remembered() -> set[str]:
    try:
        return set((private_folder("private") / "commands").read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return set()


def _remember(name: str) -> None:
    mark = _mark(name)
    if mark in _kept or mark in _remembered():
        return
    _kept.add(mark)
    try:
        with (private_folder("private") / "commands").open("a", encoding="ascii") as file:
            file.write(f"{mark}\n")
    except OSError:  # the cache is optional; the question will come again
        pass

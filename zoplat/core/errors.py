"""Errors that the user can act on: each says what was asked for, what was found, and what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from errno import ENOMEM
from pathlib import Path
from shlex import quote


class ZoplatError(Exception):
    """Something the user can put right; printed without a traceback."""

    exit_status = 2


class RunFailed(ZoplatError):
    """A run that began and could not go on."""

    exit_status = 1


class OutOfMemory(RunFailed):
    """A run that needed more memory than there was, or than it was allowed.

    Args:
        text: the message.
        run: its directory.
        phase: of it, in which that was.
        asked: bytes that could not be had; 0 where they are not known.
    """

    def __init__(self, text: str, run: Path, phase: str, asked: int = 0) -> None:
        self.run, self.phase, self.asked = run, phase, asked
        super().__init__(text)


class SkipStep(ZoplatError):
    """Something of a step that can't be made, though what follows may.

    Raised by a rule, it leaves out an estimate; raised by a method, it ends the step. A step of which no estimate was
    applied counts as skipped, and the run goes on with the next one.
    """


class NonFinite(SkipStep):
    """A loss or a coefficient that is not a finite number."""


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by Ctrl-C or a signal; the message has what goes on with it.

    Args:
        run: its directory, or that of a comparison.
        how: the command or the call that goes on; that of `zoplat run` when empty.
    """

    def __init__(self, run: Path, how: str = "") -> None:
        self.run = run
        how = how or f"zoplat run --resume --out {quote(str(run))}"
        super().__init__(f"what was done is saved. Go on with: {how}")


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory could not be had; runtimes have types of their own for that, or none."""
    if isinstance(problem, OSError):
        return problem.errno == ENOMEM
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and re.search(NO_MEMORY, str(problem), re.IGNORECASE) is not None
    )


NO_MEMORY = r"out of memory|can(?:no|')t allocate memory|bad_alloc|failed to allocate memory|can't start new thread"
"""In the messages of allocators, and of threads, whose stacks are memory."""


def bytes_asked(problem: BaseException) -> int:
    """Bytes that an allocator could not give, by its message; 0 where that does not say."""
    found = re.search(r"(?:[Tt]ried to allocate|Unable to allocate) ([\d.]+) ?([KMG]i?B|bytes)", str(problem))
    return int(float(found.group(1)) * SIZES[found.group(2)[0]]) if found else 0


SIZES = {"b": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> ZoplatError:
    """The error for a name that is not registered; it suggests the closest one that is.

    Args:
        kind: what was looked up, such as "estimator".
        name: as the user gave it.
        known: the registered names.
        hint: where to find them; all of them when empty.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    listing = hint or f"one of: {', '.join(names) or 'none'}"
    return ZoplatError(f"Unknown {kind} '{name}'.{guess}  ({listing})")

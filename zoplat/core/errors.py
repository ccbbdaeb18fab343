"""Errors that the user can act on: each says what was asked for, what was found, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from shlex import quote


class ZoplatError(Exception):
    """Something the user can put right; printed without a traceback."""

    exit_status = 2


class RunFailed(ZoplatError):
    """A run that began and could not go on."""

    exit_status = 1


class SkipStep(ZoplatError):
    """A step that can't be made, though the next one may; the engine restores θ, counts it as skipped and goes on."""


class NonFinite(SkipStep):
    """A loss or a coefficient that is not a finite number."""


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by Ctrl-C or a signal; the message has the command that goes on with it.

    Args:
        run: its directory.
        command: that begins such a run.
    """

    def __init__(self, run: Path, command: str = "zoplat run") -> None:
        self.run = run
        super().__init__(f"what was done is saved. Go on with: {command} --resume --out {quote(str(run))}")


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

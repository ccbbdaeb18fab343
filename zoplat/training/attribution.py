"""Who owns the memory of a peak: what the ledger books, what passes hold for a moment, and what neither knows of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from zoplat.core.device import Session
from zoplat.core.memory import IN_HOST_MEMORY, ON_CARD, MemoryReading, Trace
from zoplat.training.profiler import Profiler

LIBRARIES = {"python, torch and transformers", "noise kernels"}
"""Owners whose memory is on the host, wherever the weights are."""
OPENING = "libraries imported while opening, tokenizer and rows"
CODE = "code of libraries, read since"
HELD = "held by libraries since the first pass"
NOBODY = "no owner"
ALLOCATOR = "allocator of the device"


class Attribution:
    """Finds the owners of a session's peaks.

    Args:
        session: open, with its rows encoded, before any forward pass.

    Attributes:
        traced: by phase, what passes hold at their peak, by owner; empty where that can't be followed.
        beyond: host bytes that the ledger can't book, by owner, as found at the end.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.traced: dict[str, dict[str, int]] = {}
        found = session.beyond_ledger()  # gives back what opening has left with the allocator
        self._opening = session.memory().host - sum(session.ledger().values()) - sum(found.values())
        self.beyond: dict[str, int] = {}

    def tracer(self, trace: Trace) -> Profiler:
        """A profiler that reads a trace in place of the memory, for a step that is traced."""
        return Profiler(lambda: MemoryReading(trace.now, trace.peak), trace.reset, lambda: dict(trace.at_peak))

    def keep(self, profiler: Profiler) -> None:
        """Take over what a profiler of `tracer` has found."""
        for name, phase in profiler.phases.items():
            self.traced[name] = {owner: size for owner, size in phase.owners.items() if size > 0}

    def finish(self) -> None:
        """Find out what the ledger can't book; nothing is measured afterwards."""
        found = self._session.beyond_ledger()
        now, booked = self._session.memory().host, sum(self._session.ledger().values())
        held = now - booked - max(0, self._opening) - found.get(CODE, 0)
        beyond = {OPENING: self._opening, CODE: found.pop(CODE, 0), HELD: held, **found}
        self.beyond = {owner: size for owner, size in beyond.items() if size > 0}

    def rows(self, profiler: Profiler) -> list[dict[str, Any]]:
        """The profiler's rows with the owners of each peak, which add up to it.

        What the ledger books and what passes hold was counted; of the others, as much as is left of the peak.
        """
        rows = []
        for name, phase in profiler.phases.items():
            is_host = phase.device_peak is None
            peak = phase.host_peak if phase.device_peak is None else phase.device_peak
            booked = {o: size for o, size in phase.owners.items() if size and (is_host or not is_elsewhere(o))}
            known = {**booked, **self.traced.get(name, {})}
            others = self.beyond if is_host else {ALLOCATOR: peak}
            rows.append({"kind": "phase", "phase": name, **asdict(phase), "owners": shared_out(peak, known, others)})
        return rows


def is_on_host(owner: str) -> bool:
    """Whether an owner of a ledger is on the host, wherever the weights are."""
    return owner in LIBRARIES or owner.endswith(IN_HOST_MEMORY)


def is_elsewhere(owner: str) -> bool:
    """Whether an owner of a ledger is not on the accelerator that was read, but on the host or another card."""
    return is_on_host(owner) or ON_CARD in owner


def shared_out(peak: int, known: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    """Bytes by owner that add up to a peak.

    Args:
        peak: bytes.
        known: what was counted at the peak, by owner. Where that is more, because pages were never written or are
            used twice, the last ones get less.
        others: at most what these owners have of it, by owner, in the order in which they get what is left.

    >>> shared_out(10, {"weights": 6}, {"code": 2, "allocator": 5})
    {'weights': 6, 'code': 2, 'allocator': 2}
    >>> shared_out(10, {"weights": 6}, {"code": 2})
    {'weights': 6, 'code': 2, 'no owner': 2}
    """
    found, left = {}, peak
    for owner, size in (*known.items(), *others.items()):
        if size > 0 and left > 0:
            found[owner] = min(size, left)
            left -= found[owner]
    return {**found, **({NOBODY: left} if left > 0 else {})}

"""A limit of memory that a run is held to, and what is said when memory was not enough."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import OutOfMemory, bytes_asked
from zoplat.core.notices import counted
from zoplat.training.profiler import INFERENCE, TRAINING, Profiler

FORWARD = "activations and logits of a forward pass"
WANTED = {
    "open": "the weights of the model",
    "gradient": "activations that are kept for backpropagation, and gradients",
    "move": "scratch of a move of the weights",
    "rule": "the state of the method",
    "checkpoint": "a copy of weights and state",
    **dict.fromkeys(("inference", "baseline", "forward", "yardstick", "evaluate"), FORWARD),
}
"""Phase → what mostly takes new memory in it."""
SCORING = ("inference", "baseline", "evaluate")
"""Phases in which rows are scored."""
NOTABLE = 1.05
"""Peak of training over that of inference, above which a run says so."""
NAMED = 3
"""Owners that a message names."""


@dataclass(frozen=True)
class Limit:
    """A limit that a run is held to.

    Attributes:
        title: as it was asked for.
        size: bytes that the run may take.
        arrays: of them, what `Device.within` is to allow.
        planned, highest: bytes that the plan expects, and at most.
        chosen: flags that were chosen so that it fits; "" for none.
    """

    title: str
    size: int
    arrays: int
    planned: int
    highest: int
    chosen: str = ""

    def text(self, enforced: str) -> str:
        """The line about it in the header of a run.

        Args:
            enforced: by what, as `Device.within` says.
        """
        by = f"enforced by {enforced} from here on" if enforced else "which nothing enforces on this system"
        most = f"{in_gib(self.planned)}, {in_gib(self.highest)} at most"
        doubt = "" if self.highest <= self.size else ", so it may end for want of memory"
        chosen = f" · chosen to fit: {self.chosen}" if self.chosen else ""
        return f"memory {self.title}, {by} · planned {most}{doubt}{chosen}"


def confined(config: RunConfig, limit: Limit | None, profiler: Profiler) -> AbstractContextManager[str]:
    """A context in which a run whose model is open gets no more memory than its limit allows.

    Raises:
        MemoryError: opening has taken more already.
    """
    if limit is None:
        return nullcontext("")
    peak = profiler.peak
    if (most := peak.host_peak if peak.device_peak is None else peak.device_peak) > limit.size:
        profiler.failed = "open"
        raise MemoryError(f"Unable to allocate {most - limit.size} bytes")
    return config.device.within(limit.arrays)


def out_of_memory(
    problem: BaseException, phase: str, session: Session | None, limit: Limit | None, run: Path, steps: int | None
) -> OutOfMemory:
    """What to say when memory was not enough.

    Args:
        problem: what the allocator raised.
        phase: of the run.
        session: the model, if it was opened.
        limit: that the run is held to.
        run: its directory.
        steps: in its journal; None where there is none.
    """
    asked = bytes_asked(problem)
    more = f" asked for {in_mib(asked)} more" if asked else " asked for more than there was"
    held = f" In use were {_largest(session.ledger())}." if session else ""
    bound = f" The limit is --memory {limit.title}." if limit else ""
    kept = (
        f" The journal in {shlex.quote(str(run))} has the {counted(steps, 'step')} made so far."
        if steps is not None
        else " No step was made."
    )
    wanted = WANTED.get(phase, "rows and tokens")
    return OutOfMemory(f"Out of memory in the phase '{phase}': {wanted}{more}.{held}{bound}{kept}", run, phase, asked)


def over_inference(profiler: Profiler, session: Session) -> str | None:
    """What to say where training takes more than inference by more than `NOTABLE`, and whose that is; else None."""
    inference, training = (profiler.peak_of(*names) for names in (("open", *INFERENCE), TRAINING))
    pairs = (training.host_peak, inference.host_peak), (training.device_peak or 0, inference.device_peak or 0)
    peak, base = pairs[training.device_peak is not None]
    if not base or peak <= NOTABLE * base:
        return None
    own = {name: size for name, size in session.ledger().items() if not name.endswith(("weights", "transformers"))}
    known = sum(own.values())
    rest = f", and {in_mib(peak - base - known)} for passes of a step" if peak - base > known else ""
    return (
        f"training takes {in_mib(peak)}, {100 * (peak / base - 1):.0f} % more than inference: {_largest(own)}{rest}. "
        "A smaller --micro-batch-size takes less; --memory sets a limit"
    )


def _largest(owners: dict[str, Any]) -> str:
    largest = sorted(owners, key=lambda name: -owners[name])[:NAMED]
    return ", ".join(f"{name} {in_mib(owners[name])}" for name in largest)


def in_mib(size: int) -> str:
    """Bytes in MiB, as text."""
    return f"{size / 2**20:,.0f} MiB"


def in_gib(size: int) -> str:
    """Bytes in GiB, as text."""
    return f"{size / 2**30:.2f} GiB"

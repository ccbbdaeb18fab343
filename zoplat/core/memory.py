"""What a device tells of memory: bytes in use, and what a step allocates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

IN_FILES, IN_HOST_MEMORY = ", in files", ", in host memory"
"""Ends of names of owners in a ledger: mapped from files; on the host, although the model runs on an accelerator."""

ON_CARD = ", on "
"""Between owner and card in a ledger of several cards, for what is on another than the fullest, such as "cuda:1"."""


@dataclass(frozen=True)
class MemoryReading:
    """Bytes in use now, and the most since the last `reset_peak`; of several cards, those of the fullest.

    Attributes:
        host, host_peak: resident set size of the process.
        device, device_peak: of the accelerator's allocator; None without an accelerator.
        device_reserved: what the allocator has taken from the driver, in use or not; None where there is none.
    """

    host: int
    host_peak: int
    device: int | None = None
    device_peak: int | None = None
    device_reserved: int | None = None


class Trace(AbstractContextManager["Trace"], Protocol):
    """A context in which the memory of new arrays is counted while they live.

    Attributes:
        now, peak: bytes alive; the most since `reset`.
        at_peak: those of the peak by owner: activations, logits, gradients.
    """

    now: int
    peak: int
    at_peak: Mapping[str, int]

    def reset(self) -> None:
        """Begin a new peak from what is alive."""

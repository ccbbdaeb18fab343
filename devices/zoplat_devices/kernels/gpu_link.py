"""The way of tables to a device."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

LISTED = 1024
"""Rooms that are listed before those that are gone are struck off."""


class Link:
    """The way of tables to a device: copies that nothing waits for.

    Args:
        device: torch device.

    Attributes:
        is_closed: whether a recording is being made.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self.is_closed = False
        self._rooms: list[weakref.ref[Any]] = []

    def room(self, count: int) -> Any:
        """A tensor of words on the device."""
        import torch

        with torch.inference_mode(False):
            room = torch.empty(count, dtype=torch.int64, device=self.device)
        if len(self._rooms) > LISTED:
            self._rooms = [held for held in self._rooms if held() is not None]
        self._rooms.append(weakref.ref(room))
        return room

    @property
    def bytes(self) -> int:
        """Bytes of the rooms that are still held."""
        self._rooms = [held for held in self._rooms if held() is not None]
        return sum(int(room.nbytes) for held in self._rooms if (room := held()) is not None)

    def send(self, words: np.ndarray, room: Any) -> None:
        """Copy words to a room; from pinned memory, which its allocator keeps until the copy is done.

        Raises:
            RuntimeError: a recording is being made.
        """
        import torch

        if self.is_closed:
            raise RuntimeError("numbers of terms are sent in the middle of it")

        host = torch.empty(len(words), dtype=torch.int64, pin_memory=torch.device(self.device).type == "cuda")
        host.numpy()[:] = words
        room.copy_(host, non_blocking=True)

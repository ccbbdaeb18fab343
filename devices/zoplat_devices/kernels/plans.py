"""Jobs for fused kernels: how the weights of some blocks are cut, and where results are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Tile
from zoplat.space.rounding import Rounding
from zoplat_devices.kernels.tables import DTYPES, FROM_FLOAT32, JOB, Jobs, address

ENTRIES = 1 << 20  # of one job: long enough to amortise a call, short enough to share evenly between threads
PIECE = 1 << 16  # of one job where blocks are formed beside the weights, a few at a time


class Plan:
    """Some blocks and the jobs that cover them.

    Args:
        blocks: which.
        rounding: tells where θ is held.

    Attributes:
        inside: the jobs in place.
        beside: those that write beside the weights, targets counted from where a block's own begins.
        owner: for each job, the number of its block.
    """

    def __init__(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        made = [jobs_on(block, rounding, 0, block.size) for block in blocks]
        rows = np.concatenate(made) if made else np.zeros(0, JOB)
        self.owner = np.repeat(np.arange(len(made)), [len(jobs) for jobs in made])
        rows["line"] = self.owner
        self.inside, self.beside = Jobs(rows), Jobs(rows.copy())
        self.beside.rows["target"] = 0
        self.beside.rows["dtype"] = np.array([conversion(block, rounding) for block in blocks])[self.owner]
        self._first = np.searchsorted(self.owner, np.arange(len(made) + 1))
        self._chosen: dict[bytes, Jobs] = {}

    def of_line(self, line: int) -> slice:
        """The jobs of one block."""
        return slice(int(self._first[line]), int(self._first[line + 1]))

    def on(self, lines: np.ndarray) -> Jobs:
        """Those in place on some of the blocks, given by a mask."""
        if lines.all():
            return self.inside
        name = lines.tobytes()
        if name not in self._chosen:
            self._chosen[name] = Jobs(self.inside.rows[lines[self.owner]])
        return self._chosen[name]


class Cut:
    """Some tiles cut into pieces that are written one after the other.

    Args:
        tiles: of blocks of one dtype.
        rounding: tells where θ is held.

    Attributes:
        begins: for each tile, the entries before it.
    """

    def __init__(self, tiles: Sequence[Tile], rounding: Rounding) -> None:
        block = tiles[0].block
        itemsize = block.array.nbytes // block.size
        width = np.array([tile.block.size // tile.block.shape[0] for tile in tiles])
        start, stop = (np.array([getattr(tile, end) for tile in tiles]) * width for end in ("start", "stop"))
        pieces = -(-(stop - start) // PIECE)
        self.begins = np.cumsum(stop - start) - (stop - start)
        self._bytes = int((stop - start).sum()) * itemsize
        owner = np.repeat(np.arange(len(tiles)), pieces)
        first = start[owner] + (np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner]) * PIECE
        self._pieces = np.zeros(len(owner), JOB)
        self._pieces["source"] = np.array([address(rounding.theta_of(tile.block)) for tile in tiles])[owner]
        self._pieces["target"] = (self.begins - start)[owner] * itemsize
        self._pieces["start"], self._pieces["stop"] = first, np.minimum(first + PIECE, stop[owner])
        self._pieces["line"], self._pieces["dtype"] = owner, conversion(block, rounding)
        self._jobs: dict[tuple[int, ...], Jobs] = {}

    def jobs(self, points: int, chosen: tuple[int, ...]) -> Jobs:
        """Those that write some of so many points, each behind the other; lines are counted tile by tile."""
        name = (points, *chosen)
        if name not in self._jobs:
            numbers = np.array(chosen)
            rows = np.repeat(self._pieces[:, None], len(numbers), axis=1)  # θ is read from memory once for all
            rows["target"] += np.arange(len(numbers)) * self._bytes
            rows["line"] = rows["line"] * points + numbers
            self._jobs[name] = Jobs(rows.reshape(-1))
        return self._jobs[name]


def jobs_on(block: Block, rounding: Rounding, start: int, stop: int, entries: int = ENTRIES) -> np.ndarray:
    """Jobs over entries `start` to `stop` of θ on a block, in place, for the first line."""
    starts = np.arange(start, stop, entries)
    jobs = np.zeros(len(starts), JOB)
    jobs["source"] = jobs["target"] = address(rounding.theta_of(block))
    jobs["start"], jobs["stop"] = starts, np.minimum(starts + entries, stop)
    jobs["dtype"] = DTYPES["float32" if has_master(block, rounding) else block.dtype]
    return jobs


def scratch_jobs(tile: Tile, source: Any, out: Any, dtype: int) -> Jobs:
    """Jobs over one tile from an array of its shape to another; entries are numbered as those of the block."""
    start = tile.start * (tile.size // tile.shape[0])
    starts = np.arange(start, start + tile.size, PIECE)
    rows = np.zeros(len(starts), JOB)
    rows["source"], rows["target"] = address(source) - 4 * start, address(out) - 4 * start
    rows["start"], rows["stop"] = starts, np.minimum(starts + PIECE, start + tile.size)
    rows["dtype"] = dtype
    return Jobs(rows)


def conversion(block: Block, rounding: Rounding) -> int:
    """The kernels' opcode for the conversion of θ on a block to the block's dtype."""
    return FROM_FLOAT32[block.dtype] if has_master(block, rounding) else DTYPES[block.dtype]


def has_master(block: Block, rounding: Rounding) -> bool:
    """Whether θ on a block is held in another array than the block's own."""
    return rounding.theta_of(block) is not block.array

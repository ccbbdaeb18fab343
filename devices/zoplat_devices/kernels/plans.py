"""Tables of jobs for fused kernels: how the weights of blocks are split, and where results are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoplat.core.blocks import Block, Tile
from zoplat.core.codes import PACKED
from zoplat.space.rounding import Rounding
from zoplat_devices.kernels.tables import DTYPES, FROM_FLOAT32, JOB, PROBED, SUM, Jobs, address

ENTRIES = 1 << 20  # of one job in place: long enough to amortise a call, short enough to balance threads
PIECE = 1 << 16  # entries of one job out of place, where a few blocks or tiles are formed at a time


class Plan:
    """The jobs that cover some blocks.

    Args:
        blocks: to be covered, a line of terms each.
        rounding: knows which array holds θ.

    Attributes:
        in_place: jobs that update θ.
        out_of_place: jobs that write to another array; targets are relative to its first entry.
        owner: for each job, the line of its block.
    """

    def __init__(self, blocks: Sequence[Block], rounding: Rounding) -> None:
        tables = [jobs_on(block, rounding, 0, block.size, ENTRIES) for block in blocks]
        others = [jobs_to(jobs, block, rounding, 0) for jobs, block in zip(tables, blocks, strict=True)]
        self.owner = np.repeat(np.arange(len(tables)), [len(jobs) for jobs in tables])
        self.in_place, self.out_of_place = Jobs(_joined(tables)), Jobs(_joined(others))
        self.in_place.rows["line"] = self.out_of_place.rows["line"] = self.owner
        self._first = np.searchsorted(self.owner, np.arange(len(tables) + 1))
        self._selected: dict[bytes, Jobs] = {}

    def of_line(self, line: int) -> slice:
        """The range of jobs of one block."""
        return slice(int(self._first[line]), int(self._first[line + 1]))

    def on(self, lines: np.ndarray) -> Jobs:
        """The jobs in place on those blocks whose lines are selected by a mask."""
        if lines.all():
            return self.in_place
        name = lines.tobytes()
        if name not in self._selected:
            self._selected[name] = Jobs(self.in_place.rows[lines[self.owner]])
        return self._selected[name]


class Cut:
    """The jobs that write some tiles to an array, one after the other, for one or several points.

    Args:
        tiles: of blocks of one dtype.
        rounding: knows which array holds θ.

    Attributes:
        begins: for each tile, its offset in the array, in entries.
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
        """Jobs that write the chosen ones of `points` points, a row of the target each.

        The table of terms has a line for each tile and point: number tile · points + point.
        """
        name = (points, *chosen)
        if name not in self._jobs:
            numbers = np.array(chosen)
            rows = np.repeat(
                self._pieces[:, None], len(numbers), axis=1
            )  # in this order, a piece of θ is read from memory once for all points
            rows["target"] += np.arange(len(numbers)) * self._bytes
            rows["line"] = rows["line"] * points + numbers
            self._jobs[name] = Jobs(rows.reshape(-1))
        return self._jobs[name]


class Gathered:
    """The jobs that write sums on some tiles to one array, float32, a line of terms for each tile.

    Args:
        tiles: of any blocks.
        empty: (shape, dtype) → a new array of the device.

    Attributes:
        jobs: that write them.
        whole: what is written, tile after tile.
        bytes: of the array.
    """

    def __init__(self, tiles: Sequence[Tile], empty: Callable[[tuple[int, ...], str], Any]) -> None:
        ends = np.cumsum([0, *(tile.size for tile in tiles)]).tolist()
        self.whole = empty((ends[-1],), "float32")
        self.bytes = int(self.whole.nbytes)
        arrays = [self.whole[a:b].reshape(t.shape) for a, b, t in zip(ends, ends[1:], tiles, strict=False)]
        rows = [scratch_jobs(tile, out, out, SUM).rows for tile, out in zip(tiles, arrays, strict=True)]
        for line, some in enumerate(rows):
            some["line"] = line
        self.jobs = Jobs(_joined(rows))


def jobs_on(block: Block, rounding: Rounding, start: int, stop: int, entries: int) -> np.ndarray:
    """Jobs in place over entries `start` to `stop` of θ on a block, at most `entries` each, for line 0.

    Those of codes are whole rows, as two entries of a row share a byte.
    """
    codes = is_of_codes(block)
    if codes:
        entries = max(1, entries // block.shape[1]) * block.shape[1]
    starts = np.arange(start, stop, entries)
    jobs = np.zeros(len(starts), JOB)
    jobs["source"] = jobs["target"] = address(rounding.theta_of(block))
    jobs["start"], jobs["stop"] = starts, np.minimum(starts + entries, stop)
    jobs["dtype"] = DTYPES["float32" if has_master(block, rounding) else block.dtype]
    if codes:
        jobs["source"], jobs["columns"] = address(rounding.rest_of(block)), block.shape[1]
    return jobs


def jobs_to(jobs: np.ndarray, block: Block, rounding: Rounding, target: int) -> np.ndarray:
    """The same jobs, writing what a forward pass is to see to another array, by its address."""
    jobs = jobs.copy()
    jobs["target"], jobs["dtype"] = target, conversion(block, rounding)
    jobs["source"] = address(rounding.theta_of(block))
    return jobs


def scratch_jobs(tile: Tile, source: Any, out: Any, dtype: int) -> Jobs:
    """Jobs over one tile from an array of its shape to another, for line 0; entries are numbered as in the block."""
    start = tile.start * (tile.size // tile.shape[0])
    starts = np.arange(start, start + tile.size, PIECE)
    rows = np.zeros(len(starts), JOB)
    rows["source"], rows["target"] = address(source) - 4 * start, address(out) - 4 * start
    rows["start"], rows["stop"] = starts, np.minimum(starts + PIECE, start + tile.size)
    rows["dtype"] = dtype
    return Jobs(rows)


def conversion(block: Block, rounding: Rounding) -> int:
    """Opcode for the conversion of θ on a block to the block's dtype, in another array."""
    if is_of_codes(block):
        return PROBED
    return FROM_FLOAT32[block.dtype] if has_master(block, rounding) else DTYPES[block.dtype]


def is_of_codes(block: Block) -> bool:
    """Whether a block is of codes of 4 bits."""
    return block.dtype == PACKED


def has_master(block: Block, rounding: Rounding) -> bool:
    """Whether θ on a block is in a master copy and not in the block's own array."""
    return rounding.theta_of(block) is not block.array


def _joined(tables: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(tables) if tables else np.zeros(0, JOB)

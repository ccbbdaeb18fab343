"""Rules run by fused kernels: what a sweep's function does is traced, and done in one pass on blocks that allow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from zoplat.core.blocks import Block, Buffer, Tile
from zoplat.core.direction import Direction
from zoplat.space.backend import Kernel
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import Rounding
from zoplat.space.update import Update
from zoplat_devices.kernels.plans import PIECE, Plan, is_of_codes, jobs_on
from zoplat_devices.kernels.tables import Jobs, Kernels, Sums, address
from zoplat_devices.kernels.traced import Program, traced


class Moves(Protocol):
    """What running rules takes of a backend."""

    kernels: Kernels
    rounding: Rounding

    def sums_of(self, blocks: Sequence[Block], direction: Direction) -> Sums:
        """The terms of a direction on some blocks, a line each, and behind them the streams of stochastic rounding."""

    def plan_of(self, blocks: Sequence[Block]) -> Plan:
        """The jobs that cover some blocks."""

    def updated(self, tile: Tile, update: Update) -> Any:
        """W as an update leaves it on a tile."""

    def all_near(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Some buffers' rows where the weights are, to be read."""

    def entries(self, direction: Direction, tile: Tile, purpose: str = "sum") -> Any:
        """The direction's entries on a tile."""


class Rules:
    """Runs rules, and keeps the last one's program."""

    def __init__(self) -> None:
        self._traced: tuple[Kernel, frozenset[int], Program | None] | None = None

    def run(
        self,
        backend: Moves,
        blocks: Sequence[Block],
        kernel: Kernel,
        update: Update,
        direction: Direction,
        buffers: Sequence[Buffer],
        drift: DriftMeter,
    ) -> Sequence[Block]:
        """Sweep blocks that have the same buffers and decay alike; returns those on which the rule can't run.

        Args: the backend whose weights they are; the others as in `Backend.sweep`.
        """
        kernels, rounding = backend.kernels, backend.rounding
        arrays = {block.name: [buffer.arrays.get(block.name) for buffer in buffers] for block in blocks}
        able = [block for block in blocks if kernels.runs_rules and _is_plain(block, arrays[block.name])]
        program = self._program(kernel, arrays[able[0].name]) if able else None
        if program is None:
            return blocks
        factor, moves = update.on(able[0])
        moved, entries = backend.sums_of(able, moves), backend.sums_of(able, direction)
        is_fused = moved.fused & entries.fused
        done = [block for block, fused in zip(able, is_fused, strict=True) if fused]
        if not done:
            return blocks
        if kernels.prefers_few_calls:
            jobs = backend.plan_of(able).on(is_fused)
        else:  # one block, for all cores
            [block] = done
            jobs = Jobs(jobs_on(block, rounding, 0, block.size, PIECE))
        samples = [_sample(backend, block, kernel, update, direction, arrays[block.name], drift) for block in done]
        given = np.zeros((len(able), len(buffers)), np.int64)
        for line, block in enumerate(able):
            given[line] = [0 if array is None else address(array) for array in arrays[block.name]]
        kernels.rule(jobs, moved, factor, entries, program, given, rounding.is_stochastic)
        for block, (before, theta) in zip(done, samples, strict=True):
            rounding.publish(block)
            tile = Tile(block, 0, drift.rows(block))
            [stored] = backend.all_near([tile.of(rounding.theta_of(block))])
            drift.after(tile, stored if theta is None else theta, before)
        return [block for block in blocks if block not in done]

    def _program(self, kernel: Kernel, arrays: Sequence[Any]) -> Program | None:
        """The program of a rule's kernel, kept for the next blocks; None where it can't be traced."""
        absent = frozenset(i + 2 for i, array in enumerate(arrays) if array is None)
        if self._traced is None or self._traced[0] is not kernel or self._traced[1] != absent:
            self._traced = kernel, absent, traced(kernel, len(arrays) + 2, absent)
        return self._traced[2]


def is_float32(array: Any) -> bool:
    """Whether entries of a numpy array or torch tensor are float32."""
    return str(array.dtype).endswith("float32")


def _is_plain(block: Block, arrays: Sequence[Any]) -> bool:
    """Whether a block is of floats, and the arrays of buffers on it are float32 and have its shape."""
    return not is_of_codes(block) and all(
        array is None or (tuple(array.shape) == block.shape and is_float32(array)) for array in arrays
    )


def _sample(
    backend: Moves,
    block: Block,
    kernel: Kernel,
    update: Update,
    direction: Direction,
    arrays: Sequence[Any],
    drift: DriftMeter,
) -> tuple[Any, Any]:
    """θ on the sampled rows of a block before a rule runs; and after it, where it will be stored in 16 bits."""
    tile = Tile(block, 0, drift.rows(block))
    before = drift.before(tile, backend.updated(tile, update)) if tile.stop else None
    if before is None or is_float32(backend.rounding.theta_of(block)):
        return before, None
    theta, entries = 1.0 * before, backend.entries(direction, tile, "gradient")
    rows = backend.all_near([None if array is None else tile.of(array) for array in arrays])
    kernel(theta, entries, *(None if row is None else 1.0 * row for row in rows))
    return before, theta

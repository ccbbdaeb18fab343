"""Cost of one pass over the weights, for every law and rounding, relative to reading and writing the weights.

The baseline for float32 weights and for codes of 4 bits is an in-place addition of numpy to as many float32 numbers, in
two threads. Passes over bfloat16 weights are compared with those that round to nearest. On a GPU the baseline is `add_`
of torch for both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.steps import synchronize
from bench.timing import clocked, frozen_heap, summary, without_collection
from zoplat import Block, Direction, Key, Sampler, ZoplatError
from zoplat.core.codes import PACKED, CodesBlock
from zoplat.registry import catalogue
from zoplat.space.parameter_space import ParameterSpace
from zoplat.space.rounding import RoundingName
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.native import kernels as native_kernels
from zoplat_devices.pytorch.backends import backend_for

Work = Callable[[], object]

LAWS = ("rademacher", "gaussian", "low-rank")
COLUMNS = 576
FLOOR = "read and write"
TALL, WIDE = 8192, 2048
"""Shape of the matrices on a GPU."""
ADD, RANDOM = "add_", "randn_like and add_"
"""On a GPU: the baseline, and what PyTorch takes to do it with random numbers."""
ROUNDINGS: tuple[RoundingName, ...] = ("nearest", "stochastic", "master")
DTYPES = ("float32", "bfloat16", PACKED)


def label(dtype: str) -> str:
    """The label that --only is matched against."""
    return f"pass/{dtype}"


def rows(dtype: str, rounds: int, millions: float = 100) -> list[dict[str, Any]]:
    """Rows of the results for weights of one dtype, `millions` of them."""
    count = int(millions * 1e6) // COLUMNS
    works = {"float32": wide, "bfloat16": narrow, PACKED: packed}[dtype](count)
    bases = {name: f"{name.split(', ')[0]}, nearest" if dtype == "bfloat16" else FLOOR for name in works}
    return timed(works, bases, dtype, rounds, count * COLUMNS)


def rows_on(kind: str, dtype: str, rounds: int, millions: float = 1300) -> list[dict[str, Any]]:
    """The same on a device of torch, in matrices of 16 million weights; all of them relative to `add_`."""
    works, count = on_device(kind, dtype, int(millions * 1e6))
    return timed(works, dict.fromkeys(works, ADD), dtype, rounds, count, partial(synchronize, kind))


def timed(
    works: dict[str, Work],
    bases: dict[str, str],
    dtype: str,
    rounds: int,
    count: int,
    wait: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Rows of the results for passes over `count` weights that take turns.

    Args:
        works: by name; the first round of all of them is not counted.
        bases: for each name the one that its time is divided by.
        dtype: of the weights.
        rounds: that count.
        count: of the weights.
        wait: waits for the device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with frozen_heap():
        for _ in range(rounds + 1):
            for name, work in works.items():
                with without_collection():
                    seconds[name].append(clocked(work, wait)[0])
    results = []
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times[1:], seconds[bases[name]][1:], strict=True)]
        ns = 1e9 * statistics.median(times[1:]) / count
        results.append({"kind": "pass", "dtype": dtype, "step": name, "ns": round(ns, 5), "wall": summary(ratios)})
    return results


def wide(count: int) -> dict[str, Work]:
    """Updates along one and two draws of each law, and the baseline."""
    theta: Any = np.full((count, COLUMNS), 0.01, np.float32)
    moved = ParameterSpace([Block("w", theta)], FusedBackend(kernels(), np.empty), "in-place")
    works = {FLOOR: floor(theta)}
    for name in LAWS:
        for terms in (1, 2):
            works[draws(name, terms)] = move(moved, law(name), terms)
    return works


def narrow(count: int) -> dict[str, Work]:
    """Updates along one draw of each law, for each rounding."""

    def empty(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    works: dict[str, Work] = {}
    for rounding in ROUNDINGS:
        theta = (0.02 * torch.randn(count, COLUMNS)).bfloat16()
        moved = ParameterSpace(
            [Block("w", theta, "bfloat16")], FusedBackend(kernels(), empty), "exact", rounding=rounding
        )
        works |= {f"{name}, {rounding}": move(moved, law(name), 1) for name in LAWS}
    return dict(sorted(works.items(), key=lambda item: LAWS.index(item[0].split(", ")[0])))


def packed(count: int) -> dict[str, Work]:
    """Probes and updates of codes of 4 bits by the law made for them, and the baseline on as many float32 weights."""
    codes = torch.randint(256, (count, COLUMNS // 2), dtype=torch.uint8)
    block, probed = CodesBlock("w.codes", codes), torch.empty_like(codes)
    space = ParameterSpace([block], backend_for([block], "cpu"), "exact", "stochastic")
    z = space.draw(law("rounded"), Key(0, 0, 0))

    def update() -> None:
        space.add(0.1 * z)
        space.settle()

    theta = np.full((count, COLUMNS), 0.01, np.float32)
    return {FLOOR: floor(theta), "rounded, probe": lambda: space.form(block, z, probed), "rounded, update": update}


def on_device(kind: str, dtype: str, count: int) -> tuple[dict[str, Work], int]:
    """Updates of weights on a device of torch along one and two draws of each law, and `add_`; and how many weights."""
    rows = max(1, min(TALL, count // WIDE))
    theta = torch.full((max(1, count // (rows * WIDE)), rows, WIDE), 0.01, dtype=getattr(torch, dtype), device=kind)
    blocks = [Block(f"w{i}", array, dtype) for i, array in enumerate(theta)]
    moved = ParameterSpace(blocks, backend_for(blocks, kind), "in-place")
    works: dict[str, Work] = {
        ADD: lambda: theta.add_(1e-9),
        RANDOM: lambda: theta.add_(torch.randn_like(theta), alpha=1e-9),
    }
    works |= {draws(name, terms): move(moved, law(name), terms) for name in LAWS for terms in (1, 2)}
    if dtype == "bfloat16":
        exact = ParameterSpace(blocks, backend_for(blocks, kind), "exact", rounding="stochastic")
        works |= {f"{draws(name, 1)}, stochastic": move(exact, law(name), 1) for name in LAWS}
    return works, theta.numel()


def draws(law: str, terms: int) -> str:
    """The name of a pass along so many draws of a law."""
    return f"{law}, {terms} {'draws' if terms > 1 else 'draw'}"


def floor(theta: Any) -> Work:
    """The baseline: read and write every weight once."""
    pool, halves = ThreadPoolExecutor(2), np.array_split(theta, 2)

    def work() -> None:
        list(pool.map(lambda half: np.add(half, np.float32(1e-3), out=half), halves))

    return work


def move(space: ParameterSpace, sampler: Sampler, terms: int) -> Work:
    """One pass that adds `terms` draws of a law, the same ones each time."""
    direction = sum((1e-6 * space.draw(sampler, Key(0, 0, draw)) for draw in range(terms)), Direction())

    def work() -> None:
        space.add(direction)
        space.settle()

    return work


def law(name: str) -> Sampler:
    """The law (sampler) registered under a name."""
    sampler: Sampler = catalogue().entry("sampler", name).value
    return sampler


def kernels() -> Any:
    """The compiled kernels; raises ZoplatError where there is no compiler."""
    compiled = native_kernels()
    if compiled is None:
        raise ZoplatError("There are no kernels to measure, because no C compiler was found. pip install ziglang")
    return compiled

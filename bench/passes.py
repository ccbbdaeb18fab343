"""Cost of one pass over the weights, for every law and rounding, relative to reading and writing the weights.

The baseline for float32 weights is an in-place addition of numpy in two threads. Passes over bfloat16 weights are
compared with those that round to nearest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from bench.timing import clocked, frozen_heap, summary, without_collection
from zoplat import Block, Direction, Key, Sampler, ZoplatError
from zoplat.registry import catalogue
from zoplat.space.parameter_space import ParameterSpace
from zoplat.space.rounding import RoundingName
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.native import kernels as native_kernels

LAWS = ("rademacher", "gaussian", "low-rank")
COLUMNS = 576
FLOOR = "read and write"
ROUNDINGS: tuple[RoundingName, ...] = ("nearest", "stochastic", "master")
DTYPES = ("float32", "bfloat16")


def label(dtype: str) -> str:
    """The label that --only is matched against."""
    return f"pass/{dtype}"


def rows(dtype: str, rounds: int, millions: float = 100) -> list[dict[str, Any]]:
    """Rows of the results for weights of one dtype, `millions` of them."""
    count = int(millions * 1e6) // COLUMNS
    works = wide(count) if dtype == "float32" else narrow(count)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with frozen_heap():
        for _ in range(rounds + 1):
            for name, work in works.items():
                with without_collection():
                    seconds[name].append(clocked(work)[0])
    results = []
    for name, times in seconds.items():
        base = FLOOR if dtype == "float32" else f"{name.split(', ')[0]}, nearest"
        ratios = [a / b for a, b in zip(times[1:], seconds[base][1:], strict=True)]
        ns = 1e9 * statistics.median(times[1:]) / (count * COLUMNS)
        results.append({"kind": "pass", "dtype": dtype, "step": name, "ns": round(ns, 4), "wall": summary(ratios)})
    return results


def wide(count: int) -> dict[str, Callable[[], None]]:
    """Updates along one and two draws of each law, and the baseline."""
    theta: Any = np.full((count, COLUMNS), 0.01, np.float32)
    moved = ParameterSpace([Block("w", theta)], FusedBackend(kernels(), np.empty), "in-place")
    works = {FLOOR: floor(theta)}
    for name in LAWS:
        for terms in (1, 2):
            works[f"{name}, {terms} {'draws' if terms > 1 else 'draw'}"] = move(moved, law(name), terms)
    return works


def narrow(count: int) -> dict[str, Callable[[], None]]:
    """Updates along one draw of each law, for each rounding."""

    def empty(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    works: dict[str, Callable[[], None]] = {}
    for rounding in ROUNDINGS:
        theta = (0.02 * torch.randn(count, COLUMNS)).bfloat16()
        moved = ParameterSpace(
            [Block("w", theta, "bfloat16")], FusedBackend(kernels(), empty), "exact", rounding=rounding
        )
        works |= {f"{name}, {rounding}": move(moved, law(name), 1) for name in LAWS}
    return dict(sorted(works.items(), key=lambda item: LAWS.index(item[0].split(", ")[0])))


def floor(theta: Any) -> Callable[[], None]:
    """The baseline: read and write every weight once."""
    pool, halves = ThreadPoolExecutor(2), np.array_split(theta, 2)

    def work() -> None:
        list(pool.map(lambda half: np.add(half, np.float32(1e-3), out=half), halves))

    return work


def move(space: ParameterSpace, sampler: Sampler, terms: int) -> Callable[[], None]:
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

"""What rounding by chance and a float32 master cost a move of bfloat16 weights in host memory.

    python bench/rounding.py [--rounds N]

57 million weights in 64 matrices; seconds of one remembered update that is performed, medians over the rounds,
roundings interleaved. OMP_NUM_THREADS has no part in it: the moves use all processors that the process may use.
"""

import argparse
import statistics
import time

import torch

from zoplat import Block, Key, Sampler
from zoplat.rounding import Rounding
from zoplat_devices import native
from zoplat_devices.fused import FusedSpace
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher

LAWS: list[Sampler] = [Gaussian(), Rademacher(), LowRank(rank=2)]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic", "master")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    spaces = {rounding: space(rounding) for rounding in ROUNDINGS}
    print(f"{'law':<12}" + "".join(f"{name:>22}" for name in ROUNDINGS))
    for law in LAWS:
        seconds: dict[Rounding, list[float]] = {name: [] for name in ROUNDINGS}
        for step in range(rounds + 1):
            for name, moved in spaces.items():
                moved.add(1e-4 * moved.draw(law, Key(0, step, 0)))
                began = time.perf_counter()
                moved.settle()
                seconds[name] += [time.perf_counter() - began] if step else []
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        cells = (f"{1000 * m:>10.1f} ms  ×{m / medians['nearest']:<6.2f}  " for m in medians.values())
        print(f"{type(law).__name__:<12}" + "".join(cells))


def space(rounding: Rounding) -> FusedSpace:
    """The same weights every time."""
    kernels = native.kernels()
    assert kernels, "needs the kernels: pip install ziglang"
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for i in range(64):
        array = (0.02 * torch.randn(576, 1536, generator=generator)).bfloat16()
        blocks.append(Block(f"block{i}", array, "bfloat16"))

    def empty(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    return FusedSpace(blocks, kernels, empty, "exact", rounding=rounding)


if __name__ == "__main__":
    main()

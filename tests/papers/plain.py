"""What plain transcriptions share: losses at arrays, and the mean central difference along Gaussian directions."""

from collections.abc import Callable

import numpy as np

from zoplat import Key
from zoplat.testing import Toy
from zoplat_devices.kernels.noise import ReferenceNoise

Arrays = dict[str, np.ndarray]


class Looks:
    """The losses of a toy at its own arrays, one after the other.

    Attributes:
        arrays: by name of the block, to be changed in place.
        recorded: the losses so far.
    """

    def __init__(self, toy: Toy) -> None:
        self.arrays: Arrays = {block.name: block.array for block in toy.space.blocks}
        self.recorded: list[float] = []
        self._loss = toy.loss

    def __call__(self) -> float:
        self.recorded.append(self._loss(np.concatenate([array.reshape(-1) for array in self.arrays.values()])))
        return self.recorded[-1]


def mean_estimate(
    look: Looks, seed: int, step: int, queries: int, eps: float, of: Callable[[float], float] = float
) -> Arrays:
    """1/n Σ of((L(θ + εz) − L(θ − εz)) / 2ε) z, tensor by tensor; the arrays are perturbed in place and restored."""
    noise, arrays = ReferenceNoise(), look.arrays
    mean = {name: np.zeros(array.shape) for name, array in arrays.items()}
    for query in range(queries):
        z = {n: noise.normal(a.shape, Key(seed, step, query), n).astype(np.float64) for n, a in arrays.items()}
        for name, array in arrays.items():
            array += eps * z[name]
        up = look()
        for name, array in arrays.items():
            array -= 2 * eps * z[name]
        down = look()
        for name, array in arrays.items():
            array += eps * z[name]
            mean[name] += of((up - down) / (2 * eps)) / queries * z[name]
    return mean

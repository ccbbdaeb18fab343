"""KerZOO: differences at random radii, weighted by a kernel that removes the bias of the third order.

    z ~ N(0, I),  r ~ U[−1, 1]                   a direction and a radius
    K(r) = (15/4) r (5 − 7r²)                    E[r K(r)] = 1,  E[r³ K(r)] = 0
    g = [ L(θ + εrz) − L(θ − εrz) ] / 2ε · K(r)
    θ ← θ − η g z

A central difference is r⟨∇L, z⟩ + r³ε²(third derivative)/6 + …: the kernel keeps the first term and removes the second.
With n directions the step is the mean of their gⱼzⱼ.

Cost per step: 2n forward passes. Memory: that of inference.

Source: Mi et al., "KerZOO: Kernel Function Informed Zeroth-Order Optimization for Accurate and Accelerated LLM
Fine-Tuning", 2025, arXiv:2505.18886.
Differs: the paper's kernel has a constant factor C, which is part of η here. A description of the paper has 195/64 in
the kernel of the fifth order, for which E[r K(r)] is 13/7; here it has 105/64, for which it is 1, like the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import erf, sqrt
from typing import Literal

from zoplat import Around, Direction, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian

KERNELS = {
    "linear": lambda r: 3 * r,
    "cubic": lambda r: 15 / 4 * r * (5 - 7 * r**2),
    "quintic": lambda r: 105 / 64 * r * (35 - 126 * r**2 + 99 * r**4),
}


@dataclass(frozen=True)
class KerZOO(Estimator[None]):
    """Central differences at random radii, weighted by a kernel.

    Attributes:
        kernel: K: "cubic" removes the bias of the third order, "quintic" that of the fifth too, at a higher variance;
            "linear" removes none.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(1, at_least=1, at_most=10**6)
    kernel: Literal["cubic", "quintic", "linear"] = "cubic"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self.queries)
        radii = [erf(x / sqrt(2)) for x in oracle.normals(self.queries)]  # the distribution function, on [−1, 1]
        slopes, losses = oracle.slopes([r * z for r, z in zip(radii, directions, strict=True)], self.eps)
        weights = [slope * KERNELS[self.kernel](r) for slope, r in zip(slopes, radii, strict=True)]
        yield Estimate(Direction.mean(weights, directions), losses, self.eps, slopes)


@hookimpl
def zoplat_estimators() -> dict[str, KerZOO]:
    return {"kerzoo": KerZOO()}

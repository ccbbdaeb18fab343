"""Sparse-MeZO: probe and move the small weights only.

    h = the quantile of |θ| over a block below which a share `density` lies, at the start
    m = 1 where |θ| ≤ h, else 0              of θ itself, never of θ ± εz; new every ν steps
    z ~ N(0, I),  ẑ = m ⊙ z
    g = [ L(θ + εẑ) − L(θ − εẑ) ] / 2ε
    θ ← θ − η g ẑ

Cost per step: 2 forward passes, and a pass over θ every ν steps for the mask. Memory: one byte a weight for the mask.

Source: Liu et al., "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning", NeurIPS
2025, arXiv:2402.15751, as restated by secondary accounts.
Differs: that h is found once and kept, and a "layer" of the paper is a block, are our reading; the authors' code was
not at hand. The paper forms m anew inside every forward pass; here m is stored, and renewed on every step by default
(ν = 1), which gives the same mask. A block that starts at zero, such as LoRA's B, has no small weights: it is kept
whole. What the paper calls a sparsity of 0.75 is a density of 0.25.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Around, Buffer, Estimate, Estimator, Oracle, ParameterSpace, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """The thresholds h, block by block, and the mask m, one byte a weight."""

    thresholds: list[float]
    mask: Buffer


@dataclass(frozen=True)
class SparseMeZO(Estimator[State]):
    """Central difference along a random direction that is zero on large weights.

    Attributes:
        density: share of a block's weights that are small at the start; above 0, at most 1.
        interval: ν, steps that share a mask; at least 1.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    density: float = number(0.25, above=0, at_most=1)
    interval: int = number(1, at_least=1)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def bias(self) -> str:
        return "" if self.density == 1 else "weights above their block's threshold are left out"

    def init(self, space: ParameterSpace) -> State:
        thresholds = space.quantiles(self.density, abs)
        return State([*thresholds.values()], space.buffer("sparse-mezo/mask", fill=1, dtype="uint8"))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        space = oracle.space
        if oracle.step % self.interval == 0:
            limits = {block.name: h or math.inf for block, h in zip(space.blocks, state.thresholds, strict=True)}
            space.mark(state.mask, limits, abs, keep="smallest")
        [z] = oracle.draw(self.sampler, 1)
        z = z.scaled(state.mask)
        [projected_grad], losses = oracle.slopes([z], self.eps)
        yield Estimate(projected_grad * z, losses, self.eps, [projected_grad])


@hookimpl
def zoplat_estimators() -> dict[str, SparseMeZO]:
    return {"sparse-mezo": SparseMeZO()}

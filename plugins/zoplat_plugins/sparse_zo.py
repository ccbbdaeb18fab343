"""Sparse ZO: probe and move a share of the weights.

    m ∈ {0, 1}, a share of about `density` of it 1, new every ν steps
    z ~ N(0, I),  ẑ = m ⊙ z
    g = [ L(θ + εẑ) − L(θ − εẑ) ] / 2ε
    θ ← θ − η g ẑ                      the same m as in the probe, for any number of directions

The ones of m are, within each array,

    random       u < density, u ~ U[0, 1) for each weight, by its address: m is not kept
    magnitude    the weights of largest (or smallest) |θ|
    wanda        those of largest (or smallest) |θᵢⱼ|·‖xⱼ‖, xⱼ being input j of the matrix over a
                 batch; |θ| where an array has no such inputs

Scores are those of θ itself, never of θ ± εẑ. Of weights that score the same as the last one to be kept all are kept,
so that a LoRA factor that begins at zero is kept whole.

Cost per step: 2n forward passes for n directions. A mask by scores takes two passes over θ and 31 readings of it
every ν steps, wanda one more forward pass. Memory: that of inference; one byte a weight for a mask by scores.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592, sparsity-induced ZO; Sun et al., "A Simple and Effective Pruning Approach for Large Language
Models", ICLR 2024, arXiv:2306.11695, for the wanda scores.
Differs: `density` is the share that is kept. The authors' `gradient_sparsity` r is compared with a normal draw, so
that their code keeps 1 − Φ(r): 0.46 at r = 0.1, 0.18 at r = 0.9. For more than one direction their code masks the
probe and not the step. Its group "global" draws from each array at a rate of its own, by a quantile of |θ| over all
arrays; here the share is the same everywhere ("layer"). Its file of wanda scores is never used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoplat import (
    Around,
    Array,
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Extent,
    Key,
    Noise,
    Oracle,
    ParameterSpace,
    Sampler,
    StepRule,
    Tile,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Masked(Sampler):
    """Another law on a random share of the weights, zero elsewhere; variance `density` times that of the law.

    Attributes:
        inner: law of the entries that are kept.
        density: chance of each entry to be kept; above 0, at most 1.
        interval: ν, steps that share a mask, whatever their draws; 0 for one mask for the whole run.
    """

    inner: Sampler = Gaussian()
    density: float = number(0.5, above=0, at_most=1)
    interval: int = number(500, at_least=0)

    def scale(self, space: Extent, key: Key) -> float:
        return self.inner.scale(space, key)

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        self.inner.fill(out, tile, key, noise)
        out *= noise.uniform(tile.shape, key.epoch(self.interval), tile, "mask") < self.density

    def variance(self, shape: tuple[int, ...]) -> float:
        return self.density * self.inner.variance(shape)


@dataclass
class State:
    """A mask m by scores, one byte a weight, and the step that it is meant from; −1 before there is one."""

    mask: Buffer
    epoch: int = -1


@dataclass(frozen=True)
class SparseZO(Estimator[State | None]):
    """Central difference along random directions that are zero on most weights.

    Attributes:
        scores: how the weights are chosen: "random", or by "magnitude" or "wanda" scores.
        density: share of each array that is kept; above 0, at most 1.
        interval: ν, steps that share a mask; 0 for one mask for the whole run.
        keep: the "largest" or the "smallest" scores; random masks have none.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(1, at_least=1, at_most=10**6)
    scores: Literal["random", "magnitude", "wanda"] = "random"
    density: float = number(0.5, above=0, at_most=1)
    interval: int = number(500, at_least=0)
    keep: Literal["largest", "smallest"] = "largest"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"losses", "input norms"} if self.scores == "wanda" else {"losses"})

    @property
    def bias(self) -> str:
        return "" if self.density == 1 else "only a share of the weights is probed"

    def init(self, space: ParameterSpace) -> State | None:
        return None if self.scores == "random" else State(space.buffer("sparse-zo/mask", dtype="uint8"))

    def estimate(self, oracle: Oracle, state: State | None) -> Iterator[Estimate]:
        directions = self._drawn(oracle, state)
        found = [oracle.slopes([z], self.eps) for z in directions]
        slopes = [slope for each in found for slope in each.projected_grads]
        losses = [loss for each in found for loss in each.losses]
        yield Estimate(Direction.mean(slopes, directions), losses, self.eps, slopes)

    def _drawn(self, oracle: Oracle, state: State | None) -> list[Direction]:
        """The ẑ of a step, with a new mask where it is time for one."""
        if state is None:
            return oracle.draw(Masked(self.sampler, self.density, self.interval), self.queries)
        epoch = oracle.step - oracle.step % self.interval if self.interval else 0
        if state.epoch != epoch:
            rows = oracle.input_norms() if self.scores == "wanda" else {}
            norms = oracle.space.broadcast_row("sparse-zo/norms", rows)

            def score(theta: Array, norms: Array | None) -> Array:
                return abs(theta) if norms is None else abs(theta) * norms

            oracle.space.select(state.mask, self.density, score, norms, keep=self.keep)
            state.epoch = epoch
        return [z.scaled(state.mask) for z in oracle.draw(self.sampler, self.queries)]


@hookimpl
def zoplat_samplers() -> dict[str, Masked]:
    return {"masked": Masked()}


@hookimpl
def zoplat_estimators() -> dict[str, SparseZO]:
    return {"sparse-zo": SparseZO()}

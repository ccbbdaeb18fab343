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

Scores are those of θ itself, never of θ ± εẑ. Of weights that score the same as the last
one to be kept all are kept, so that a LoRA factor that begins at zero is kept whole.

Cost per step: 2n forward passes for n directions. A mask by scores takes two passes over
θ and 31 readings of it every ν steps, wanda one more forward pass. Memory: that of
inference; one byte a weight for a mask by scores.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning: A Benchmark", ICML 2024, arXiv:2402.11592, sparsity-induced ZO; Sun et al., "A
Simple and Effective Pruning Approach for Large Language Models", ICLR 2024,
arXiv:2306.11695, for the wanda scores.
Differs: `density` is the share that is kept. The authors' `gradient_sparsity` r is compared
with a normal draw, so that their code keeps 1 − Φ(r): 0.46 at r = 0.1, 0.18 at r = 0.9. For
more than one direction their code masks the probe and not the step. Its group "global"
draws from each array at a rate of its own, by a quantile of |θ| over all arrays; here the
share is the same everywhere ("layer"). Its file of wanda scores is never used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from zoplat import (
    ZERO,
    Buffer,
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
    ZoplatError,
    hookimpl,
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
    density: float = 0.5
    interval: int = 500

    def __post_init__(self) -> None:
        _check(self.density, self.interval, "sampler.")

    def scale(self, space: Extent, key: Key) -> float:
        return self.inner.scale(space, key)

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        self.inner.fill(out, tile, key, noise)
        epoch = key.at(_epoch(key.step, self.interval))
        out *= noise.uniform(tile.shape, epoch, tile, "mask") < self.density

    def variance(self, shape: tuple[int, ...]) -> float:
        return self.density * self.inner.variance(shape)


@dataclass
class State:
    """What a mask by scores keeps.

    Attributes:
        mask: m, one byte a weight.
        epoch: the step that it is meant from; −1 before there is one.
    """

    mask: Buffer
    epoch: int = -1


@dataclass(frozen=True)
class SparseZO(Estimator):
    """Central difference along random directions that are zero on most weights.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        queries: directions n averaged in one step; at least 1.
        scores: how the weights are chosen: "random", or by "magnitude" or "wanda" scores.
        density: share of each array that is kept; above 0, at most 1.
        interval: ν, steps that share a mask; 0 for one mask for the whole run.
        keep: the "largest" or the "smallest" scores; random masks have none.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    queries: int = 1
    scores: Literal["random", "magnitude", "wanda"] = "random"
    density: float = 0.5
    interval: int = 500
    keep: Literal["largest", "smallest"] = "largest"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ZoplatError(f"eps must be positive, got {self.eps}  (--eps)")
        if self.queries < 1:
            raise ZoplatError(f"queries must be at least 1, got {self.queries}  (--queries)")
        _check(self.density, self.interval)

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"losses", "input norms"} if self.scores == "wanda" else {"losses"})

    @property
    def bias(self) -> str:
        return "" if self.density == 1 else "only a share of the weights is probed"

    def init(self, space: ParameterSpace) -> State | None:
        return None if self.scores == "random" else State(space.buffer("sparse-zo/mask", dtype="uint8"))

    def estimate(self, oracle: Oracle, state: State | None) -> Iterator[Estimate]:
        if state is None:
            directions = oracle.draw(Masked(self.sampler, self.density, self.interval), self.queries)
        else:
            epoch = _epoch(oracle.step, self.interval)
            if state.epoch != epoch:
                self._renew(oracle, state.mask)
                state.epoch = epoch
            directions = [z.scaled(state.mask) for z in oracle.draw(self.sampler, self.queries)]
        g, seen = ZERO, []
        for z in directions:
            up, down = oracle.losses(+self.eps * z, -self.eps * z)
            g += (up - down) / (2 * self.eps) / self.queries * z
            seen += [up, down]
        yield Estimate(g, seen, self.eps)

    def _renew(self, oracle: Oracle, mask: Buffer) -> None:
        """Choose by the scores of θ as it is now."""
        space = oracle.space
        norms = space.broadcast_row("sparse-zo/norms", oracle.input_norms() if self.scores == "wanda" else {})

        def score(theta: Any, norms: Any) -> Any:
            return abs(theta) if norms is None else abs(theta) * norms

        space.select(mask, self.density, score, norms, keep=self.keep)


def _epoch(step: int, interval: int) -> int:
    """The step from which the mask of a step is."""
    return step - step % interval if interval else 0


def _check(density: float, interval: int, path: str = "") -> None:
    if not 0 < density <= 1:
        raise ZoplatError(f"density must be above 0 and at most 1, got {density}  (-o {path}density=…)")
    if interval < 0:
        raise ZoplatError(f"interval must be 0 or more, got {interval}  (-o {path}interval=…)")


@hookimpl
def zoplat_samplers() -> dict[str, Sampler]:
    return {"masked": Masked()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"sparse-zo": SparseZO()}

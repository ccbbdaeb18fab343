"""AGZO: perturb each linear layer along the leading directions of its inputs.

For the weights W of a linear layer, (m, n), and its inputs H over the batch, (n, tokens):

    A       orthonormal columns, (n, r): the leading left singular vectors of H, by K rounds of A ← qr(H(HᵀA))
    Z = R Aᵀ,  R ~ N(0, 1), shape (m, r)     all other weights keep a plain Gaussian
    g = [ L(θ + εZ) − L(θ) ] / ε             one slope for all blocks; the pass for L(θ) finds A too
    θ ← θ − η g Z

The gradient of W is a product Q Hᵀ, so that its rows lie in the span of the inputs, and mostly in that of a few leading
directions. With n directions the step is the mean of their gⱼZⱼ, for one A.

Cost per step: n + 1 forward passes, and 2K + 1 products of H with r vectors in one of them. Memory: that of inference,
plus A: r numbers for each column of a matrix; so much is in the journal too, at every step that renews A.

Source: Lin et al., "AGZO: Activation-Guided Zeroth-Order Optimization for LLM Fine-Tuning", ICML 2026,
arXiv:2601.17261. No code was found, and of the paper only the abstract was at hand: the rule, one-sided differences,
r = 1 and K = 3 are as an independent description has them.
Differs: what that description leaves open is our reading: A is of the tokens that are no padding, from a start that is
the same at every step, in float32; its numbers are rounded to five decimals; r is at most m and n. A matrix that is
both embedding and head has the directions of the head. `interval` and more than one direction are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from zoplat import (
    Around,
    Array,
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Key,
    LowRankSampler,
    Noise,
    Oracle,
    ParameterSpace,
    Part,
    StepRule,
    Tile,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant


@dataclass
class State:
    """Aᵀ, the matrices that have one, and the first step of the interval that it is of; −1 before there is any."""

    basis: Buffer
    guided: list[str] = field(default_factory=list)
    epoch: int = -1


@dataclass(frozen=True)
class Guided(LowRankSampler):
    """R Aᵀ on guided matrices, A from its buffer as it stands, and a plain Gaussian on all else; by `AGZO` alone."""

    basis: Buffer
    guided: Part

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array] | None:
        return self.matrix_factors(tile, key, noise) if tile.block in self.guided else None

    def matrix_factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Array, Array]:
        a = self.basis.arrays[tile.block.name][: tile.block.shape[1]]  # a matrix has no more than n of them
        return noise.normal((tile.shape[0], a.shape[0]), key, tile, "R"), a.T


@dataclass(frozen=True)
class AGZO(Estimator[State]):
    """Forward differences along directions that the inputs of each layer have.

    Attributes:
        rank: r, directions of a matrix's inputs; at least 1.
        rounds: K, of power iteration; at least 1.
        interval: steps that share A; at least 1.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(1, at_least=1, at_most=10**6)
    rank: int = number(1, at_least=1)
    rounds: int = number(3, at_least=1)
    interval: int = number(1, at_least=1)
    rule: StepRule = Constant(lr=1e-6)
    bias = "matrices are probed along the leading directions of their inputs alone"

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"losses", "input directions"})

    def init(self, space: ParameterSpace) -> State:
        matrices = space.part(lambda block: len(block.shape) == 2)
        return State(space.buffer("agzo/basis", on=matrices, rows=self.rank))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        losses = self._renewed(oracle, state)
        zs = oracle.draw(Guided(state.basis, Part(frozenset(state.guided))), self.queries)
        if losses:
            losses += oracle.losses(*(self.eps * z for z in zs))
            slopes = [(up - losses[0]) / self.eps for up in losses[1:]]
        else:
            slopes, losses = oracle.slopes(zs, self.eps, "one")
        yield Estimate(Direction.mean(slopes, zs), losses, self.eps, slopes)

    def _renewed(self, oracle: Oracle, state: State) -> list[float]:
        """Renew A where it is time to; L(θ), if it was found on the way."""
        epoch = oracle.step - oracle.step % self.interval
        if state.epoch == epoch:
            return []
        loss, found = oracle.input_directions(self.rank, self.rounds)
        oracle.space.write(state.basis, found)
        state.guided = [name for name, rows in found.items() if any(map(any, rows))]
        state.epoch = epoch
        return [loss]


@hookimpl
def zoplat_estimators() -> dict[str, AGZO]:
    return {"agzo": AGZO()}

"""Evolution strategies: many random members, weighted by how well they do.

    zᵢ ~ N(0, I), i = 1 … n                  a fresh direction for every member, or for every pair ±zᵢ
    Lᵢ = L(θ + σzᵢ)                          N members in all, same batch
    sᵢ = shaped(Lᵢ)
    θ ← θ − η · (1/N) Σ sᵢ zᵢ

    z-scores:  sᵢ = (Lᵢ − L̄)/√(var L + κ), the variance over all N
    ranks:     sᵢ = rankᵢ/(N − 1) − ½, ranks from 0 for the least loss
    none:      sᵢ = Lᵢ/σ

Shaped, a step no longer sees how steep the loss is: z-scores ignore its unit (κ = 0), ranks any increasing transform
of it. In pairs and unshaped it is MeZO with n directions and ε = σ.

Cost per step: N forward passes, n or 2n. Memory: that of inference.

Source: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017,
arXiv:1703.03864 (pairs, ranks); Qiu et al., "Evolution Strategies at Scale: LLM Fine-Tuning Beyond Reinforcement
Learning", 2025, arXiv:2509.24372 (single members, z-scores: what is registered).
Differs: the textbook form divides shaped losses by σ too; here, as in both authors' codes, η carries that factor, so
that published settings transfer. Theirs reward what is large; here it is the loss, with the other sign. Equal losses
have equal ranks, and where all are equal there is no step; the first code ranks them in arbitrary order, the second
adds 10⁻⁸ to the deviation. The second draws the same numbers for all tensors of one shape by default; here
every block has its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from zoplat import Around, Direction, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ES(Estimator[None]):
    """A mean of random directions, weighted by shaped losses.

    Attributes:
        eps: σ, how far members lie from θ, in the units of the parameters; positive.
        queries: n, directions of one step; at least 1, at least 2 for shaped losses of single members.
        is_antithetic: whether every direction has two members, one each way.
        shaping: "z-scores", "ranks", or "none".
        floor: κ, added to the variance of the losses under "z-scores"; not negative.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    queries: int = number(30, at_least=1, at_most=10**6)
    is_antithetic: bool = False
    shaping: Literal["z-scores", "ranks", "none"] = "z-scores"
    floor: float = number(0.0, at_least=0)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=5e-4)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_enough = self.queries > 1 or self.is_antithetic or self.shaping == "none"
        self.require(is_enough, "queries", f"must be at least 2, got {self.queries}")

    @property
    def bias(self) -> str:
        return "" if self.shaping == "none" else "shaped losses keep the direction and not the length"

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        drawn = oracle.draw(self.sampler, self.queries)
        members = [member for z in drawn for member in ((z, -z) if self.is_antithetic else (z,))]
        losses = oracle.losses(*(self.eps * member for member in members))
        g = Direction.mean(self._shaped(losses), members)
        is_mezo = self.is_antithetic and self.shaping == "none"
        yield Estimate(g, losses, self.eps, self._slopes(losses), is_shaped=not is_mezo)

    def _slopes(self, losses: Sequence[float]) -> list[float]:
        """The slope along each direction: between the two of a pair, or from the mean of all to a single member."""
        if self.is_antithetic:
            return [(up - down) / (2 * self.eps) for up, down in zip(losses[::2], losses[1::2], strict=True)]
        mean = sum(losses) / len(losses)
        return [(loss - mean) / self.eps for loss in losses]

    def _shaped(self, losses: Sequence[float]) -> list[float]:
        """The score of each member."""
        count = len(losses)
        if self.shaping == "none":
            return [loss / self.eps for loss in losses]
        if min(losses) == max(losses):
            return [0.0] * count
        if self.shaping == "ranks":
            ranks = [sum(other < loss for other in losses) + (losses.count(loss) - 1) / 2 for loss in losses]
            return [rank / (count - 1) - 0.5 for rank in ranks]
        mean = sum(losses) / count
        spread = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / count + self.floor)
        return [(loss - mean) / spread for loss in losses]


@hookimpl
def zoplat_estimators() -> dict[str, ES]:
    return {"es": ES()}

"""LOZO-M: LOZO with a momentum that is kept in the factor U.

    Z = U Vᵀ, g                                 as in LOZO; W has n columns
    N ← g U                                     on the first step
    N ← β N + (1 − β) g U                       while V stays
    N ← β N (V′ᵀV)/n + (1 − β) g U              where V takes the place of V′
    W ← (1 − ηλ) W − η N Vᵀ                     vectors: N is of their own shape, g z in place of g U

The momentum of W is N Vᵀ, and only N is state. When V is renewed, N V′ᵀ is carried over
to the new V, for E[VᵀV] = nI; V′ is not kept but drawn again from its name.

Cost per step: 2 forward passes. Memory: that of inference, and N: r numbers for each row of
a matrix, one for each entry of a vector.

Source: Chen et al., "Enhancing Zeroth-Order Fine-Tuning for Language Models with
Low-Rank Structures", ICLR 2025, arXiv:2410.07698, LOZO-M.
Differs: the first step is that of the authors' code, without (1 − β). That code sets V′
aside on the last step of an interval only, so that at ν = 1 its momentum begins anew on each
step; here it is carried over at any ν. η has the factor 1/r in it, and the step that renews
V applies what it probed, both as in `lozo`.
"""

from dataclasses import dataclass
from typing import Any

from zoplat import (
    ZERO,
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Schedule,
    Scheduled,
    StepRule,
    Tile,
    ZoplatError,
    hookimpl,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO


@dataclass
class State:
    """The momentum, and the V that it belongs to.

    Attributes:
        n: N, in the columns of V for a matrix.
        latest: what the last step was drawn from, by name: law, seed and step; zero before the first.
    """

    n: Buffer
    latest: Direction


@dataclass(frozen=True)
class LowRankMomentum(Scheduled):
    """A running mean of low-rank estimates in the columns of their V: θ ← (1 − ηλ)θ − η N Vᵀ.

    Attributes:
        schedule: η over the run, and the weight decay λ.
        beta: β, share of the momentum that stays; in [0, 1).
        rank: r, columns of N; that of the law of z, `sampler.rank`.
    """

    schedule: Schedule = Constant(lr=1e-6)
    beta: float = 0.9
    rank: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ZoplatError(f"beta must lie in [0, 1), got {self.beta}  (-o rule.beta=…)")
        if self.rank < 1:
            raise ZoplatError(f"rank must be at least 1, got {self.rank}  (-o rule.rank=…)")

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("lozo-m/n", columns=self.rank), ZERO)

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        """Take the estimate into N and step along N Vᵀ, in one pass."""
        self._check(estimate.direction, oracle.step)
        lr, noise = self.rate(oracle), oracle.space.noise
        oracle.space.add(ZERO, decay=lr * self.schedule.decay)
        seen = [draw for draw, _ in estimate.direction or state.latest]
        if not seen:  # the losses were equal, and there is no momentum yet
            return
        law: Any = seen[0].sampler
        before, now = [draw.key for draw, _ in state.latest], seen[0].key.at(oracle.step)
        renewed = bool(before) and law.renewal(before[0].step) != law.renewal(now.step)
        keep, take = (self.beta, 1 - self.beta) if before else (0.0, 1.0)

        def vectors(theta: Any, g: Any, n: Any) -> None:
            n *= keep
            n += take * g
            theta -= lr * n

        def matrices(theta: Any, u: Any, v: Any, n: Any, tile: Tile) -> None:
            if v is None:  # an estimate of 0
                u, v = 0.0, law.basis(tile, now, noise)
            if renewed:
                n[:] = n @ (law.basis(tile, before[0], noise).T @ v) / len(v)
            n *= keep
            n += take * u
            theta -= lr * (n @ v.T)

        oracle.space.sweep_factors(matrices, vectors, estimate.direction, state.n)
        state.latest = Direction.of(law, now)

    def _check(self, direction: Direction, step: int) -> None:
        """Whether a direction has one V, that of this step, and the rank that N was made for."""
        laws = {draw.sampler for draw, _ in direction}
        for draw, _ in direction:
            law = draw.sampler
            whole = draw.part is None and not draw.scales and len(laws) == 1
            if not isinstance(law, LowRank) or not whole or law.renewal(draw.key.step) != law.renewal(step):
                raise ZoplatError(
                    f"'low-rank-momentum' takes directions U Vᵀ that share the V of their step on all weights; here is "
                    f"one of {law!r}{'' if whole else ', in parts or scaled'}. Use --sampler low-rank, or another "
                    "--step-rule."
                )
            if law.rank != self.rank:
                raise ZoplatError(
                    f"The momentum was made for rank {self.rank}, and the directions have rank {law.rank}. "
                    f"Give both one rank: -o sampler.rank={law.rank} -o rule.rank={law.rank}"
                )


@hookimpl
def zoplat_step_rules() -> dict[str, StepRule]:
    return {"low-rank-momentum": LowRankMomentum()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"lozo-m": MeZO(sampler=LowRank(rank=4), rule=LowRankMomentum(rank=4))}

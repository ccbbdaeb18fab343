"""LOZO-M: LOZO with a momentum that is kept in the factor U.

    Z = U Vᵀ, g                                 as in LOZO; W has n columns
    N ← g U                                     on the first step
    N ← β N + (1 − β) g U                       while V stays
    N ← β N (V′ᵀV)/n + (1 − β) g U              where V takes the place of V′
    W ← (1 − ηλ) W − η N Vᵀ                     vectors: N is of their own shape, g z in place of g U

The momentum of W is N Vᵀ, and only N is state. When V is renewed, N V′ᵀ is carried over to the new V, for
E[VᵀV] = nI; V′ is not kept but drawn again from its name.

Cost per step: 2 forward passes. Memory: that of inference, and N: r numbers for each row of a matrix, one for each
entry of a vector.

Source: Chen et al., "Enhancing Zeroth-Order Fine-Tuning for Language Models with Low-Rank Structures", ICLR 2025,
arXiv:2410.07698, LOZO-M.
Differs: the first step is that of the authors' code, without (1 − β). That code sets V′ aside on the last step of an
interval only, so that at ν = 1 its momentum begins anew on each step; here it is carried over at any ν. η has the
factor 1/r in it, and the step that renews V applies what it probed, both as in `lozo`.
"""

from dataclasses import dataclass
from typing import Any

from zoplat import (
    Array,
    Buffer,
    Direction,
    Estimate,
    Oracle,
    ParameterSpace,
    Sampler,
    Schedule,
    Scheduled,
    Tile,
    ZoplatError,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO


@dataclass
class State:
    """N, and what the last step was drawn from, by name; zero before the first. A matrix has r columns of N."""

    n: Buffer
    latest: Direction


@dataclass(frozen=True)
class LowRankMomentum(Scheduled[State]):
    """A running mean of low-rank estimates in the columns of their V: θ ← (1 − ηλ)θ − η N Vᵀ.

    Attributes:
        beta: β, share of the momentum that stays; in [0, 1).
    """

    schedule: Schedule = Constant(lr=1e-6)
    beta: float = number(0.9, at_least=0, below=1)

    def init_for(self, space: ParameterSpace, law: Sampler | None) -> State:
        if not isinstance(law, LowRank):
            raise refused(law)
        return State(space.buffer("lozo-m/n", columns=law.rank), Direction())

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        check(estimate.direction, oracle.step)
        lr, noise = self.rate(oracle), oracle.space.noise
        oracle.space.decay(lr * self.schedule.decay)
        drawn = [draw for draw, _ in estimate.direction or state.latest]
        if not drawn:  # the losses were equal, and there is no momentum yet
            return
        law, now = drawn[0].sampler, drawn[0].key.at(oracle.step)
        assert isinstance(law, LowRank)
        before = next((draw.key for draw, _ in state.latest), now)
        renewed = before.epoch(law.interval) != now.epoch(law.interval)
        keep, take = (self.beta, 1 - self.beta) if state.latest else (0.0, 1.0)

        def vectors(theta: Array, g: Array, n: Array) -> None:
            n *= keep
            n += take * g
            theta -= lr * n

        def matrices(theta: Array, u: Any, v: Array | None, n: Array, tile: Tile) -> None:
            if v is None:  # an estimate of 0
                u, v = 0.0, law.basis(tile, now, noise)
            if renewed:
                n[:] = n @ (law.basis(tile, before, noise).T @ v) / len(v)
            n *= keep
            n += take * u
            theta -= lr * (n @ v.T)

        oracle.space.sweep_factors(matrices, vectors, estimate.direction, state.n)
        state.latest = Direction.of(law, now)


def check(direction: Direction, step: int) -> None:
    """Refuse a direction that does not have one V, that of its step, on all weights."""
    laws = {draw.sampler for draw, _ in direction}
    for law, key, part, scales in (draw for draw, _ in direction):
        is_whole = part is None and not scales and len(laws) == 1
        if not is_whole or not isinstance(law, LowRank) or key.epoch(law.interval) != key.at(step).epoch(law.interval):
            raise refused(law)


def refused(law: Sampler | None) -> ZoplatError:
    """The error about draws that do not share one V."""
    return ZoplatError(
        "'low-rank-momentum' takes directions U Vᵀ that share the V of their step on all weights, unscaled; here is "
        f"one of {law!r}. Use --sampler low-rank, or another --step-rule."
    )


@hookimpl
def zoplat_step_rules() -> dict[str, LowRankMomentum]:
    return {"low-rank-momentum": LowRankMomentum()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"lozo-m": MeZO(sampler=LowRank(rank=4), rule=LowRankMomentum())}

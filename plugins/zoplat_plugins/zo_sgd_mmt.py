"""ZO-SGD-MMT: momentum on the estimates of ZO-SGD.

    m ← βm + ĝ                 "heavy-ball": in the long run η/(1 − β) is the step size
    m ← βm + (1 − β)ĝ          "ema": a running mean that starts from 0
    θ ← (1 − ηλ)θ − η m

m is one buffer; or no buffer at all: with `keep` = k it is the sum of the k newest names with their coefficients,
drawn again on every pass over θ.

Cost per step: 2 forward passes, and one more pass over θ for a buffer; with names no more passes, but k random
vectors in each. Memory: one number a weight, float32; none with names.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592. That momentum can be had from seeds and slopes again is noted by Malladi et al., NeurIPS 2023,
arXiv:2305.17333.
Differs: the code of ZO-Bench keeps m in the dtype of the weights.
"""

from dataclasses import dataclass
from typing import Literal

from zoplat import Array, Buffer, Direction, Estimate, Oracle, ParameterSpace, Schedule, Scheduled, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass
class State:
    """The momentum m, entry by entry or by name."""

    m: Buffer | Direction


@dataclass(frozen=True)
class Momentum(Scheduled[State]):
    """Steps along a sum of all estimates so far, older ones with less weight.

    Attributes:
        beta: β, what is kept of the sum at each step; in [0, 1).
        form: "heavy-ball" adds ĝ as it is, "ema" adds (1 − β)ĝ.
        keep: 0 for a buffer; k for the k newest names and no buffer. n names are added at a step of n directions,
            and k at 4.6/(1 − β) steps leaves off 1 % of the weight. For estimates made of names alone: those with
            gradients or buffers, such as momenta and masks, are refused.
    """

    beta: float = number(0.9, at_least=0, below=1)
    form: Literal["heavy-ball", "ema"] = "heavy-ball"
    keep: int = number(0, at_least=0)
    schedule: Schedule = Constant(lr=1e-7)

    def init(self, space: ParameterSpace) -> State:
        return State(Direction() if self.keep else space.buffer("momentum/m"))

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        lr = self.rate(oracle)
        decay = lr * self.schedule.decay
        fresh = 1.0 if self.form == "heavy-ball" else 1 - self.beta
        if isinstance(state.m, Direction):
            estimate.direction.check_lasting("'momentum' with keep")
            newest = (self.beta * state.m + fresh * estimate.direction).latest(self.keep)
            oracle.space.add(-lr * newest, decay)
            state.m = newest
            return

        def kernel(theta: Array, g: Array, m: Array) -> None:
            m *= self.beta
            m += fresh * g
            theta -= lr * m

        oracle.space.decay(decay)
        oracle.space.sweep(kernel, estimate.direction, state.m)


@hookimpl
def zoplat_step_rules() -> dict[str, Momentum]:
    return {"momentum": Momentum()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-sgd-mmt": MeZO(eps=1e-4, rule=Momentum())}

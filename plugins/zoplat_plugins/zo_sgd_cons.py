"""ZO-SGD-Cons: the best of staying, stepping, and stepping back.

    ĝ = g z,   g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    L₀ = L(θ),   L₁ = L(θ − ηĝ),   L₂ = L(θ + ηĝ)       same batch
    θ ← θ, θ − ηĝ or θ + ηĝ, whichever had the least loss

Where two are equal, a step is taken rather than none, and + rather than −.

Cost per step: 5 forward passes. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592; ties as in its code.
Differs: the sweep files of ZO-Bench for this method name no optimizer, so that the published runs went through AdamW,
under which going to a candidate and back does not lead to θ again.
"""

from dataclasses import dataclass

from zoplat import ZERO, Estimate, Oracle, Schedule, Scheduled, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Conservative(Scheduled[None]):
    """A step only if it lowers the loss of the batch that it was made from; weight decay comes on top of it."""

    schedule: Schedule = Constant(lr=1e-7)

    def apply(self, estimate: Estimate, oracle: Oracle, state: None) -> None:
        lr = self.rate(oracle)
        moves = (ZERO, -lr * estimate.direction, lr * estimate.direction)
        losses = oracle.losses(*moves)
        best = min((0, 1, 2), key=lambda i: (losses[i], -i))
        oracle.space.add(moves[best], decay=lr * self.schedule.decay)


@hookimpl
def zoplat_step_rules() -> dict[str, Conservative]:
    return {"conservative": Conservative()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-sgd-cons": MeZO(rule=Conservative())}

"""Adam: each entry of θ at its own pace.

    m ← β₁m + (1 − β₁)ĝ        v ← β₂v + (1 − β₂)ĝ²        entry by entry
    θ ← (1 − ηλ)θ − η m̂ / (√v̂ + ε)                       m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)

Cost per step: no forward pass, one more pass over θ. Memory: two numbers a weight, float32 whatever the weights are.

Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Algorithm 1; the decay
is that of Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2
(AdamW).
Differs: decay is on matrices only, as everywhere here.
"""

from dataclasses import dataclass

from zoplat import Array, Buffer, Estimate, Oracle, ParameterSpace, Schedule, Scheduled, hookimpl, number
from zoplat_plugins.constant import Constant


@dataclass
class State:
    """m and v, the running means of ĝ and of its square, and the steps t that went into them."""

    m: Buffer
    v: Buffer
    steps: int = 0


@dataclass(frozen=True)
class Adam(Scheduled[State]):
    """Steps along the mean estimate, each entry divided by the root of its mean square.

    Attributes:
        beta1: β₁, what is kept of the mean at each step; in [0, 1).
        beta2: β₂, what is kept of the mean square; in [0, 1).
        eps: ε, added to the root; positive.
    """

    beta1: float = number(0.9, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    eps: float = number(1e-8, above=0)
    schedule: Schedule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("adam/m"), space.buffer("adam/v"))

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        lr, steps = self.rate(oracle), state.steps + 1
        share_m, share_v = 1 - self.beta1**steps, 1 - self.beta2**steps

        def kernel(theta: Array, g: Array, m: Array, v: Array) -> None:
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            theta -= lr * (m / share_m) / ((v / share_v) ** 0.5 + self.eps)

        oracle.space.decay(lr * self.schedule.decay)
        oracle.space.sweep(kernel, estimate.direction, state.m, state.v)
        state.steps = steps


@hookimpl
def zoplat_step_rules() -> dict[str, Adam]:
    return {"adam": Adam()}

"""HiZOO: probes and steps scaled by a running estimate of the Hessian's diagonal.

    u = h^(−1/2) ⊙ z,  z ~ N(0, I)                    h begins at 1, one number a weight
    g = [ L(θ + εu) − L(θ − εu) ] / 2ε
    b = | L(θ + εu) + L(θ − εu) − 2L(θ) | / 2ε²       ½ |uᵀ∇²L u|
    θ ← θ − η g u
    h ← (1 − s) h + s b h ⊙ z²                        kept within bounds

On a quadratic the mean of b h z² is diag(H) + ½ tr(H/h) h: an estimate of the diagonal, and a share of h itself,
which `debiased` takes out.

With scale = "multiply", the form of the authors' code of 2024, h is the variance of the probes:

    u = h^(+½) ⊙ z        h ← (1 − s) h + s b z² / h

so that where the loss curves, probes and steps become longer, while those of "divide" become shorter.

Cost per step: 3 forward passes. Memory: h, a float32 number for every weight.

Source: Zhao et al., "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order Optimizer", ICLR
2025, arXiv:2402.15173, Algorithm 1.
Differs: the authors' code steps with the h that the step has just made (step_with = "new") and runs a fourth pass for
its log; L(θ) is known already. Its tree of 2024 multiplies by √h where the paper and today's code divide: scale =
"multiply". It keeps h in the dtype of the weights, where at s = 10⁻⁸ float16 rounds every change of h away and what is
left is MeZO; h is float32 here. It looks s up once an epoch, here it is that of the step. It has no bounds on h, and
decays vectors too. What the paper derives has z² − 1 in place of z² and no absolute value around b: `debiased`.
Samples of h can then be negative, and s·b must stay far below 1, or h falls to its bound and the steps explode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoplat import (
    ZERO,
    Around,
    Array,
    Buffer,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    StepRule,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """h, the running mean of the curvature, entry by entry."""

    h: Buffer


@dataclass(frozen=True)
class HiZOO(Estimator[State]):
    """Central difference along directions scaled by the curvature, and the curvature from a second difference.

    Attributes:
        smooth: s, share of h that a step renews; in [0, 1). With 0 this is MeZO.
        fade: factor on s once a share `fade_at` of the run is over; 0 or more, 1 leaves s as it is.
        fade_at: share of the run's steps or passes after which `fade` applies; in [0, 1].
        debiased: whether b keeps its sign and z² − 1 takes the place of z², so that the mean of h is diag(H); with
            scale "divide" only.
        step_with: "old" steps along the u that was probed, the paper's form; "new" scales z by the h of after, the
            form of the authors' code.
        scale: "divide" probes and steps by √h, the paper and today's code; "multiply" as the code of 2024 did.
        lowest: least entry of h; positive, at most 1.
        highest: largest entry of h; at least 1.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    smooth: float = number(1e-6, at_least=0, below=1)
    fade: float = number(1.0, at_least=0)
    fade_at: float = number(0.5, at_least=0, at_most=1)
    debiased: bool = False
    step_with: Literal["old", "new"] = "old"
    scale: Literal["divide", "multiply"] = "divide"
    lowest: float = number(1e-2, above=0, at_most=1)
    highest: float = number(1e6, at_least=1)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)
    has_one_radius = True

    def __post_init__(self) -> None:
        super().__post_init__()
        later = self.smooth * self.fade
        self.require(later < 1, "fade", f"must leave smooth·fade below 1, got {later}")
        fits = self.scale == "divide" or not self.debiased
        self.require(fits, "debiased", 'belongs to scale "divide", and scale is "multiply"')

    @property
    def bias(self) -> str:
        mean = "∇L/h" if self.scale == "divide" else "h∇L"
        return f"the estimate is scaled by the curvature, entry by entry: its mean is {mean}"

    @property
    def has_horizon(self) -> bool:
        return self.fade != 1.0

    def init(self, space: ParameterSpace) -> State:
        return State(space.buffer("hizoo/h", fill=1.0))

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        s = self.smooth * (self.fade if (oracle.progress or 0.0) >= self.fade_at else 1.0)
        [z] = oracle.draw(self.sampler, 1)
        divides = self.scale == "divide"
        u = z.scaled(state.h, -0.5 if divides else 0.5)
        base, up, down = oracle.losses(ZERO, +self.eps * u, -self.eps * u)
        projected_grad = (up - down) / (2 * self.eps)
        estimate = Estimate(projected_grad * u, [up, down], self.eps, [projected_grad])
        bend = (up + down - 2 * base) / (2 * self.eps**2)
        size, excess = (bend, 1.0) if self.debiased else (abs(bend), 0.0)

        def kernel(theta: Array, z: Array, h: Array) -> None:
            if divides:
                h += s * h * (size * (z * z - excess) - 1)  # in this order a small s is not lost beside 1
            else:
                h += s * (size * z * z / h - h)
            h[:] = h.clip(self.lowest, self.highest)

        if self.step_with == "old":
            yield estimate
        oracle.space.sweep(kernel, z, state.h)
        if self.step_with == "new":
            yield estimate


@hookimpl
def zoplat_estimators() -> dict[str, HiZOO]:
    return {"hizoo": HiZOO()}

"""ZO-SGD-Sign: steps of one size in every weight.

    ĝ = g z,   g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    θ ← (1 − ηλ)θ − η sign(ĝ)      "entries": each weight moves by η up or down
    θ ← (1 − ηλ)θ − η sign(g) z    "scalar": the sign of the slope alone

For one Rademacher z the two are one. With several directions "entries" has the sign of their mean, "scalar" the mean
of their sign(gⱼ) zⱼ.

Cost per step: 2 forward passes; "entries" takes one more pass over θ. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592; after Liu et al., "signSGD via Zeroth-Order Oracle", ICLR 2019.
Differs: the paper has the sign of every entry, the code of ZO-Bench that of the slope with z Gaussian; there a
direction whose slope is exactly 0 counts in the mean, here it does not. Its sweep files for this method name no
optimizer, so that the published runs went through AdamW.
"""

from dataclasses import dataclass
from typing import Literal

from zoplat import Array, Estimate, Oracle, Schedule, Scheduled, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Sign(Scheduled[None]):
    """Steps along the sign of the estimate.

    Attributes:
        form: "entries" for the sign of each entry, 0 where the entry is; "scalar" for the mean of the vectors as they
            were drawn, each with the sign of its coefficient.
    """

    form: Literal["entries", "scalar"] = "entries"
    schedule: Schedule = Constant(lr=1e-6)

    @property
    def moves_alike(self) -> bool:
        return self.form == "entries"

    def apply(self, estimate: Estimate, oracle: Oracle, state: None) -> None:
        lr = self.rate(oracle)
        decay = lr * self.schedule.decay
        if self.form == "scalar":
            drawn = {(draw.sampler, draw.key) for draw, _ in estimate.direction}  # one may be named once a part
            oracle.space.add(-lr / max(1, len(drawn)) * estimate.direction.signs(), decay)
            return

        def kernel(theta: Array, g: Array) -> None:
            g[:] = (g > 0) * 1.0 - (g < 0) * 1.0
            theta -= lr * g

        oracle.space.decay(decay)
        oracle.space.sweep(kernel, estimate.direction)


@hookimpl
def zoplat_step_rules() -> dict[str, Sign]:
    return {"sign": Sign()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-sgd-sign": MeZO(rule=Sign())}

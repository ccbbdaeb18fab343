"""ZO-SGD-Sign: steps of one size in every weight.

    ĝ = g z,   g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    θ ← (1 − ηλ)θ − η sign(ĝ)      "entries": each weight moves by η up or down
    θ ← (1 − ηλ)θ − η sign(g) z    "scalar": the sign of the slope alone

For one Rademacher z the two are one. With several directions "entries" has the sign of their mean, "scalar" the mean
of their sign(gⱼ) zⱼ. z is what an estimate is g times, with all factors in it, such as those of conmezo.

Cost per step: 2 forward passes; "entries" takes one more pass over θ. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592; after Liu et al., "signSGD via Zeroth-Order Oracle", ICLR 2019.
Differs: the paper has the sign of every entry, the code of ZO-Bench that of the slope with z Gaussian; there a
direction whose slope is exactly 0 counts in the mean, here it does not. Its sweep files for this method name no
optimizer, so that the published runs went through AdamW.
"""

from dataclasses import dataclass
from typing import Literal

from zoplat import ZERO, Array, Direction, Estimate, Oracle, Schedule, Scheduled, ZoplatError, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Sign(Scheduled[None]):
    """Steps along the sign of the estimate.

    Attributes:
        form: "entries" for the sign of each entry, 0 where the entry is; "scalar" for the mean of the directions, each
            with the sign of its slope. It needs estimates that are slopes times directions.
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
            directions = signed(estimate)
            oracle.space.add(-lr / max(1, len(directions)) * sum(directions, ZERO), decay)
            return

        def kernel(theta: Array, g: Array) -> None:
            g[:] = (g > 0) * 1.0 - (g < 0) * 1.0
            theta -= lr * g

        oracle.space.decay(decay)
        oracle.space.sweep(kernel, estimate.direction)


def signed(estimate: Estimate) -> list[Direction]:
    """sign(gⱼ) zⱼ for each slope gⱼ that is not 0.

    Raises:
        ZoplatError: the estimate is not made of slopes, or there are several, and not one term for each.
    """
    slopes = estimate.own_slopes("'sign' with form=scalar")
    steep = [g / len(slopes) for g in slopes if g]
    if len(steep) < 2:
        return [estimate.direction / abs(g) for g in steep]
    if len(estimate.direction) != len(steep):
        raise ZoplatError(
            f"'sign' with form=scalar takes several directions of one term each, and here are {len(steep)} with "
            f"{len(estimate.direction)} terms. Use queries=1, or form=entries."
        )
    return [Direction({draw: c / abs(g)}) for (draw, c), g in zip(estimate.direction, steep, strict=True)]


@hookimpl
def zoplat_step_rules() -> dict[str, Sign]:
    return {"sign": Sign()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-sgd-sign": MeZO(rule=Sign())}

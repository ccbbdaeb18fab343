"""MeZO-SVRG: MeZO with the variance of the batches reduced by an anchor.

    ĝ_I(θ; z) = [ L_I(θ + εz) − L_I(θ − εz) ] / 2ε · z,  z ~ N(0, I)

    every q steps:   θ̄ ← θ,  ḡ ← ĝ_J(θ; z)  with J many batches
                     θ ← θ − η₁ ḡ
    else:            θ ← θ − η₂ [ ĝ_I(θ; z₁) − ĝ_I(θ̄; z₂) + ḡ ]  with I the batch of the step

Nothing of the size of the model is kept: ḡ is a number times a name, and θ̄ − θ is the sum of the steps since, names
too. A pass that goes to θ̄ makes at most 2q directions. The rule must move along the estimate for that, without
weight decay: constant, linear or cosine.

Cost per step: (2·batches of J + 4(q − 1))/q forward passes. Memory: that of inference.

Source: Gautam et al., "Variance-reduced Zeroth-Order Methods for Fine-Tuning Language Models", ICML 2024,
arXiv:2404.08080; settings of the authors' code.
Differs: J is `anchor_batches` batches drawn for the anchor step, where the authors take the whole of their 512 to
1024 training rows. In their code θ̄ is no copy but θ itself, by a slip; here it stays where it was. They shrink η₁
and η₂ when the loss rises; here the step rule has the schedule. One z for both θ and θ̄ (`is_shared`) is ours: it
lets the noise of the two estimates cancel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import (
    Around,
    Direction,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    Schedule,
    StepRule,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class State:
    """ḡ, and the way back to the anchor, θ̄ − θ."""

    anchor: Direction
    back: Direction


@dataclass(frozen=True)
class MeZOSVRG(Estimator[State]):
    """Central differences here and at the anchor.

    Attributes:
        interval: q, steps from anchor to anchor; at least 1.
        anchor_batches: batches of J; at least 1.
        ratio: η₂/η₁, step size between anchors over that on them, which is the rule's; positive.
        is_shared: whether z₁ = z₂.
        rule: how the estimate becomes a step; a schedule without decay.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    interval: int = number(2, at_least=1)
    anchor_batches: int = number(16, at_least=1)
    ratio: float = number(1e-3, above=0)
    is_shared: bool = False
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_plain = isinstance(self.rule, Schedule) and not self.rule.decay
        needs = "must step along the estimate and not decay: constant, linear or cosine with decay 0"
        self.require(is_plain, "rule", f"{needs}, got {self.rule}")

    @property
    def bias(self) -> str:
        return "" if self.ratio == 1 else "estimates between anchors are scaled by η₂/η₁"

    def init(self, space: ParameterSpace) -> State:
        return State(Direction(), Direction())

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        is_anchor = oracle.step % self.interval == 0 or not state.anchor
        estimate = self._anchor(oracle) if is_anchor else self._corrected(oracle, state)
        yield estimate
        step = estimate.direction
        if is_anchor:
            state.anchor, state.back = step, Direction()
        state.back += (self.rule.rate(oracle) or 0.0) * step

    def _anchor(self, oracle: Oracle) -> Estimate:
        """ḡ at θ over many batches."""
        [z] = oracle.draw(self.sampler, 1)
        batches = [oracle.on_batch(i) for i in range(self.anchor_batches)]
        ups, downs = ([batch.losses(sign * self.eps * z)[0] for batch in batches] for sign in (+1, -1))
        slope = (sum(ups) - sum(downs)) / (2 * self.eps * self.anchor_batches)
        return Estimate(slope * z, [*ups, *downs], self.eps, [slope])

    def _corrected(self, oracle: Oracle, state: State) -> Estimate:
        """η₂/η₁ · [ĝ(θ; z₁) − ĝ(θ̄; z₂) + ḡ], with the slopes along z₁ and z₂."""
        here, there = oracle.draw(self.sampler, 2)
        there = here if self.is_shared else there
        up, down = oracle.losses(+self.eps * here, -self.eps * here)
        anchor_up, anchor_down = oracle.losses(state.back + self.eps * there, state.back - self.eps * there)
        bracket = ((up - down) * here - (anchor_up - anchor_down) * there) / (2 * self.eps) + state.anchor
        slopes = [(up - down) / (2 * self.eps), (anchor_up - anchor_down) / (2 * self.eps)]
        return Estimate(self.ratio * bracket, [up, down, anchor_up, anchor_down], self.eps, slopes)


@hookimpl
def zoplat_estimators() -> dict[str, MeZOSVRG]:
    return {"mezo-svrg": MeZOSVRG()}

"""DiZO: another method's steps, and now and then a correction of how far they have led.

Every κ steps, for each chosen array ℓ that has moved by Δ = θ − θ₀, t = ‖Δ‖, since the start:

    γ ← t
    10 times, each on another batch:
        z ~ N(0, 1), clipped to ±(τ/ε_p)·t            one number an array
        g = [ L(γ + ε_p z) − L(γ − ε_p z) ] / 2ε_p    L(γ): the loss with θ₀ + (γ/t)Δ in the chosen arrays
        γ ← γ − η_p t g z, clipped to (1 ± τ)·t
    θ ← θ₀ + (γ/t)Δ

With mode "fo" a projection is 10 steps of Adam (η 0.1) down the gradient of L(γ) + 10⁻³ Σ|γ|, each on another batch, by
backpropagation; ε_p, η_p and τ have no say in it. γ begins at 0 when the run begins; from then on it and Adam's moments
live on from projection to projection. With "fo-anew" every projection begins at γ = 0 and with new moments, so that no
array gets much further than 10 η = 1.

Cost per step: that of the inner method, and 20/κ forward passes (by backpropagation: 10/κ forward and backward
passes). Memory: θ₀ and Δ of the chosen arrays, float32, in files, which hold memory only as far as there is room; by
backpropagation also a gradient of them.

Source: Tan et al., "Harmony in Divergence: Towards Fast, Accurate, and Memory-efficient Zeroth-order LLM
Fine-tuning", NeurIPS 2025, arXiv:2502.03304; the inner loop, its clipping and the mode "fo" are those of the authors'
code, in which γ and its optimizer are made once; "fo-anew" is zoplat's.
Differs: the paper chooses the query and value matrices ("q,v"), the code key and value matrices without their biases
("k,v"), for OPT by name, and all factors of LoRA ("lora"); with any other model the code chooses nothing and is MeZO
without a word, which here is an error. The code divides by t + 10⁻⁸; here an array that has not moved is left out, so
that γ = t changes no bit. It takes the next training batches for the inner loop, so that a run sees other batches than
MeZO's; here it has batches of its own. It keeps every z of a step and a copy of the start in memory, and its dev set
is its test set.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from zoplat import (
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Part,
    Sampler,
    SkipStep,
    StepRule,
    held,
    hookimpl,
    number,
    pattern,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.mezo_svrg import MeZOSVRG

TARGETS = {
    "q,v": r"\.(q|q_proj|query|v|v_proj|value)\.(.+\.)?weight$",
    "k,v": r"\.(k|k_proj|key|v|v_proj|value)\.(.+\.)?weight$",
}
FO_LR, FO_PULL = 0.1, 1e-3  # Adam's η and the weight of Σ|γ| in the authors' code


@dataclass
class Descent:
    """γ of every chosen array, Adam's two moments of it, and the steps of Adam so far."""

    gamma: list[float]
    m: list[float]
    v: list[float]
    steps: int = 0

    @classmethod
    def at_rest(cls, arrays: int) -> "Descent":
        """γ = 0, and no step so far."""
        return cls([0.0] * arrays, [0.0] * arrays, [0.0] * arrays)

    def stepped(self, slopes: list[float]) -> "Descent":
        """After one more step, down these slopes and the pull towards 0."""
        g = [slope + FO_PULL * ((r > 0) - (r < 0)) for slope, r in zip(slopes, self.gamma, strict=True)]
        m = [0.9 * mean + 0.1 * x for mean, x in zip(self.m, g, strict=True)]
        v = [0.999 * mean + 0.001 * x * x for mean, x in zip(self.v, g, strict=True)]
        share_m, share_v = 1 - 0.9 ** (self.steps + 1), 1 - 0.999 ** (self.steps + 1)
        moves = [(a / share_m) / (math.sqrt(b / share_v) + 1e-8) for a, b in zip(m, v, strict=True)]
        gamma = [r - FO_LR * move for r, move in zip(self.gamma, moves, strict=True)]
        return Descent(gamma, m, v, self.steps + 1)


@dataclass
class State:
    """The state of the inner method, θ₀ and the last Δ of the chosen arrays, and γ where it lives on: mode "fo"."""

    inner: Any
    anchor: Buffer
    travel: Buffer
    descent: Descent


@dataclass(frozen=True)
class DiZO(Estimator[State]):
    """An estimator, and projections of what its steps have added to the start.

    Attributes:
        inner: the method that makes the steps; its own rule is not used. Not mezo-svrg.
        every: κ, steps from projection to projection; at least 1.
        mode: how γ is found: "zo" by forward passes; by backpropagation "fo", where γ and Adam's moments live on (the
            authors' code), or "fo-anew", where every projection begins anew.
        rounds: steps that γ makes in a projection; at least 1.
        radius_eps: ε_p, the probe of γ, in the units of the parameters; positive.
        radius_lr: η_p, step size of γ; not negative.
        tau: τ, by how much of itself a distance may change at a projection; in [0, 1).
        targets: the arrays: "q,v" (the paper) or "k,v" (the authors' code), matrices without biases both, or a regular
            expression over names.
    """

    inner: Estimator = MeZO()
    every: int = number(50, at_least=1)
    mode: Literal["zo", "fo", "fo-anew"] = "zo"
    rounds: int = number(10, at_least=1)
    radius_eps: float = number(0.1, above=0)
    radius_lr: float = number(2.0, at_least=0)
    tau: float = number(0.2, at_least=0, below=1)
    targets: str = pattern("q,v", *TARGETS)
    rule: StepRule = Constant(lr=1e-7)

    def __post_init__(self) -> None:
        super().__post_init__()
        stays = not isinstance(self.inner, MeZOSVRG)
        self.require(
            stays, "inner", "can't be mezo-svrg: it finds its anchor by its own steps, and projections are none"
        )

    @property
    def asks(self) -> frozenset[str]:
        return self.inner.asks | {"losses" if self.mode == "zo" else "gradient"}

    @property
    def bias(self) -> str:
        return self.inner.bias

    @property
    def has_horizon(self) -> bool:
        return self.inner.has_horizon

    @property
    def law(self) -> Sampler | None:
        return self.inner.law

    def init(self, space: ParameterSpace) -> State:
        chosen = space.named(TARGETS.get(self.targets, self.targets), f"targets={self.targets}")
        travel = space.buffer("dizo/travel", on=chosen, mapped=True)
        descent = Descent.at_rest(len(travel.arrays) if self.mode == "fo" else 0)
        return State(self.inner.init(space), space.snapshot("dizo/anchor", on=chosen), travel, descent)

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        try:
            yield from self.inner.estimate(oracle, state.inner)  # is resumed once the step is taken
        except SkipStep:
            self.project(oracle, state)
            raise
        self.project(oracle, state)

    def project(self, oracle: Oracle, state: State) -> None:
        """Take θ to better distances from the start, if it is time to."""
        if (oracle.step + 1) % self.every:
            return
        radii = Radii(oracle.space, state)
        if not radii.lengths:
            return
        if self.mode == "zo":
            self.probe(oracle, radii)
        elif self.mode == "fo":
            state.descent = self.descend(oracle, radii, state.descent)
        else:
            self.descend(oracle, radii, Descent.at_rest(len(state.travel.arrays)))

    def probe(self, oracle: Oracle, radii: "Radii") -> None:
        """Find γ by forward passes and take θ there."""
        eps, tau, lengths = self.radius_eps, self.tau, radii.lengths
        gamma = lengths
        for i in range(self.rounds):
            normals = zip(oracle.normals(len(lengths)), lengths, strict=True)
            z = [min(max(x, -tau / eps * t), tau / eps * t) for x, t in normals]
            ahead, behind = ([r + sign * eps * x for r, x in zip(gamma, z, strict=True)] for sign in (+1, -1))
            up, down = oracle.on_batch(i).losses(radii.move(ahead), radii.move(behind))
            g = (up - down) / (2 * eps)
            gamma = [
                min(max(r - self.radius_lr * t * g * x, (1 - tau) * t), (1 + tau) * t)
                for r, t, x in zip(gamma, lengths, z, strict=True)
            ]
        oracle.space.add(radii.move(gamma))

    def descend(self, oracle: Oracle, radii: "Radii", descent: Descent) -> Descent:
        """Find γ by Adam on gradients, θ going along; θ is back where it was if a gradient can't be had."""
        made = Direction()
        try:
            for i in range(self.rounds):
                there = radii.move([descent.gamma[k] for k in radii.at])
                oracle.space.add(there - made)
                made = there
                _, gradient = oracle.on_batch(i).gradient(radii.part)
                slopes = dict(zip(radii.at, radii.slopes(gradient), strict=True))
                descent = descent.stepped([slopes.get(k, 0.0) for k in range(len(descent.gamma))])
        except SkipStep:
            oracle.space.add(-made)
            raise
        oracle.space.add(radii.move([descent.gamma[k] for k in radii.at]) - made)
        return descent


class Radii:
    """How far the chosen arrays are from their anchor, those that have moved.

    Attributes:
        at: the place of each among all chosen arrays.
        lengths: t of each.
        part: those arrays.
    """

    def __init__(self, space: ParameterSpace, state: State) -> None:
        space.displacement(state.anchor, state.travel)
        self.space, self.whole = space, held(state.travel)
        chosen = Part(frozenset(state.travel.arrays))
        squares = {name: square for name, square in space.dot(self.whole, self.whole, on=chosen).items() if square > 0}
        names = [*state.travel.arrays]
        self.at = [names.index(name) for name in squares]
        self.part = Part(frozenset(squares))
        self.lengths = [math.sqrt(square) for square in squares.values()]
        self.rays = [self.whole.on(Part(frozenset([name]))) for name in squares]

    def move(self, gamma: list[float]) -> Direction:
        """From where θ was found to θ₀ + (γ/t)Δ."""
        terms = zip(gamma, self.lengths, self.rays, strict=True)
        return sum(((r / t - 1) * ray for r, t, ray in terms), Direction())

    def slopes(self, gradient: Direction) -> list[float]:
        """∂L/∂γ = ⟨∇L, Δ⟩/t for each array."""
        products = self.space.dot(gradient, self.whole, on=self.part).values()
        return [product / t for product, t in zip(products, self.lengths, strict=True)]


@hookimpl
def zoplat_estimators() -> dict[str, DiZO]:
    return {"dizo": DiZO()}

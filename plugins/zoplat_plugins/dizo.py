"""DiZO: another method's steps, and now and then a correction of how far they have led.

Every κ steps, for each chosen array ℓ that has moved by Δ = θ − θ₀, t = ‖Δ‖, since the start:

    γ ← t
    10 times, each on another batch:
        z ~ N(0, 1), clipped to ±(τ/ε_p)·t            one number an array
        g = [ L(γ + ε_p z) − L(γ − ε_p z) ] / 2ε_p    L(γ): the loss with θ₀ + (γ/t)Δ in the chosen arrays
        γ ← γ − η_p t g z, clipped to (1 ± τ)·t
    θ ← θ₀ + (γ/t)Δ

With mode "fo" γ begins at 0 and takes 10 steps of Adam (η 0.1) down the gradient of
L(γ) + 10⁻³ Σ|γ|, each on another batch, by backpropagation; ε_p, η_p and τ have no say in it.

Cost per step: that of the inner method, and 20/κ forward passes ("fo": 10/κ forward and
backward passes). Memory: θ₀ and Δ of the chosen arrays, float32, in files, which hold
memory only as far as there is room; "fo": a gradient of them.

Source: Tan et al., "Harmony in Divergence: Towards Fast, Accurate, and Memory-efficient
Zeroth-order LLM Fine-tuning", NeurIPS 2025, arXiv:2502.03304; the inner loop, its clipping
and the mode "fo" are those of the authors' code.
Differs: the paper chooses the query and value matrices ("q,v"), the code keys and values with
their biases ("k,v"), for OPT by name, and all factors of LoRA ("lora"); with any other model
the code chooses nothing and is MeZO without a word, which here is an error. The code divides
by t + 10⁻⁸; here an array that has not moved is left out, so that γ = t changes no bit. It
takes the next training batches for the inner loop, so that a run sees other batches than
MeZO's; here they are drawn apart. It keeps every z of a step and a copy of the start in
memory, and its dev set is its test set.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from zoplat import (
    ZERO,
    Buffer,
    Direction,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Part,
    SkipStep,
    StepRule,
    ZoplatError,
    held,
    hookimpl,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO

TARGETS = {
    "q,v": r"\.(q|q_proj|query|v|v_proj|value)\.(.+\.)?weight$",
    "k,v": r"\.(k|k_proj|key|v|v_proj|value)\.",
}
FO_LR, FO_PULL = 0.1, 1e-3  # Adam's η and the weight of Σ|γ| in the authors' code


@dataclass
class State:
    """What a run keeps.

    Attributes:
        inner: the state of the inner method.
        anchor: θ₀ of the chosen arrays.
        travel: Δ of the last projection.
    """

    inner: Any
    anchor: Buffer
    travel: Buffer


@dataclass(frozen=True)
class DiZO(Estimator):
    """An estimator, and projections of what its steps have added to the start.

    Attributes:
        inner: the method that makes the steps; its own rule is not used.
        every: κ, steps from projection to projection; at least 1.
        mode: how γ is found: "zo" by forward passes, "fo" by backpropagation.
        rounds: steps that γ makes in a projection; at least 1.
        radius_eps: ε_p, the probe of γ, in the units of the parameters; positive.
        radius_lr: η_p, step size of γ; not negative.
        tau: τ, by how much of itself a distance may change at a projection; in [0, 1).
        targets: the arrays: "q,v" (the paper), "k,v" (the authors' code), or a regular expression over names.
        rule: how the inner estimates become steps.
    """

    inner: Estimator = MeZO()
    every: int = 50
    mode: Literal["zo", "fo"] = "zo"
    rounds: int = 10
    radius_eps: float = 0.1
    radius_lr: float = 2.0
    tau: float = 0.2
    targets: str = "q,v"
    rule: StepRule = Constant(lr=1e-7)

    def __post_init__(self) -> None:
        for name in ("every", "rounds"):
            if getattr(self, name) < 1:
                raise ZoplatError(f"{name} must be at least 1, got {getattr(self, name)}  (-o {name}=…)")
        if not self.radius_eps > 0:
            raise ZoplatError(f"radius_eps must be positive, got {self.radius_eps}  (-o radius_eps=…)")
        if not self.radius_lr >= 0:
            raise ZoplatError(f"radius_lr must be 0 or more, got {self.radius_lr}  (-o radius_lr=…)")
        if not 0 <= self.tau < 1:
            raise ZoplatError(f"tau must lie in [0, 1), got {self.tau}  (-o tau=…)")
        try:
            re.compile(self.targets)
        except re.error as problem:
            raise ZoplatError(
                f"targets must be q,v or k,v or a regular expression, got {self.targets} ({problem})  (-o targets=…)"
            ) from None

    @property
    def asks(self) -> frozenset[str]:
        return self.inner.asks | {"losses" if self.mode == "zo" else "gradient"}

    @property
    def bias(self) -> str:
        return self.inner.bias

    @property
    def has_horizon(self) -> bool:
        return self.inner.has_horizon

    def init(self, space: ParameterSpace) -> State:
        part = self._chosen(space)
        travel = space.buffer("dizo/travel", on=part, mapped=True)
        return State(self.inner.init(space), space.snapshot("dizo/anchor", on=part), travel)

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        yield from self.inner.estimate(oracle, state.inner)  # is resumed once the step is taken
        if (oracle.step + 1) % self.every:
            return
        travelled = _Travelled(oracle.space, state)
        if not travelled.lengths:
            return
        if self.mode == "zo":
            self._probed(oracle, travelled)
        else:
            self._descended(oracle, travelled)

    def _probed(self, oracle: Oracle, travelled: "_Travelled") -> None:
        """Find γ by forward passes and take θ there."""
        lengths, eps = travelled.lengths, self.radius_eps
        radii = lengths
        for i in range(self.rounds):
            bounds = [self.tau / eps * t for t in lengths]
            z = [_clipped(x, -b, b) for x, b in zip(oracle.normals(len(lengths)), bounds, strict=True)]
            ahead, behind = ([r + sign * eps * x for r, x in zip(radii, z, strict=True)] for sign in (+1, -1))
            up, down = oracle.on_batch(i).losses(travelled.to(ahead), travelled.to(behind))
            g = (up - down) / (2 * eps)
            radii = [
                _clipped(r - self.radius_lr * t * g * x, (1 - self.tau) * t, (1 + self.tau) * t)
                for r, t, x in zip(radii, lengths, z, strict=True)
            ]
        oracle.space.add(travelled.to(radii))

    def _descended(self, oracle: Oracle, travelled: "_Travelled") -> None:
        """Find γ by gradients, θ going along; back to where it was if one can't be had."""
        space, count = oracle.space, len(travelled.lengths)
        radii, m, v, place = [0.0] * count, [0.0] * count, [0.0] * count, ZERO
        try:
            for i in range(self.rounds):
                space.add(travelled.to(radii) - place)
                place = travelled.to(radii)
                _, gradient = oracle.on_batch(i).gradient(travelled.part)
                slopes = travelled.slopes(gradient)
                slopes = [s + FO_PULL * ((r > 0) - (r < 0)) for s, r in zip(slopes, radii, strict=True)]
                m = [0.9 * a + 0.1 * s for a, s in zip(m, slopes, strict=True)]
                v = [0.999 * a + 0.001 * s * s for a, s in zip(v, slopes, strict=True)]
                share_m, share_v = 1 - 0.9 ** (i + 1), 1 - 0.999 ** (i + 1)
                radii = [
                    r - FO_LR * (a / share_m) / (math.sqrt(b / share_v) + 1e-8)
                    for r, a, b in zip(radii, m, v, strict=True)
                ]
        except SkipStep:
            space.add(-place)
            raise
        space.add(travelled.to(radii) - place)

    def _chosen(self, space: ParameterSpace) -> Part:
        pattern = re.compile(TARGETS.get(self.targets, self.targets))
        part = space.part(lambda block: pattern.search(block.name) is not None)
        if not part:
            raise ZoplatError(
                f"targets={self.targets} finds nothing to project in the names of the trained weights, such as "
                f"{space.blocks[0].name}. Use q,v or k,v or a regular expression that finds some  (-o targets=…)"
            )
        return part


class _Travelled:
    """How far the chosen arrays are from their anchor, those that have moved.

    Attributes:
        lengths: t of each.
        part: those arrays.
    """

    def __init__(self, space: ParameterSpace, state: State) -> None:
        def subtract(theta: Any, zero: Any, travel: Any, anchor: Any) -> None:
            travel -= anchor

        self.space = space
        self.whole = held(state.travel)
        chosen = Part(frozenset(state.travel.arrays))
        space.copy_to(state.travel)
        space.sweep(subtract, ZERO, state.travel, state.anchor, on=chosen)
        squares = {name: square for name, square in space.dot(self.whole, self.whole, on=chosen).items() if square > 0}
        self.part = Part(frozenset(squares))
        self.lengths = [math.sqrt(square) for square in squares.values()]
        self.ways = [self.whole.on(Part(frozenset([name]))) for name in squares]

    def to(self, radii: list[float]) -> Direction:
        """From where θ was found to θ₀ + (γ/t)Δ."""
        steps = (r / t - 1 for r, t in zip(radii, self.lengths, strict=True))
        return sum((step * way for step, way in zip(steps, self.ways, strict=True)), ZERO)

    def slopes(self, gradient: Direction) -> list[float]:
        """∂L/∂γ = ⟨∇L, Δ⟩/t for each array."""
        products = self.space.dot(gradient, self.whole, on=self.part).values()
        return [product / t for product, t in zip(products, self.lengths, strict=True)]


def _clipped(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"dizo": DiZO()}

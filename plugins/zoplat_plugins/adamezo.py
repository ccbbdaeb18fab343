"""AdaMeZO: Adam whose moments are made again from names, never stored.

    g_t = Σ c z                              the estimate of step t: slopes times directions, by name
    m = (1 − β₁) Σ β₁ⁱ g_{t−i}               over the last h steps, i = 0 … h − 1
    v = (1 − β₂) Σ β₂ⁱ g_{t−i}²              entry by entry; of a step of several directions, of their sum
    θ ← (1 − ηλ)θ − η m/√(v + ε)

What is left out is the share βʰ that Adam has of older steps: 3 % of m and 35 % of v as registered. m/√(v + ε) is a
law: on each tile the directions of h steps are drawn again, added up, and forgotten. So it is a name like any other,
and takes part in the pass that restores and perturbs.

Cost per step: 2 forward passes, and in one pass over θ the directions of h steps, once for m and once for v. Memory:
that of inference, names and slopes of h steps, and a few arrays of one tile.

Source: Cai et al., "AdaMeZO: Adam-style Zeroth-Order Optimizer for LLM Fine-tuning Without Maintaining the Moments",
ICML 2026, arXiv:2605.00650, by an independent description; h, β₁, β₂ and η by the authors' code.
Differs: that code takes the first h + 1 steps as MeZO does; here the sums are over the steps there are. It leaves out
1 − β₁ and 1 − β₂, adds 10⁻⁵ outside of the root and multiplies by 100; η = 10⁻⁷ there is about 10⁻⁵ here. The
description has no number for ε; 10⁻¹⁰ is ours. As there, moments have no correction for the first steps. Any law and
any number of directions can be used; the paper has one Gaussian. Decay is on matrices only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from zoplat import (
    Array,
    Composed,
    Direction,
    Estimate,
    Oracle,
    ParameterSpace,
    Part,
    Schedule,
    Scheduled,
    SkipStep,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO

Terms: TypeAlias = tuple[tuple[Any, float], ...]
"""The draws of an estimate with their coefficients."""


@dataclass(frozen=True)
class Moments(Composed):
    """m/√(v + ε), from the estimates of the last steps; by `AdaMeZO` alone.

    Attributes:
        window: the estimates, the newest first.
        beta1, beta2, eps: as those of the rule.
    """

    window: tuple[Terms, ...]
    beta1: float
    beta2: float
    eps: float

    @cached_property
    def sums(self) -> tuple[Direction, list[Direction]]:
        """m, and the directions whose squares are the terms of v."""
        gradients = [Direction(dict(terms)) for terms in self.window]
        m = sum(((1 - self.beta1) * self.beta1**age * g for age, g in enumerate(gradients)), Direction())
        return m, [((1 - self.beta2) * self.beta2**age) ** 0.5 * g for age, g in enumerate(gradients)]

    def combine(self, entries: Callable[[Direction], Array]) -> Array:
        mean, parts = self.sums
        m = entries(mean) + 0.0  # the next ones are formed in the same memory
        v = m * 0.0 + self.eps
        for part in parts:
            g = entries(part)
            g *= g
            v += g
        return m / v**0.5


@dataclass
class State:
    """The estimates of the last h steps, the newest first."""

    window: list[Direction] = field(default_factory=list)


@dataclass(frozen=True)
class AdaMeZO(Scheduled[State]):
    """θ ← (1 − ηλ)θ − η m/√(v + ε), with the moments m and v of the last h estimates.

    Attributes:
        beta1: β₁, weight of an estimate in m beside that of the step after it; in [0, 1).
        beta2: β₂, the same in v; in [0, 1).
        window: h, steps whose estimates are used; at least 1. Each is drawn again at every step.
        eps: ε, added to v under the root; at least 10⁻³⁰.
    """

    schedule: Schedule = Constant(lr=1e-5)
    beta1: float = number(0.7, at_least=0, below=1)
    beta2: float = number(0.9, at_least=0, below=1)
    window: int = number(10, at_least=1)
    eps: float = number(1e-10, at_least=1e-30)

    def init(self, space: ParameterSpace) -> State:
        return State()

    def apply(self, estimate: Estimate, oracle: Oracle, state: State) -> None:
        if not estimate.direction.is_finite:  # it would stay in the window
            raise SkipStep(f"The estimate of step {oracle.step} has a coefficient that is not finite.")
        estimate.direction.check_lasting("'adamezo'")
        window = [estimate.direction, *state.window][: self.window]
        lr = self.rate(oracle)
        oracle.space.add(-lr * self.scaled(window), decay=lr * self.schedule.decay)
        state.window = window

    def scaled(self, window: list[Direction]) -> Direction:
        """m/√(v + ε) by name, on the parts that the estimates are on."""
        terms = tuple(tuple(direction) for direction in window)
        draws = [draw for some in terms for draw, _ in some]
        if not draws:
            return Direction()
        moved = Direction.of(Moments(terms, self.beta1, self.beta2, self.eps), draws[0].key)
        parts = [draw.part.names for draw in draws if draw.part is not None]
        return moved if len(parts) < len(draws) else moved.on(Part(frozenset().union(*parts)))


@hookimpl
def zoplat_step_rules() -> dict[str, AdaMeZO]:
    return {"adamezo": AdaMeZO()}


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"adamezo": MeZO(rule=AdaMeZO())}

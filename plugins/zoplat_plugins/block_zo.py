"""Block-ZO: central differences part by part.

    θ is divided into parts p = 1 … P;  z ~ N(0, I),  zₚ = z on part p and zero elsewhere
    gₚ = [ L(θ + εzₚ) − L(θ − εzₚ) ] / 2ε        for each p in turn, same batch
    θ ← θ − η gₚ zₚ        "gauss-seidel": at once, so that the next part sees it
    θ ← θ − η Σ gₚ zₚ      "jacobi": once, when all parts are measured

Each slope is disturbed by the weights of its own part only, so the spread of the whole
estimate is that of a part and not of θ.

Cost per step: 2P forward passes, and 3 to 4 passes over θ. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM
Fine-Tuning: A Benchmark", ICML 2024, arXiv:2402.11592, block-wise ZO fine-tuning; η is
that of the example in the authors' README.
Differs: the authors' code restarts one seed for every part, so that parts of one shape
get the same z; here every block has numbers of its own. It knows OPT's names only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from zoplat import (
    ZERO,
    Block,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Part,
    Sampler,
    StepRule,
    ZoplatError,
    hookimpl,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class BlockZO(Estimator):
    """A central difference for each part of the weights, in the order in which they are registered.

    Attributes:
        eps: smoothing radius ε, in the units of the parameters; positive.
        by: what makes a part. "block": each array. "module": arrays whose names differ only after the last dot, such
            as a weight and its bias. "layer": all of a layer, and by module what is in no layer. Anything else is a
            regular expression: arrays in whose names it finds the same text are a part, and by module those in whose
            names it finds nothing; "layers.[0-9]+.(mlp|self_attn)" makes halves of layers.
        order: "gauss-seidel" moves each part before the next is measured, "jacobi" all parts at the end. In the
            former the rule acts P times a step, its weight decay on all weights each time.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    by: str = "layer"
    order: Literal["jacobi", "gauss-seidel"] = "gauss-seidel"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-8)

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ZoplatError(f"eps must be positive, got {self.eps}  (--eps)")
        try:
            re.compile(self.by)
        except re.error as problem:
            raise ZoplatError(
                f"by must be block, module, layer or a regular expression, got {self.by} ({problem})  (-o by=…)"
            ) from None

    @property
    def bias(self) -> str:
        return "" if self.order == "jacobi" else "each estimate is of the gradient on one part"

    def init(self, space: ParameterSpace) -> None:
        if self.by not in ("block", "module", "layer") and not any(re.search(self.by, b.name) for b in space.blocks):
            raise ZoplatError(
                f"by={self.by} finds nothing in the names of the trained weights, such as {space.blocks[0].name}. "
                "Use block, module, layer or another regular expression  (-o by=…)"
            )

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        g, seen = ZERO, []
        for part in self.parts(oracle.space):
            up, down = oracle.losses(+self.eps * z.on(part), -self.eps * z.on(part))
            projected_grad = (up - down) / (2 * self.eps)
            if self.order == "gauss-seidel":
                yield Estimate(projected_grad * z.on(part), [up, down], self.eps)
            g += projected_grad * z.on(part)
            seen += [up, down]
        if self.order == "jacobi":
            yield Estimate(g, seen, self.eps)

    def parts(self, space: ParameterSpace) -> list[Part]:
        """The parts of a space, by their first arrays."""
        names: dict[str, list[str]] = {}
        for block in space.blocks:
            names.setdefault(self._label(block), []).append(block.name)
        return [Part(frozenset(group)) for group in names.values()]

    def _label(self, block: Block) -> str:
        """What arrays of one part have in common."""
        module = block.name.rpartition(".")[0] or block.name
        if self.by == "layer":
            return module if block.layer is None else f"layer {block.layer}"
        if self.by in ("block", "module"):
            return block.name if self.by == "block" else module
        found = re.search(self.by, block.name)
        return found.group() if found else module


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"block-zo": BlockZO()}

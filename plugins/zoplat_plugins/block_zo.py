"""Block-ZO: central differences part by part.

    θ is divided into parts p = 1 … P;  z ~ N(0, I),  zₚ = z on part p and zero elsewhere
    gₚ = [ L(θ + εzₚ) − L(θ − εzₚ) ] / 2ε        for each p in turn, same batch
    θ ← θ − η gₚ zₚ        "gauss-seidel": at once, so that the next part sees it
    θ ← θ − η Σ gₚ zₚ      "jacobi": once, when all parts are measured

Each slope is disturbed by the weights of its own part only, so the spread of the whole estimate is that of a part and
not of θ.

Cost per step: 2P forward passes, and 3 to 4 passes over θ. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592, block-wise ZO fine-tuning; η is that of the example in the authors' README.
Differs: the authors' code restarts one seed for every part, so that parts of one shape get the same z; here every
block has numbers of its own. It knows OPT's names only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoplat import (
    Around,
    Block,
    Estimate,
    Estimator,
    Oracle,
    ParameterSpace,
    Sampler,
    StepRule,
    hookimpl,
    number,
    pattern,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class BlockZO(Estimator[None]):
    """A central difference for each part of the weights, in the order in which they are registered.

    Attributes:
        by: what makes a part. "block": each array. "module": arrays whose names differ only after the last dot, such
            as a weight and its bias. "layer": all of a layer, and by module what is in no layer. Anything else is a
            regular expression: arrays in whose names it finds the same text are a part, and by module those in whose
            names it finds nothing; "layers.[0-9]+.(mlp|self_attn)" makes halves of layers.
        order: "gauss-seidel" moves each part before the next is measured, "jacobi" all parts at the end. In the
            former the rule acts P times a step, its weight decay on all weights each time.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    by: str = pattern("layer", "block", "module", "layer")
    order: Literal["jacobi", "gauss-seidel"] = "gauss-seidel"
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-8)

    @property
    def bias(self) -> str:
        return "" if self.order == "jacobi" else "each estimate is of the gradient on one part"

    def init(self, space: ParameterSpace) -> None:
        if self.by not in ("block", "module", "layer"):
            space.named(self.by, f"by={self.by}")

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        g, seen, slopes = 0 * z, list[float](), list[float]()
        for part in oracle.space.parts_by(self.label):
            [projected_grad], losses = oracle.slopes([z.on(part)], self.eps)
            if self.order == "gauss-seidel":
                yield Estimate(projected_grad * z.on(part), losses, self.eps, [projected_grad])
            g += projected_grad * z.on(part)
            seen += losses
            slopes += [projected_grad]
        if self.order == "jacobi":
            yield Estimate(g, seen, self.eps, slopes)

    def label(self, block: Block) -> str:
        """What the arrays of one part have in common."""
        module = block.name.rpartition(".")[0] or block.name
        if self.by == "layer":
            return module if block.layer is None else f"layer {block.layer}"
        if self.by in ("block", "module"):
            return block.name if self.by == "block" else module
        found = re.search(self.by, block.name)
        return found.group() if found else module


@hookimpl
def zoplat_estimators() -> dict[str, BlockZO]:
    return {"block-zo": BlockZO()}

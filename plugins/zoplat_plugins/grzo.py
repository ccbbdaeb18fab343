"""GRZO: a direction for every row of the batch, in two forward passes.

    U ~ N(0, I)                                  one matrix, shared by the rows of the batch
    rᵢ, sᵢ ∈ {±1}                                random signs for rows and columns, fresh for every row i = 1 … B
    zᵢ = U ∘ (rᵢ sᵢᵀ)                            a direction for each row; vectors: u ∘ rᵢ
    δᵢ = L(θ + σzᵢ; ξᵢ) − L(θ − σzᵢ; ξᵢ)         the loss of row i alone, all rows in one pass for each sign
    s = √(mean (δᵢ − δ̄)²)
    θ ← θ − η · (1/2σB) Σ aᵢ zᵢ,  aᵢ = δᵢ/(s + 10⁻⁸)

A batch of B rows tells the slopes along B directions where MeZO learns one. All of them come from one U, since
(U ∘ (rᵢ sᵢᵀ)) x = rᵢ ∘ (U (sᵢ ∘ x)): a pass takes one more product a layer, and the step one U times a sum of signs.
The division by s makes the length of a step independent of the unit of the loss.

Cost per step: 2 forward passes, where the device batches; row by row they are 2B passes of one row, and as many over
the weights. Memory: that of inference, plus U of a few rows of one layer.

Source: Tan et al., "GRZO: Group-Relative Zeroth-Order Optimization for Large Language Model Fine-Tuning", 2026,
arXiv:2606.02857, by its abstract and an independent description of the update (Zij); no code was released.
Differs: what the paper does with vectors was not at hand; here each row has signs of its own for them. Nor were the
law of U, which is Gaussian here, and its settings: σ is MeZO's, and η is ours. Rows count alike, those of several
tokens too, where the loss of a batch under --objective tokens counts tokens. A step whose δᵢ are all equal is
skipped, where the formula divides by 10⁻⁸.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import pstdev

from zoplat import (
    Around,
    Direction,
    Estimate,
    Estimator,
    Oracle,
    RowSigns,
    Sampler,
    SkipStep,
    StepRule,
    ZoplatError,
    hookimpl,
    number,
)
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class GRZO(Estimator[None]):
    """Central differences of each row along a direction of its own, divided by their spread within the batch.

    Attributes:
        eps: σ, how far the losses of a row are probed, in the units of the parameters; positive.
        floor: what is added to the spread, in the units of the loss; not negative.
        sampler: law of the directions of the rows; those of `row-signs` share a product.
    """

    eps: float = number(1e-3, above=0, search=Around(3))
    floor: float = number(1e-8, at_least=0)
    sampler: Sampler = RowSigns(Gaussian())
    rule: StepRule = Constant(lr=1e-6)

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({"row losses"})

    @property
    def bias(self) -> str:
        return "differences divided by their spread keep the direction and not the length"

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        rows = oracle.row_count()
        if rows < 2:
            raise ZoplatError("grzo divides by the spread within the batch, and a batch has 1 row. Use --batch-size 2.")
        directions = oracle.draw(self.sampler, rows)
        ups, downs = oracle.row_losses([self.eps * z for z in directions], [-self.eps * z for z in directions])
        deltas = [up - down for up, down in zip(ups, downs, strict=True)]
        spread = pstdev(deltas)
        if spread == 0:
            raise SkipStep(f"The losses of all rows of step {oracle.step} changed by the same {deltas[0]:g}.")
        scores = [delta / (spread + self.floor) / (2 * self.eps) for delta in deltas]
        slopes = [delta / (2 * self.eps) for delta in deltas]
        losses = [loss for pair in zip(ups, downs, strict=True) for loss in pair]
        yield Estimate(Direction.mean(scores, directions), losses, self.eps, slopes, is_shaped=True)


@hookimpl
def zoplat_samplers() -> dict[str, RowSigns]:
    return {"row-signs": RowSigns(Gaussian())}


@hookimpl
def zoplat_estimators() -> dict[str, GRZO]:
    return {"grzo": GRZO()}

"""SGD by backpropagation: the first-order yardstick.

    θ ← (1 − ηλ)θ − η∇L(θ)             the gradient of the batch, exact

Not a zeroth-order method: it is here so that a run by forward passes can be held against one by gradients, on the
same batches, weights and budget.

Cost per step: a forward and a backward pass, which count as three passes; four with `recompute`. Memory: that of
inference, the activations of a batch, and one gradient, in float32; with `recompute` what enters each layer, and the
activations of one layer. The device must answer "gradient", and the run can't be replayed from its journal.

Source: Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023, arXiv:2305.17333,
appendix E.3 (FT with SGD); Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174, for
`recompute`.
Differs: the paper's runs let η fall along a line; here it stays. Dropout is off, as it is for every method here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Estimate, Estimator, Oracle, StepRule, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class Backpropagation(Estimator[None]):
    """The gradient itself.

    Attributes:
        recompute: whether activations are made again on the way back instead of kept (gradient checkpointing).
    """

    recompute: bool = False
    rule: StepRule = Constant(lr=1e-3)
    asks = frozenset({"gradient"})

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        loss, gradient = oracle.gradient(recompute=self.recompute)
        yield Estimate(gradient, [loss])


@hookimpl
def zoplat_estimators() -> dict[str, Backpropagation]:
    return {"sgd": Backpropagation()}

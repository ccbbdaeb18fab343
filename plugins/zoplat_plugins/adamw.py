"""AdamW by backpropagation: the usual way to fine-tune, as a yardstick.

    g = ∇L(θ)                                                 the gradient of the batch, exact
    m ← β₁m + (1 − β₁)g        v ← β₂v + (1 − β₂)g²           entry by entry
    θ ← (1 − ηλ)θ − η m̂ / (√v̂ + ε)                           η falls along a line to 0

The gradient of `sgd` with the step rule `adam`, whose decay is the one that gave AdamW its name.

Cost per step: a forward and a backward pass, which count as three passes; four with `recompute`. Memory: that of
`sgd`, and m and v, two float32 numbers a weight. The run can't be replayed from its journal.

Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2;
settings of Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", NeurIPS 2023, arXiv:2305.17333,
Table 16 (OPT, FT with Adam: the middle of the grid, no decay).
Differs: the paper trains 5 epochs in batches of 8; here a run is as long as it is asked to be. Decay is on matrices
only.
"""

from zoplat import hookimpl
from zoplat_plugins.adam import Adam
from zoplat_plugins.linear import Linear
from zoplat_plugins.sgd import Backpropagation


@hookimpl
def zoplat_estimators() -> dict[str, Backpropagation]:
    return {"adamw": Backpropagation(rule=Adam(schedule=Linear(lr=5e-5)))}

"""ZO-SGD: stochastic gradient descent along central differences.

    z ~ N(0, I)
    g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    θ ← θ − η g z

This is MeZO without weight decay, under the name that ZO-Bench compares methods by, with that benchmark's settings:
the middle of its grid for OPT-1.3B on SST-2.

Cost per step: 2n forward passes for n directions, n + 1 one-sided. Memory: that of inference.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592.
Differs: ZO-Bench stores the gradient where n is above 1; here it never is.
"""

from zoplat import hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.mezo import MeZO


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-sgd": MeZO(eps=1e-4, rule=Constant(lr=1e-6))}

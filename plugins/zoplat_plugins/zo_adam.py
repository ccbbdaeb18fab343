"""ZO-Adam: Adam on the estimates of ZO-SGD.

    ĝ = g z,   g = [ L(θ + εz) − L(θ − εz) ] / 2ε
    m ← β₁m + (1 − β₁)ĝ        v ← β₂v + (1 − β₂)ĝ²
    θ ← θ − η m̂ / (√v̂ + ε')                             m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)

The first step moves every weight by about η. The MeZO paper has the same method as MeZO-Adam, with larger η.

Cost per step: 2 forward passes, and one more pass over θ. Memory: two numbers a weight, float32 whatever the weights
are.

Source: Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML
2024, arXiv:2402.11592; Malladi et al., NeurIPS 2023, arXiv:2305.17333, appendix B.
Differs: the code of ZO-Bench keeps m and v in the dtype of the weights, where in float16 ε' = 1e-8 is 0 and small v
vanish.
"""

from zoplat import hookimpl
from zoplat_plugins.adam import Adam
from zoplat_plugins.mezo import MeZO


@hookimpl
def zoplat_estimators() -> dict[str, MeZO]:
    return {"zo-adam": MeZO(eps=1e-4, rule=Adam())}

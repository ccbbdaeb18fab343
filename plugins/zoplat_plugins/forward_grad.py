"""Forward-Grad: steps along random directions by their exact slope.

    v ~ N(0, I)                        n of them, named by a seed
    s = ⟨∇L(θ), v⟩                     exact, by forward-mode differentiation: no ε
    θ ← θ − η · mean of s v

It is what MeZO tends to as ε goes to 0.

Cost per step: n forward passes of pairs (a value and its slope), which count as two each. Memory: that of inference
with pairs of activations, and v for all trained weights while a pass runs. The device must answer "jvp".

Source: Baydin et al., "Gradients without Backpropagation", 2022, arXiv:2202.08587, Algorithm 1; for language models
Zhang et al., "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark", ICML 2024,
arXiv:2402.11592.
Differs: the benchmark's code asserts n = 1, though some of its sweep files ask for more; here n directions of a step
share one batch and are averaged. Weights of 16 bits have tangents of 16 bits, so that s belongs to v rounded to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Direction, Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl, number
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class ForwardGrad(Estimator[None]):
    """The exact derivative along random directions."""

    queries: int = number(1, at_least=1, at_most=10**6)
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=1e-6)
    asks = frozenset({"jvp"})

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        directions = oracle.draw(self.sampler, self.queries)
        losses, slopes = zip(*(oracle.jvp(v) for v in directions), strict=True)
        yield Estimate(Direction.mean(slopes, directions), losses[-1:], slopes=slopes)


@hookimpl
def zoplat_estimators() -> dict[str, ForwardGrad]:
    return {"forward-grad": ForwardGrad()}

"""Its range of a search goes beyond what its field accepts."""

from dataclasses import dataclass

from zoplat import Around, Estimate, Oracle, StepRule, hookimpl, number


@dataclass(frozen=True)
class SearchesTooFar(StepRule):
    """θ ← θ − η (1 − μ) ĝ.

    Attributes:
        lr: η; not negative.
        damping: μ, by how much steps are shorter; in [0, 1).
    """

    lr: float = number(1e-3, at_least=0, search=Around(10))
    damping: float = number(0.5, at_least=0, below=1, search=Around(10))

    def rate(self, oracle: Oracle) -> float:
        return self.lr

    def apply(self, estimate: Estimate, oracle: Oracle, state: None) -> None:
        oracle.space.add(-self.lr * (1 - self.damping) * estimate.direction)


@hookimpl
def zoplat_step_rules() -> dict[str, SearchesTooFar]:
    return {"searches-too-far": SearchesTooFar()}

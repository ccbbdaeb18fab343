"""A step size that falls along a straight line: η(p) = lr·(1 − p) after a share p of the run."""

from dataclasses import dataclass

from zoplat import Schedule, hookimpl


@dataclass(frozen=True)
class Linear(Schedule):
    """η falls from `lr` to 0 over the run; see `Schedule` for the fields."""

    has_horizon = True

    def curve(self, progress: float) -> float:
        return 1.0 - progress


@hookimpl
def zoplat_step_rules() -> dict[str, Linear]:
    return {"linear": Linear()}

"""A constant step size: θ ← θ − ηĝ."""

from dataclasses import dataclass

from zoplat import Schedule, hookimpl


@dataclass(frozen=True)
class Constant(Schedule):
    """η stays at `lr` once the warm-up is over; see `Schedule` for the fields."""

    def curve(self, progress: float) -> float:
        return 1.0


@hookimpl
def zoplat_step_rules() -> dict[str, Constant]:
    return {"constant": Constant()}

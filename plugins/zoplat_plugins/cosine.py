"""A step size that falls along half a cosine: η(p) = lr·(1 + cos πp)/2 after a share p of the run.

Source: Loshchilov & Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, Equation 5, one cycle.
"""

import math
from dataclasses import dataclass

from zoplat import Schedule, hookimpl


@dataclass(frozen=True)
class Cosine(Schedule):
    """η falls from `lr` to 0, slowly at both ends; see `Schedule` for the fields."""

    has_horizon = True

    def curve(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2


@hookimpl
def zoplat_step_rules() -> dict[str, Cosine]:
    return {"cosine": Cosine()}

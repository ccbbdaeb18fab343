"""How a model is evaluated without training it: zero-shot, few-shot, calibrated, or through a linear probe."""

from __future__ import annotations

from dataclasses import dataclass

from zoplat.core.errors import ZoplatError


@dataclass(frozen=True)
class EvaluationProtocol:
    """How predictions are obtained from a model at fixed weights.

    Attributes:
        shots: solved examples of the training split before every prompt, the same for all rows; at least 0.
        calibrate: subtract from an option's log-probability the one it has after a prompt without content (Holtzman
            et al., arXiv:2104.08315).
        linear_probe: predict by a linear classifier on the features of the last layer, fitted on the training split,
            instead of by the model's own scores.

    Raises:
        ZoplatError: a negative number of shots, or a linear probe together with one of the others.
    """

    shots: int = 0
    calibrate: bool = False
    linear_probe: bool = False

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ZoplatError(f"shots must be 0 or more, got {self.shots}  (--shots)")
        if self.linear_probe and (self.shots or self.calibrate):
            raise ZoplatError("--probe predicts by a classifier of its own; leave --shots and --calibrate out.")

    @property
    def name(self) -> str:
        """The name in tables and results, such as "zero-shot" or "icl-32"."""
        if self.linear_probe:
            return "linear-probe"
        return (f"icl-{self.shots}" if self.shots else "zero-shot") + ("-calibrated" if self.calibrate else "")

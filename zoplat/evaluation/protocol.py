"""How a model is asked without training it: zero-shot, few-shot, calibrated, or through a linear probe."""

from __future__ import annotations

from dataclasses import dataclass

from zoplat.core.errors import ZoplatError


@dataclass(frozen=True)
class EvaluationProtocol:
    """How the model is asked.

    Attributes:
        shots: solved examples of the training split before every prompt; the same for all rows.
        calibrate: take off an option's log-probability what it has after a prompt without content (Holtzman et al.,
            arXiv:2104.08315).
        linear_probe: a linear classifier on the features of the last layer, fitted on the training split, answers in place
            of the model.
    """

    shots: int = 0
    calibrate: bool = False
    linear_probe: bool = False

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ZoplatError(f"shots must be 0 or more, got {self.shots}  (--shots)")
        if self.probe and (self.shots or self.calibrate):
            raise ZoplatError("--linear_probe answers by a classifier of its own; leave --shots and --calibrate out.")

    @property
    def name(self) -> str:
        """What tables call it."""
        if self.probe:
            return "linear-probe"
        return (f"icl-{self.shots}" if self.shots else "zero-shot") + ("-calibrated" if self.calibrate else "")

"""How much a run changes the model on general text: its loss before and after, and the divergence between the two.

The predictions of the starting model are kept in a file of the run directory until the end, so that two models are
never in memory: float32, as many rows as there are places, the vocabulary long (50 MB for 49,152 tokens).
"""

from __future__ import annotations

from typing import Any

from zoplat.core.device import TextLoss
from zoplat.core.errors import ZoplatError
from zoplat.evaluation import general
from zoplat.training.directory import RunDirectory
from zoplat.training.opening import OpenedRun

PLACES = 256
"""Tokens of the text at which whole distributions are compared."""
PHASE = "forgetting"
"""Of the profiler."""


class Forgetting:
    """Measures a run, if its settings ask for it.

    Args:
        run: its model.
        directory: where predictions are kept in between.

    Attributes:
        start, end: what was measured before and after; None before that.

    Raises:
        ZoplatError: the model is not causal.
    """

    def __init__(self, run: OpenedRun, directory: RunDirectory) -> None:
        self.run, self.kept = run, directory.general
        self.start: TextLoss | None = None
        self.end: TextLoss | None = None
        head = run.session.head
        if run.config.forgetting and head != "causal":
            raise ZoplatError(
                f"--forgetting reads general text token by token, as causal models do, and the head of "
                f"{run.session.facts['model']} is {head}. Leave it out."
            )

    def before(self) -> None:
        """Measure the starting model. Each process of a run begins with it, so this is done again after a resume."""
        if self.run.config.forgetting:
            with self.run.profiler.phase(PHASE):
                self.start = self.run.session.text_loss(general.texts(), PLACES, keep=self.kept)

    def after(self) -> None:
        """Measure the model at θ, with θ settled."""
        if self.run.config.forgetting:
            with self.run.profiler.phase(PHASE):
                self.end = self.run.session.text_loss(general.texts(), PLACES, against=self.kept)
            self.kept.unlink()

    def fields(self) -> dict[str, Any]:
        """What a summary has of it; nothing where it was not measured."""
        if self.start is None or self.end is None:
            return {}
        return {
            "general_loss_before": self.start.loss,
            "general_loss_after": self.end.loss,
            "general_kl": self.end.divergence,
            "general_tokens": self.end.tokens,
            "general_positions": self.end.places,
            "general_text": general.digest(),
        }

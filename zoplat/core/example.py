"""An example: one row of a task as text, and the same as a session encoded it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Loss = Literal["options", "tokens"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
STOP = "\n"
"""The text that ends a generated answer, unless a task says otherwise."""
LENGTH = 50
"""The most tokens of a generated answer, unless a task says otherwise (arXiv:2305.17333, Appendix E)."""


@dataclass(frozen=True)
class Example:
    """One row of a task as text.

    Attributes:
        prompt: what the model reads.
        options: continuations to choose from, leading blank included; of a generation, the answer to train towards.
        label: index of the right one.
        references: all texts that count as right; the right option when empty.
        suffix: what follows the option, for models that read both sides of it.
        loss: cross-entropy over the scores of the "options", or of the "tokens" of the right one.
        score: of an option: the "mean" log-probability of its tokens, or their "sum".
        stop: the text before which a generated answer is cut.
        length: the most tokens of a generated answer.
    """

    prompt: str
    options: tuple[str, ...]
    label: int
    references: tuple[str, ...] = ()
    suffix: str = ""
    loss: Loss = "options"
    score: Literal["mean", "sum"] = "mean"
    stop: str = STOP
    length: int = LENGTH

    @property
    def right(self) -> tuple[str, ...]:
        """All texts that count as right, stripped of surrounding blanks; metrics compare predictions with these."""
        return tuple(text.strip() for text in self.references or (self.options[self.label],))

    def best(self, scores: Sequence[float]) -> str:
        """The option with the highest score (the first of equals), stripped of surrounding blanks."""
        return self.options[scores.index(max(scores))].strip()

    @property
    def is_open(self) -> bool:
        """Whether the model generates the answer, having nothing to choose from."""
        return len(self.options) == 1


@dataclass(frozen=True)
class Row:
    """An example as a session encoded it.

    Attributes:
        example: the text that was encoded.
        length: tokens of its longest sequence; rows of similar length share a batch.
        tokens: token ids in the session's own form.
        weight: its weight in the mean loss of a batch: 1, or the number of tokens of its right option.
        cut: tokens at the beginning of the prompt that the model can't read, because the row is longer than it reads.
    """

    example: Example
    length: int
    tokens: Any
    weight: int = 1
    cut: int = 0

"""One example of a task, as text and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Loss = Literal["options", "tokens"]
"""Cross-entropy over the scores of the options, or over the tokens of the right one."""
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True)
class Example:
    """One row of a task as text.

    Attributes:
        prompt: what the model reads before an option.
        options: continuations to choose from, leading blank included; for a generation task, the one target text.
        label: index of the right option.
        answers: all texts that count as right; the right option when empty.
        suffix: text after the option, for models that read both sides of it.
        loss: cross-entropy over the scores of the "options", or over the "tokens" of the right one.
        score: of an option: "mean" of the log-probabilities of its tokens, or their "sum".
    """

    prompt: str
    options: tuple[str, ...]
    label: int
    answers: tuple[str, ...] = ()
    suffix: str = ""
    loss: Loss = "options"
    score: Literal["mean", "sum"] = "mean"

    @property
    def right(self) -> tuple[str, ...]:
        """All texts that count as right, stripped."""
        return tuple(text.strip() for text in self.answers or (self.options[self.label],))

    def best(self, scores: Sequence[float]) -> str:
        """The option with the highest score, stripped; the first of several with the same score."""
        return self.options[scores.index(max(scores))].strip()

    @property
    def is_open(self) -> bool:
        """Whether this is a generation task: the model writes the answer instead of choosing an option."""
        return len(self.options) == 1


@dataclass(frozen=True)
class Row:
    """An example as a session encoded it.

    Attributes:
        example: the text that was encoded.
        length: number of tokens of its longest sequence; rows of similar length share a batch.
        tokens: the session's own encoding.
        weight: its weight in the mean loss of a batch: 1, or the number of tokens of its right option.
    """

    example: Example
    length: int
    tokens: Any
    weight: int = 1

"""How rows of a task become prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.example import LOSSES, Example, Row
from zoplat.core.model_spec import Head
from zoplat.tasks import data
from zoplat.tasks.task import Template


@dataclass(frozen=True)
class PromptEncoder:
    """How rows of a task become what a model reads.

    Attributes:
        config: the task, the template and the objective.
        session: has the model.
        shown: rows whose solution stands before every prompt.
    """

    config: RunConfig
    session: Session
    shown: Sequence[tuple[str, dict[str, Any]]] = ()

    def rows(self, raw: data.Rows) -> list[Row]:
        """Encoded, in their order."""
        return self.encoded([self.example(row, where) for where, row in raw])

    def encoded(self, examples: Sequence[Example]) -> list[Row]:
        """Examples with what stands before all of them, encoded."""
        solved = [self.example(row, where) for where, row in self.shown]
        before = "".join(f"{e.prompt}{e.options[e.label]}{e.suffix}".rstrip() + "\n\n" for e in solved)
        return self.session.encode(self._as_chat([replace(e, prompt=before + e.prompt) for e in examples]))

    def example(self, row: dict[str, Any], where: str) -> Example:
        """One row as text."""
        example = data.find(self.config.task).example(row, where, _template(self.config.template, self.session.head))
        loss = next((known for known in LOSSES if known == self.config.objective), None)
        return replace(example, loss=loss) if loss else example

    def _as_chat(self, examples: list[Example]) -> list[Example]:
        if self.config.template != "chat":
            return examples
        turns = self.session.chat([example.prompt for example in examples])
        told = zip(examples, turns, strict=True)
        return [replace(e, prompt=turn, options=tuple(option.lstrip() for option in e.options)) for e, turn in told]


def _template(asked: str, head: Head) -> Template:
    if asked == "auto":
        return "cloze" if head == "masked" else "plain" if head == "classifier" else "prompt"
    return "plain" if asked == "plain" else "prompt"

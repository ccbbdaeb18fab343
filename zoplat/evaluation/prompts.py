"""From rows of a task to encoded prompts: template, few-shot examples, chat format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import LOSSES, Example, Row
from zoplat.core.model_spec import Head
from zoplat.core.notices import counted, notice
from zoplat.tasks import data
from zoplat.tasks.task import Template


@dataclass(frozen=True)
class PromptEncoder:
    """Turns rows of a task into what a model reads.

    Attributes:
        config: the task, the template and the objective.
        session: has the model and its tokenizer.
        demonstrations: rows put before every prompt together with their right answer (few-shot examples).
    """

    config: RunConfig
    session: Session
    demonstrations: Sequence[tuple[str, dict[str, Any]]] = ()

    def rows(self, raw: data.Rows, of: str = "") -> list[Row]:
        """Raw rows, encoded, in their order; says how many are too long for the model.

        Args:
            raw: the rows.
            of: what they are, for what is said of them, such as "train"; empty where that is plain.

        Raises:
            ZoplatError: a row can't be encoded; names its file and line.
        """
        examples = [self.example(row, where) for where, row in raw]
        try:
            rows = self.encoded(examples)
        except ZoplatError as problem:
            raise self._with_place(problem, examples, raw) from None
        cut = [(where, row) for (where, _), row in zip(raw, rows, strict=True) if row.cut]
        if cut:
            where, longest = max(cut, key=lambda pair: pair[1].cut)
            room = f"the model reads beside an answer of {longest.example.length} tokens"
            reads = room if longest.example.is_open else f"the {longest.length} tokens that the model reads"
            is_longer, loses = "are longer than", "lose their beginning"
            if len(cut) == 1:
                is_longer, loses = "is longer than", "loses its beginning"
            notice(
                f"{len(cut)} of {counted(len(rows), 'row')}{of and f' of {of}'} {is_longer} {reads}, and {loses}; "
                f"{where} loses most, {counted(longest.cut, 'token')}. The limit is the model's own, or a lower "
                "-o device.max_tokens=N."
            )
        return rows

    def _with_place(self, problem: ZoplatError, examples: Sequence[Example], raw: data.Rows) -> ZoplatError:
        """The error with the file and line of the first row that can't be encoded by itself."""
        for example, (where, _) in zip(examples, raw, strict=True):
            try:
                self.encoded([example])
            except ZoplatError as own:
                return ZoplatError(f"{where}: {own}")
        return problem

    def encoded(self, examples: Sequence[Example]) -> list[Row]:
        """Examples with the demonstrations before each of them, encoded, in their order."""
        solved = [self.example(row, where) for where, row in self.demonstrations]
        context = "".join(f"{e.prompt}{e.options[e.label]}{e.suffix}".rstrip() + "\n\n" for e in solved)
        return self.session.encode(self._as_chat([replace(e, prompt=context + e.prompt) for e in examples]))

    def example(self, row: dict[str, Any], where: str) -> Example:
        """One raw row as text, without demonstrations; `where` names its file and line in errors."""
        example = data.find(self.config.task).example(row, where, _template(self.config.template, self.session.head))
        loss = next((known for known in LOSSES if known == self.config.objective), None)
        return replace(example, loss=loss) if loss else example

    def _as_chat(self, examples: list[Example]) -> list[Example]:
        """Each prompt as a user turn, where template=chat says so; options lose the blank before them."""
        if self.config.template != "chat":
            return examples
        turns = self.session.chat([example.prompt for example in examples])
        return [
            replace(example, prompt=turn, options=tuple(option.lstrip() for option in example.options))
            for example, turn in zip(examples, turns, strict=True)
        ]


def _template(setting: str, head: Head) -> Template:
    """The task's template for the setting `template` and a head of the model."""
    if setting == "auto":
        return "cloze" if head == "masked" else "plain" if head == "classifier" else "prompt"
    return "plain" if setting == "plain" else "prompt"

"""What a task is: from a row of data to a prompt, its options or reference answers, and a metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar, Literal

from zoplat.core.errors import ZoplatError
from zoplat.core.example import LENGTH, STOP, Example, Loss
from zoplat.tasks.labels import class_number

SPLITS = ("train", "dev", "test")
Fields = Mapping[str, Any]
"""The columns of one row."""
Text = Callable[[Fields], str]
Template = Literal["prompt", "plain", "cloze"]
CONVERTED = "refs/convert/parquet"
"""Branch where the hub keeps every configuration as a folder of parquet files."""


@dataclass(frozen=True)
class Hub:
    """Where the rows of a task are on the hub of data sets, as parquet.

    Attributes:
        path, name: repository and configuration.
        revision: branch of the repository; `CONVERTED` where the main one holds a script.
        splits: our name → the hub's; a split that is not named is cut from train by hash.
        columns: the hub's name → ours, where they differ.
    """

    path: str
    name: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, prompts, what may be predicted, and how predictions are scored.

    Attributes:
        summary: one line for listings.
        fields: columns with text that the prompt needs; rows with the same text in all of them are the same.
        listed: columns with lists, such as choices, that tell rows with the same text apart.
        prompt: row → what the model reads, without a trailing blank.
        plain: row → the same without instructions; the columns joined by blanks when None.
        metric: how predictions are scored; a name that `tasks.metrics.metric` knows.
        loss: the training loss: "options", cross-entropy over the scores of the options, or "tokens", cross-entropy of
            the tokens of the right one.
        score: of an option: the "mean" log-probability of its tokens, or their "sum".
        packaged: name of a file of rows in `data/` beside the module that registers the task, if one ships with it.
        hub: where the rows are without --data.
        sizes: rows of each split that published tables use.
        source: where data and prompt come from, with the licence of the data.
    """

    generates: ClassVar[bool] = False

    summary: str
    fields: tuple[str, ...]
    prompt: Text
    plain: Text | None = None
    listed: tuple[str, ...] = ()
    metric: str = "accuracy"
    loss: Loss = "options"
    score: Literal["mean", "sum"] = "mean"
    packaged: str | None = None
    hub: Hub | None = None
    sizes: Mapping[str, int] = field(default_factory=lambda: {"train": 1000, "dev": 500, "test": 1000})
    source: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes for a classification head; none where options change from row to row."""
        return ()

    @property
    def class_names(self) -> tuple[tuple[str, ...], ...]:
        """For each class, its name and the words that stand for it."""
        return tuple((name,) for name in self.classes)

    @property
    def templates(self) -> tuple[Template, ...]:
        """Names of the templates that the task has."""
        return ("prompt", "plain")

    def example(self, row: Fields, where: str, template: Template = "prompt") -> Example:
        """One row as text.

        Args:
            row: its columns.
            where: its file and line, named in errors.
            template: "prompt", "plain", or "cloze" for models that read what follows the option too.

        Raises:
            ZoplatError: a column is missing or has the wrong type, a label is unknown, or the task lacks the template.
        """
        if template not in self.templates:
            raise ZoplatError(f"The task has no template '{template}'; it has {', '.join(self.templates)}.")
        row = self.with_texts(row, where)
        try:
            example = self._example(row, where, template)
        except KeyError as problem:
            raise ZoplatError(f"{where}: no column {problem}; found {', '.join(row)}.") from None
        except (TypeError, ValueError, IndexError, AttributeError) as problem:
            raise ZoplatError(f"{where}: a column does not have the form that the task needs ({problem}).") from None
        return replace(example, loss=self.loss, score=self.score)

    def with_texts(self, row: Fields, where: str) -> dict[str, Any]:
        """A row with the columns of `fields` as text: numbers and dates as they are written.

        Raises:
            ZoplatError: one is missing or is nothing of the kind, or all are blank.
        """
        texts = {}
        for name in self.fields:
            if name not in row:
                raise ZoplatError(f"{where}: no column '{name}'; found {', '.join(map(str, row)) or 'nothing'}.")
            value = row[name]
            is_nothing = isinstance(value, float) and math.isnan(value)
            if is_nothing or not isinstance(value, str | int | float | Decimal | date):
                raise ZoplatError(f"{where}: '{name}' must be text, found {value!r}.")
            texts[name] = str(value)
        if texts and not any(text.strip() for text in texts.values()):
            raise ZoplatError(f"{where}: no text in {' and '.join(repr(name) for name in texts)}. Leave the row out.")
        return {**row, **texts}

    @abstractmethod
    def _example(self, row: Fields, where: str, template: Template) -> Example:
        """The example without loss and score; columns of the wrong form may raise any of Python's lookup errors."""

    def read(self, row: Fields, template: Template) -> str:
        """What the model reads before the option, by the templates "prompt" and "plain"."""
        if template == "plain":
            return self.plain(row) if self.plain else " ".join(row[name].strip() for name in self.fields)
        return self.prompt(row)


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """The same options for every row, one for each class.

    Attributes:
        words: name of a class → its verbalizer; in the order of the classes' numbers.
        label: column with the class: its name, or its number.
        cloze: row → text before and after the option, for masked models.
        cloze_words: verbalizers of the cloze template, where they differ from `words`.
    """

    words: Mapping[str, str]
    label: str = "label"
    cloze: Callable[[Fields], tuple[str, str]] | None = None
    cloze_words: Mapping[str, str] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.words)

    @property
    def class_names(self) -> tuple[tuple[str, ...], ...]:
        both = self.cloze_words or self.words
        return tuple((name, word.strip(), both[name].strip()) for name, word in self.words.items())

    @property
    def templates(self) -> tuple[Template, ...]:
        return ("prompt", "plain", "cloze") if self.cloze else ("prompt", "plain")

    def _example(self, row: Fields, where: str, template: Template) -> Example:
        if self.label not in row:
            raise KeyError(self.label)
        number = class_number(self.classes, row[self.label], where)
        if template == "cloze" and self.cloze:
            before, after = self.cloze(row)
            words = self.cloze_words or self.words
            return Example(before, tuple(words[name] for name in self.words), number, suffix=after)
        text = self.read(row, template)
        return Example(text, tuple(_joined(text, word) for word in self.words.values()), number)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """Options that differ from row to row.

    Attributes:
        options: row → continuations, without a leading blank.
        right: row → indices of all options that count as right; training uses the first.
    """

    options: Callable[[Fields], Sequence[str]]
    right: Callable[[Fields], Sequence[int]]

    def _example(self, row: Fields, where: str, template: Template) -> Example:
        text, right = self.read(row, template), self.right(row)
        options = [_joined(text, option) for option in self.options(row)]
        if not right or not all(0 <= number < len(options) for number in right):
            raise ZoplatError(f"{where}: none of the {len(options)} options is the right one.")
        self._check_options([option.strip() for option in options], set(right), where)
        return Example(text, tuple(options), right[0], tuple(options[number] for number in right))

    @staticmethod
    def _check_options(options: Sequence[str], right: set[int], where: str) -> None:
        """Raise ZoplatError if an option is empty, or the same as another, unless both are right."""
        for number, option in enumerate(options):
            if not option:
                raise ZoplatError(f"{where}: option {number + 1} of {len(options)} is empty.")
            other = options.index(option)
            if other < number and not {other, number} <= right:
                raise ZoplatError(
                    f"{where}: options {other + 1} and {number + 1} are the same, {option!r}, so no answer can tell "
                    "them apart. Change one of them, or leave the row out."
                )


@dataclass(frozen=True, kw_only=True)
class Generation(Task):
    """The model generates the answer.

    Attributes:
        references: row → all texts that count as right; training uses the first.
        stop: the text that ends an answer; training appends it, and what is generated is cut before it.
        length: the most tokens of a generated answer.
    """

    generates: ClassVar[bool] = True

    references: Callable[[Fields], Sequence[str]]
    stop: str = STOP
    length: int = LENGTH
    metric: str = "f1"
    loss: Loss = "tokens"

    def _example(self, row: Fields, where: str, template: Template) -> Example:
        references = tuple(self.references(row))
        if not references:
            raise ZoplatError(f"{where}: no answer.")
        if not all(text.strip() for text in references):
            raise ZoplatError(f"{where}: an answer is empty. Leave the row out, or say in words that there is none.")
        text, answer = self.read(row, template), f" {references[0]}{self.stop}"
        return Example(text, (answer,), 0, references, stop=self.stop, length=self.length)


def _joined(text: str, option: str) -> str:
    """An option with the blank that separates it from the prompt; no blank where the prompt ends in white space."""
    option = option.strip()
    return option if not text or text[-1].isspace() else f" {option}"

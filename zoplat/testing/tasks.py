"""What every task promises, as tests to inherit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from unittest import SkipTest

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example
from zoplat.tasks import data
from zoplat.tasks.metrics import metric
from zoplat.tasks.task import SPLITS, Classification, Fields, Task
from zoplat.testing.parts import Contract, random_states_untouched

MOST = 200
"""Rows of each split that are tried."""


class TaskContract(Contract):
    """Inherit, and set `task`; and `rows`, where the task ships none.

    Attributes:
        task: the task, as it is registered.
        rows: a few rows as its data have them; those that it ships when empty.
    """

    task: Task
    rows: Sequence[Fields] = ()

    def part(self) -> Task:
        """The task."""
        return self.task

    def test_the_task_is_a_frozen_dataclass_with_a_summary(self) -> None:
        parameters: Any = getattr(type(self.task), "__dataclass_params__", None)
        assert parameters is not None, f"{self.task!r} is no dataclass."
        assert parameters.frozen, f"{type(self.task).__name__} can be changed: write @dataclass(frozen=True)."
        assert self.task.summary.strip(), "`summary` is empty: it is the line of `zoplat list tasks`."
        assert self.task.fields, "`fields` is empty: it names the columns with text, by which rows are told apart."

    def test_its_metric_is_known(self) -> None:
        metric(self.task.metric)

    def test_the_rows_it_ships_are_in_three_splits_that_share_no_text(self) -> None:
        """Each of them has some, after dev and test are cut from train where they are missing."""
        if self.task.packaged is None:
            raise SkipTest("It ships no rows.")
        splits = data.load(self.task, self.task.packaged, None)
        assert all(splits[split] for split in SPLITS), f"Rows of the splits: { {s: len(splits[s]) for s in SPLITS} }."

    def test_every_row_becomes_an_example_in_every_template(self) -> None:
        """With text to read, options that differ, and one of them right."""
        for template in self.task.templates:
            for where, example in self._examples(template):
                assert example.prompt.strip(), f"{where}, template {template}: the prompt is empty."
                assert all(option.strip() for option in example.options), f"{where}: an option is empty."
                assert len({*example.options}) == len(example.options), f"{where}: two options are {example.options}."
                right = 0 <= example.label < len(example.options)
                assert right, f"{where}: option {example.label} of {len(example.options)} is the right one."
                wrong = self.task.generates != example.is_open
                assert not wrong, (
                    f"{where}: {len(example.options)} options, where `generates` is {self.task.generates}."
                )

    def test_the_same_row_is_the_same_example(self) -> None:
        """However often it is asked for, and without a random number."""
        with random_states_untouched():
            for template in self.task.templates:
                assert self._examples(template) == self._examples(template), "A second time examples are others."

    def test_every_class_has_rows(self) -> None:
        """For tasks with classes, among the rows that it ships."""
        if not self.task.classes:
            raise SkipTest("It has no classes.")
        seen = {example.label for _, example in self._examples("prompt")}
        missing = [name for number, name in enumerate(self.task.classes) if number not in seen]
        assert not missing, f"No row has the class {' or '.join(missing)}."

    def test_right_answers_score_one(self) -> None:
        """By its metric, and a wrong option scores less."""
        examples = [example for _, example in self._examples("prompt")]
        score, rights = metric(self.task.metric), [example.right for example in examples]
        best = score([right[0] for right in rights], rights)
        assert abs(best - 1) < 1e-9, f"Where every answer is right, {self.task.metric} is {best:.6g}, not 1."
        others = [option for example in examples for option in map(str.strip, example.options)]
        wrong = [next((o for o in others if o not in right), "") for right in rights]
        worst = score(wrong, rights)
        assert worst < best, f"Where every answer is wrong, {self.task.metric} is {worst:.6g} too."

    def test_a_column_that_is_missing_is_named(self) -> None:
        """Every one of `fields`, and the label of a class; with the file and line."""
        [(where, row), *_] = self._rows
        labels = [self.task.label] if isinstance(self.task, Classification) else []
        for name in [*self.task.fields, *labels]:
            message = self._refusal({column: value for column, value in row.items() if column != name})
            assert message, f"A row without '{name}', one of its columns, is taken."
            assert name in message, f"Without '{name}' ({where}) the message does not name it: {message}"
            assert "my.csv, line 2" in message, f"The message does not say where: {message}"

    def _refusal(self, row: Fields) -> str:
        """What is said of a row that can't be used; empty where it is used."""
        try:
            self.task.example(row, "my.csv, line 2")
        except ZoplatError as refusal:
            return str(refusal)
        return ""

    @cached_property
    def _rows(self) -> list[tuple[str, Fields]]:
        if self.rows:
            return [(f"row {number}", row) for number, row in enumerate(self.rows)]
        if self.task.packaged is None:
            raise SkipTest("It ships no rows: set `rows` in a test of your own.")
        splits = data.load(self.task, self.task.packaged, None)
        return [row for split in SPLITS for row in splits[split][:MOST]]

    def _examples(self, template: Any) -> list[tuple[str, Example]]:
        return [(where, self.task.example(row, where, template)) for where, row in self._rows]

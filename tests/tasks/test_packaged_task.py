"""The packaged task: its rows, and rows from a folder instead."""

from collections import Counter
from pathlib import Path

import pytest

from zoplat import Example, ZoplatError
from zoplat.registry import catalogue
from zoplat.tasks.data import load
from zoplat.tasks.task import SPLITS, Task


def task(name: str) -> Task:
    found: Task = catalogue().entry("task", name).value
    return found


def test_the_packaged_rows_are_disjoint_balanced_splits_of_fixed_sizes() -> None:
    splits = load(task("sentiment"), "sentiment", None)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1982, "dev": 400, "test": 600}
    sentences = Counter(row["sentence"] for rows in splits.values() for _, row in rows)
    assert max(sentences.values()) == 1
    for rows in splits.values():
        assert 0.45 < sum(row["label"] for _, row in rows) / len(rows) < 0.55


def test_a_limit_keeps_the_first_rows_of_each_split() -> None:
    whole, few = load(task("sentiment"), "sentiment", None), load(task("sentiment"), "sentiment", None, limit=5)
    assert few == {split: whole[split][:5] for split in SPLITS}


def test_a_task_with_packaged_rows_accepts_a_folder(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text(f'\n{{"sentence": " fine {split} ", "label": 1, "more": []}}\n\n')
    for split, rows in load(task("sentiment"), "sentiment", tmp_path).items():
        [(where, row)] = rows
        assert task("sentiment").example(row, where) == Example(f"fine {split} It was", (" terrible", " great"), 1)


def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text(f'{{"sentence": "{split}", "label": 1}}\n{{"sentence": "{split}"}}\n')
    [_, (where, row)] = load(task("sst2"), "sst2", tmp_path)["train"]
    with pytest.raises(ZoplatError, match=r"train\.jsonl, line 2: no column 'label'"):
        task("sst2").example(row, where)

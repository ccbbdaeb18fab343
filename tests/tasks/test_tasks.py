"""The tasks: prompts to the letter, the packaged rows, and the same files as a data folder."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat import Example, ZoplatError
from zoplat.plugins import catalogue
from zoplat.tasks import SPLITS, Task
from zoplat.tasks.data import load

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def task(name: str) -> Task:
    found: Task = catalogue().entry("task", name).value
    return found


@pytest.mark.parametrize(
    ("name", "row", "prompt", "right"),
    [
        ("sst2", {"sentence": "family fun ", "label": 1}, "family fun It was", " great"),
        ("sst2", {"sentence": "death , especially ", "label": 0}, "death , especially It was", " terrible"),
        ("sentiment", {"sentence": "I would not.", "label": 0}, "I would not. It was", " terrible"),
        (
            "rte",
            {"premise": "It rained.", "hypothesis": "The street is wet.", "label": 0},
            'It rained.\nDoes this mean that "The street is wet." is true? Yes or No?\n',
            "Yes",
        ),
        (
            "rte",
            {"premise": "It rained.", "hypothesis": "Cats fell.", "label": 1},
            'It rained.\nDoes this mean that "Cats fell." is true? Yes or No?\n',
            "No",
        ),
        (
            "boolq",
            {"passage": "Burger -- A burger is a sandwich.", "question": "is a burger a sandwich", "label": 1},
            "Burger -- A burger is a sandwich. Is a burger a sandwich?\n",
            "Yes",
        ),
        (
            "boolq",
            {"passage": "A passage.", "question": "Is iPad's 2nd i small?", "label": 0},
            "A passage. Is iPad's 2nd i small?\n",
            "No",
        ),
    ],
)
def test_prompts_and_options_are_those_of_the_published_setting(
    name: str, row: dict[str, Any], prompt: str, right: str
) -> None:
    example = task(name).example(row, "here")
    assert example.prompt == prompt
    assert example.options[example.label] == right


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sst2", {" terrible", " great"}),
        ("sentiment", {" terrible", " great"}),
        ("rte", {"Yes", "No"}),
        ("boolq", {"Yes", "No"}),
    ],
)
def test_a_blank_separates_an_option_unless_the_prompt_ends_in_a_newline(name: str, options: set[str]) -> None:
    row = dict.fromkeys(task(name).fields, "text")
    example = task(name).example({**row, "label": 0}, "here")
    assert set(example.options) == options
    for option in example.options:
        assert example.prompt.endswith("\n") != option.startswith(" ")


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


def test_a_task_with_packaged_rows_takes_a_folder_as_well(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text('\n{"sentence": " fine ", "label": 1, "more": []}\n\n')
    for rows in load(task("sentiment"), "sentiment", tmp_path).values():
        [(where, row)] = rows
        assert task("sentiment").example(row, where) == Example("fine It was", (" terrible", " great"), 1)


def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text('{"sentence": "fine", "label": 1}\n{"sentence": "fine"}\n')
    [_, (where, row)] = load(task("sst2"), "sst2", tmp_path)["train"]
    with pytest.raises(ZoplatError, match=r"train\.jsonl, line 2: no column 'label'"):
        task("sst2").example(row, where)


@pytest.mark.parametrize("name", ["sst2", "rte", "boolq"])
def test_the_published_data_sets_load_and_train(name: str, tmp_path: Path) -> None:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip("the data folder is not here")
    splits = load(task(name), name, folder)
    assert all(splits[split] for split in SPLITS)
    assert {task(name).example(row, at).label for rows in splits.values() for at, row in rows} == {0, 1}
    result = zoplat.run(task=name, data=folder, device="reference", steps=3, limit=24, out=tmp_path / "run")
    assert result.summary["steps"] == 3
    assert result.summary["task"] == name

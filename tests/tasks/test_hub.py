"""Rows from the hub, without network: parquet folders laid out like its repositories."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoplat import ZoplatError
from zoplat.registry import catalogue
from zoplat.tasks.data import find, load, text
from zoplat.tasks.task import CONVERTED, Hub, Task

datasets = pytest.importorskip("datasets")
VERDICTS = ("entailment", "contradiction", "neutral")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write(path: Path, classes: dict[str, tuple[str, ...]], **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns)
    for column, names in classes.items():
        table = table.cast_column(column, datasets.ClassLabel(names=list(names)))
    table.to_parquet(path)


def at(name: str, path: Path) -> Task:
    task = find(name)
    assert task.hub
    return replace(task, hub=replace(task.hub, path=str(path)))


def premises(first: int, last: int) -> dict[str, list[Any]]:
    numbers = range(first, last)
    return {
        "premise": [f"premise {n}" for n in numbers],
        "hypothesis": ["so"] * len(numbers),
        "label": [n % 3 for n in numbers],
    }


def test_a_converted_branch_has_a_folder_for_each_configuration(tmp_path: Path) -> None:
    """CB: 100 of 250 training rows go to dev; rows that are in test too are in neither."""
    write(tmp_path / "hub/cb/train/0000.parquet", {"label": VERDICTS}, **premises(0, 260))
    write(tmp_path / "hub/cb/validation/0000.parquet", {"label": VERDICTS}, **premises(250, 306))
    write(tmp_path / "hub/rte/train/0000.parquet", {}, premise=["no"], hypothesis=["no"], label=[0])
    task = at("cb", tmp_path / "hub")
    splits = load(task, "cb", None)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 150, "dev": 100, "test": 56}
    where, row = splits["dev"][0]
    number = int(row["premise"].split()[1])
    assert where == f"{tmp_path}/hub, train row {number}"
    assert row["label"] == VERDICTS[number % 3]
    assert task.example(row, where).label == number % 3
    texts = [{text(task, row) for _, row in rows} for rows in splits.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 306


def test_which_rows_are_chosen_depends_on_their_text_alone(tmp_path: Path) -> None:
    forward, backward = premises(0, 260), {name: column[::-1] for name, column in premises(0, 260).items()}
    found = []
    for place, columns in (("one", forward), ("other", backward)):
        write(tmp_path / place / "cb/train/0000.parquet", {"label": VERDICTS}, **columns)
        write(tmp_path / place / "cb/validation/0000.parquet", {"label": VERDICTS}, **premises(300, 1500))
        splits = load(at("cb", tmp_path / place), "cb", None)
        found.append({split: [row for _, row in rows] for split, rows in splits.items()})
    assert found[0] == found[1]
    assert {split: len(rows) for split, rows in found[0].items()} == {"train": 160, "dev": 100, "test": 1000}


def test_columns_are_renamed_and_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        columns = {"question": [f"is {split} {n}" for n in range(9)], "passage": ["P."] * 9, "answer": [True] * 9}
        write(tmp_path / f"boolq/{split}.parquet", {}, **columns)
        columns = {**premises(0, 9), "premise": [f"{split} {n}" for n in range(9)], "label": [-1, 0, 1] * 3}
        write(tmp_path / f"snli/{split}.parquet", {"label": ("entailment", "neutral", "contradiction")}, **columns)
    task = at("boolq", tmp_path / "boolq")
    assert {task.example(row, at).right for at, row in load(task, "boolq", None)["test"]} == {("Yes",)}
    splits = load(at("snli", tmp_path / "snli"), "snli", None)
    assert len(splits["test"]) == 6
    assert {row["label"] for rows in splits.values() for _, row in rows} == {"entailment", "neutral"}


@pytest.mark.parametrize(
    ("name", "columns", "right"),
    [
        ("squad", {"title": "T", "context": "C", "question": "Q", "answers": {"text": ["a", "b"]}}, ("a", "b")),
        ("drop", {"passage": "P", "question": "Q", "answers_spans": {"spans": ["7"], "types": ["number"]}}, ("7",)),
        ("winogrande", {"sentence": "As _ is", "option1": "a", "option2": "b", "answer": "2"}, (" b is",)),
        ("record", {"passage": "P", "query": "@placeholder", "entities": ["a"], "answers": ["a"]}, (" a",)),
    ],
)
def test_reference_answers_of_every_form_are_read(
    tmp_path: Path, name: str, columns: dict[str, Any], right: Any
) -> None:
    task = find(name)
    assert task.hub
    config = (task.hub.name or "default") if task.hub.revision == CONVERTED else ""
    key = task.fields[0]
    for split in ("train", "validation"):
        rows = [{**columns, key: f"{split} {n} {columns[key]}"} for n in range(4)]
        table = {column: [row[column] for row in rows] for column in columns}
        write(tmp_path / "hub" / config / split / "0000.parquet", {}, **table)
    splits = load(at(name, tmp_path / "hub"), name, None)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2, "dev": 2, "test": 4}
    where, row = splits["test"][0]
    example = task.example(row, where)
    assert example.right[0].endswith(right[0].strip())
    assert len(example.right) == len(right)


def test_an_unreachable_hub_is_reported_quickly_and_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    before, began = datasets.config.HF_HUB_OFFLINE, time.perf_counter()
    with pytest.raises(ZoplatError) as error:
        load(find("rte"), "rte", None)
    assert time.perf_counter() - began < 8
    assert str(error.value) == (
        "Task 'rte': no rows from aps/super_glue on the hub (it does not answer). Give --data DIR, a folder with "
        "train.jsonl, dev.jsonl and test.jsonl whose columns are premise, hypothesis and what the answer needs."
    )
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_missing_split_is_reported_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "hub/train.parquet", {}, sentence=["a"], label=[0])
    with pytest.raises(
        ZoplatError, match=r"Task 'sst5': no rows from .* \(Unknown split .*\)\. Give --data DIR"
    ) as error:
        load(at("sst5", tmp_path / "hub"), "sst5", None)
    assert "\n" not in str(error.value)


def test_every_task_names_its_repository() -> None:
    hubs = {e.name: e.value.hub for e in catalogue() if e.kind == "task" and e.value.hub and e.distribution == "zoplat"}
    assert hubs["mnli"] == Hub("nyu-mll/glue", "mnli", splits={"train": "train", "test": "validation_matched"})
    assert hubs["wsc"] == Hub("aps/super_glue", "wsc.fixed", CONVERTED)
    assert len(hubs) == 16


def test_a_repository_with_other_columns_is_explained(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path / f"hub/{split}.parquet", {}, text=["a"], label=[0])
    with pytest.raises(ZoplatError, match="hub, train row 0: no column 'sentence'; found text, label"):
        load(replace(at("sst2", tmp_path / "hub"), hub=Hub(str(tmp_path / "hub"))), "sst2", None)

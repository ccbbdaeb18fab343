"""Rows from folders: three formats, splits cut by hash, and no text in two splits."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoplat
from zoplat import Example, ZoplatError
from zoplat.registry import catalogue
from zoplat.tasks import data
from zoplat.tasks.data import Rows, cut, find, load, text
from zoplat.tasks.task import SPLITS, Task

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
FOLDERS = {"sentiment": "sentiment_sentences"}
NAMES = sorted(e.name for e in catalogue() if e.kind == "task" and e.distribution == "zoplat")
NAMES = [name for name in NAMES if (DATA / FOLDERS.get(name, name)).is_dir()]
"""Of tasks whose published data is beside the checkout."""
TRAINED = [name for name in NAMES if name in {"sst2", "rte", "boolq", "mnli", "trec", "wic", "copa", "winogrande"}]
needs_data = pytest.mark.skipif(
    not TRAINED, reason="the published data sets are not beside the checkout, in ../shared/data"
)


def reviews(*sentences: str) -> list[dict[str, Any]]:
    return [{"sentence": sentence, "label": len(sentence) % 2} for sentence in sentences]


def published(name: str) -> tuple[Path, dict[str, Rows]]:
    folder = DATA / FOLDERS.get(name, name)
    return folder, load(find(name), name, folder)


def examples_of(task: Task, splits: dict[str, Rows]) -> dict[str, list[Example]]:
    return {split: [task.example(row, where) for where, row in rows] for split, rows in splits.items()}


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_the_published_data_becomes_an_example_by_every_template(name: str) -> None:
    _, splits = published(name)
    task = find(name)
    for split in SPLITS:
        for where, row in splits[split]:
            for template in task.templates:
                example = task.example(row, where, template)
                assert example.options
                assert all(option.strip() for option in example.options)
                assert example.loss == task.loss


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_the_splits_of_the_published_data_share_no_prompt(name: str) -> None:
    _, splits = published(name)
    examples = examples_of(find(name), splits)
    prompts = {split: {(e.prompt, e.options) for e in examples[split]} for split in SPLITS}
    assert not prompts["dev"] & prompts["test"]
    assert not prompts["train"] & (prompts["dev"] | prompts["test"])


@needs_data
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_gives_the_same_examples_as_json_lines(name: str, kind: str, folder: Any) -> None:
    _, splits = published(name)
    few = {split: [row for _, row in rows[:12]] for split, rows in splits.items()}
    copied = load(find(name), name, folder(kind=kind, **few))
    assert examples_of(find(name), copied) == {
        split: rows[:12] for split, rows in examples_of(find(name), splits).items()
    }


@needs_data
@pytest.mark.parametrize("name", TRAINED)
def test_the_published_data_sets_train(name: str, tmp_path: Path) -> None:
    place, _ = published(name)
    result = zoplat.run(task=name, data=place, device="reference", steps=3, limit=24, out=tmp_path / "run")
    assert result.summary.steps == 3
    assert result.summary.task == name


def test_text_columns_of_a_table_stay_text_and_lists_are_parsed(folder: Any) -> None:
    rows = [{"sentence": '["not", "a list"]', "label": 1}]
    place = folder(kind="csv", train=rows, dev=reviews("a"), test=reviews("b"))
    assert load(find("sst2"), "sst2", place)["train"][0][1] == {"sentence": '["not", "a list"]', "label": "1"}
    passage = {"passage": "p", "question": "q", "answers": ["1", "2"]}
    place = folder(
        "drop", "csv", train=[passage], dev=[{**passage, "question": "r"}], test=[{**passage, "question": "s"}]
    )
    [(where, row)] = load(find("drop"), "drop", place)["train"]
    assert row["answers"] == ["1", "2"]
    assert where.endswith("train.csv, line 2")


def test_a_row_has_its_file_and_line(folder: Any) -> None:
    table = folder("t", "parquet", train=reviews("a", "b"), dev=reviews("c"), test=reviews("d"))
    assert [where for where, _ in load(find("sst2"), "sst2", table)["train"]] == [
        f"{table}/train.parquet, row 1",
        f"{table}/train.parquet, row 2",
    ]
    (table / "train.parquet").unlink()
    (table / "train.csv").write_text('\ufeffsentence,label\n"two\nlines",1\n\nafter,0\n', encoding="utf-8")
    found = load(find("sst2"), "sst2", table)["train"]
    assert found == [
        (f"{table}/train.csv, line 2", {"sentence": "two\nlines", "label": "1"}),
        (f"{table}/train.csv, line 5", {"sentence": "after", "label": "0"}),
    ]


@pytest.mark.parametrize("name", ["dev", "validation", "valid", "val"])
def test_dev_may_be_called_validation(name: str, folder: Any) -> None:
    place = folder(train=reviews("a"), test=reviews("b"), **{name: reviews("c")})
    [(_, row)] = load(find("sst2"), "sst2", place)["dev"]
    assert row["sentence"] == "c"


SENTENCES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=60)


def split_of(sentences: list[str], *present: str) -> dict[str, str]:
    """Text → its split, where all splits that are not present are cut from train."""
    given = {"train": [("here", row) for row in reviews(*sentences)]} | {split: [] for split in present}
    splits = cut(find("sst2"), given)
    assert sum(len(rows) for rows in splits.values()) == len(sentences)
    pairs = [(text(find("sst2"), row), split) for split, rows in splits.items() for _, row in rows]
    assert len(set(pairs)) == len(dict(pairs)), "a text is in two splits"
    return dict(pairs)


@given(SENTENCES, SENTENCES, st.sampled_from([(), ("dev",), ("test",)]))
def test_adding_or_moving_rows_changes_the_split_of_no_other(
    sentences: list[str], more: list[str], present: tuple[str, ...]
) -> None:
    before = split_of(sentences, *present)
    assert before.items() <= split_of([*more, *sentences[::-1]], *present).items()
    assert not set(before.values()) & set(present)


def test_a_tenth_goes_to_dev_and_two_tenths_to_test() -> None:
    sentences = [f"sentence {number}" for number in range(2000)]
    for present, shares in (((), (0.1, 0.2)), (("test",), (0.1, 0)), (("dev",), (0, 0.2)), (("dev", "test"), (0, 0))):
        splits = list(split_of(sentences, *present).values())
        for split, share in zip(("dev", "test"), shares, strict=True):
            assert splits.count(split) / 2000 == pytest.approx(share, abs=0.025)


def test_the_cut_is_the_same_on_every_machine() -> None:
    splits = split_of([f"sentence {number}" for number in range(20)])
    numbers = {split: [json.loads(t)[0][9:] for t in splits if splits[t] == split] for split in ("dev", "test")}
    assert numbers == {"dev": ["6", "7"], "test": ["1", "9", "13", "15"]}


def test_a_cut_comes_from_train_alone_and_keeps_the_same_text_together(folder: Any) -> None:
    twice = reviews(*(f"{blank}number {n}" for n in range(100) for blank in ("", " ")))
    splits = load(find("sst2"), "sst2", folder(train=twice, test=reviews("other")))
    assert [row["sentence"] for _, row in splits["test"]] == ["other"]
    dev = [row["sentence"].strip() for _, row in splits["dev"]]
    assert len(dev) == 2 * len(set(dev)) > 4
    assert len(dev) + len(splits["train"]) == 200


def test_a_train_too_small_to_be_cut_is_explained(folder: Any) -> None:
    with pytest.raises(ZoplatError, match=r"The dev split of task 'sst2' is empty .* give dev\.jsonl too"):
        load(find("sst2"), "sst2", folder(train=reviews("a"), test=reviews("b")))


def test_rows_that_differ_only_in_label_count_as_the_same(folder: Any) -> None:
    place = folder(train=reviews("a"), dev=[{"sentence": "b", "label": 0}], test=[{"sentence": " b", "label": 1}])
    words = (
        r"1 row of test have the text of a row of dev, the first at .*test\.jsonl, line 1, as at .*dev\.jsonl, line 1"
    )
    with pytest.raises(ZoplatError, match=words):
        load(find("sst2"), "sst2", place)


def test_the_same_passage_with_another_question_is_another_row(folder: Any) -> None:
    row = {"paragraph": "p", "question": "q", "answer": "a", "label": 1}
    place = folder(train=[row, row], dev=[{**row, "question": "r"}], test=[{**row, "answer": "b"}])
    assert {split: len(rows) for split, rows in load(find("multirc"), "multirc", place).items()} == {
        "train": 2,
        "dev": 1,
        "test": 1,
    }


def test_a_limit_is_applied_after_the_splits_were_compared(folder: Any) -> None:
    place = folder(train=reviews("a", "b"), dev=reviews("c"), test=reviews("d", "b"))
    with pytest.raises(ZoplatError, match="of test have the text of a row of train"):
        load(find("sst2"), "sst2", place, limit=1)


def test_rows_of_every_class_are_drawn_with_the_seed() -> None:
    task = data.find("trec")
    rows = [(f"row {i}", {"text": f"question {i}", "coarse_label": i % 6 if i < 60 else 0}) for i in range(90)]
    drawn = [data.of_each_class(task, rows, 4, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for few in drawn:
        assert [where for where, _ in few] == [where for where, _ in rows if (where, _) in few]
        assert Counter(row["coarse_label"] for _, row in few) == dict.fromkeys(range(6), 4)
    with pytest.raises(ZoplatError, match="--per-class 11 is more than the 10 rows of class 'ENTY'"):
        data.of_each_class(task, rows, 11, 0)
    with pytest.raises(ZoplatError, match="--per-class needs a task with classes"):
        data.of_each_class(data.find("copa"), rows, 1, 0)


def test_what_is_read_by_a_package_that_is_missing_names_it(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = folder("t", "parquet", train=reviews("a", "b"), dev=reviews("c"), test=reviews("d"))
    for package in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ZoplatError, match=r"train.parquet is read by .* pip install pyarrow. Or give the rows as .jsonl"
    ):
        load(find("sst2"), "sst2", table)
    with pytest.raises(ZoplatError, match=r"Task 'sst2': .*pip install 'zoplat\[hub\]'. Or give --data DIR"):
        load(find("sst2"), "sst2", None)

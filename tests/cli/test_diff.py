"""`zoplat diff`: two runs, and what differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoplat.comparison.difference import compare_steps, difference
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal, StepRecord


def diff(zoplat: Any, one: str, other: str, status: int) -> dict[str, Any]:
    done = zoplat("diff", one, other, "--json")
    assert done.exit_code == status, (done.output, done.exception)
    return dict(json.loads(done.stdout))


def test_the_same_run_made_twice_is_equal_although_it_took_other_seconds(zoplat: Any) -> None:
    for name in ("a", "b"):
        zoplat.run("--steps", 4, "--out", name)
    found = diff(zoplat, "a", "b", 0)
    assert found["equal"]
    assert (found["settings"], found["data"], found["model"], found["versions"]) == ({}, {}, {}, {})
    assert found["steps"]["counts"] == [4, 4]
    assert found["steps"]["first"] is None
    assert found["checksums"][0] == found["checksums"][1]
    one, other = found["results"]["seconds"]
    assert one > 0 < other
    text = zoplat("diff", "a", "b").stdout
    assert "all 4 the same, bit by bit" in text
    assert "equal in what matters" in text


def test_a_larger_lr_shows_at_the_first_step_and_in_the_answers_of_the_second(zoplat: Any) -> None:
    zoplat.run("--steps", 5, "--lr", 0.01, "--out", "a")
    zoplat.run("--steps", 5, "--lr", 0.02, "--out", "b")
    found = diff(zoplat, "a", "b", 1)
    assert found["settings"] == {"estimator.rule.lr": ["0.01", "0.02"]}
    assert (found["data"], found["model"]) == ({}, {})
    steps = found["steps"]
    assert (steps["first"], steps["what"], steps["values"], steps["differing"]) == (0, "lr", [0.01, 0.02], 5)
    journals = [Journal.read(Path(name, "journal.jsonl")).steps for name in ("a", "b")]
    assert journals[0][0].answers == journals[1][0].answers
    gaps = [
        (abs(x - y), one.step)
        for one, other in zip(*journals, strict=True)
        for x, y in zip(one.answers, other.answers, strict=True)
    ]
    assert steps["largest"] == list(max(gaps))


def test_of_another_method_its_name_and_the_settings_that_both_have_are_shown(zoplat: Any) -> None:
    zoplat.run("--steps", 2, "--estimator", "hizoo", "--out", "a")
    zoplat.run("--steps", 2, "--estimator", "lozo", "--lr", 0.5, "--out", "b")
    found = diff(zoplat, "a", "b", 1)
    assert found["settings"].keys() == {"estimator.name", "estimator.sampler.name", "estimator.rule.lr"}
    assert "\nsettings (of two parts, those that both have)\n" in zoplat("diff", "a", "b").stdout


def test_another_seed_and_other_rows_are_named_with_what_each_run_had(zoplat: Any) -> None:
    zoplat.run("--steps", 3, "--out", "a")
    done = zoplat(
        "run", "--device", "reference", "--limit", 20, "--batch-size", 4, "--steps", 3, "--seed", 1, "--out", "b"
    )
    assert done.exit_code == 0
    found = diff(zoplat, "a", "b", 1)
    assert found["settings"]["seed"] == ["0", "1"]
    assert found["settings"]["limit"] == ["16", "20"]
    assert found["data"].keys() == {"train", "dev", "test"}
    assert found["data"]["dev"][0].startswith("16 rows, sha256:")
    assert found["data"]["dev"][1].startswith("20 rows, sha256:")
    assert found["model"].keys() == {"start_digest"}, "the bag-of-words model starts at random weights"
    text = zoplat("diff", "a", "b").stdout
    assert "the first that differs is step 0, in answer 1 of 2: " in text
    assert "different in what matters" in text


def test_a_run_that_was_made_longer_differs_in_its_budget_only(zoplat: Any) -> None:
    zoplat.run("--steps", 3, "--evaluate-every", 3, "--step-rule", "constant", "--out", "a")
    zoplat.run("--steps", 6, "--evaluate-every", 3, "--step-rule", "constant", "--out", "b")
    found = diff(zoplat, "a", "b", 1)
    assert found["settings"] == {"steps": ["3", "6"]}
    assert (found["steps"]["counts"], found["steps"]["first"]) == ([3, 6], None)


def test_versions_are_shown_and_do_not_count(zoplat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        zoplat.run("--steps", 2, "--out", name)
    read = RunDirectory.read_journal

    def newer(directory: RunDirectory) -> Journal | None:
        journal = read(directory)
        if journal and directory.path.name == "b":
            journal.header["versions"]["numpy"] = "9.9"
        return journal

    monkeypatch.setattr(RunDirectory, "read_journal", newer)
    found = difference(RunDirectory(Path("a")), RunDirectory(Path("b")))
    assert found.versions.keys() == {"numpy"}
    assert found.are_equal


def test_steps_are_compared_answer_by_answer_and_nan_equals_nan() -> None:
    nan = float("nan")

    def journal(*answers: list[float]) -> Journal:
        return Journal({}, [StepRecord(i, some, 0.1) for i, some in enumerate(answers)], [])

    assert compare_steps(journal([1.0, nan]), journal([1.0, nan])).are_equal
    steps = compare_steps(journal([1.0, 2.0], [1.0, 2.5], [3.0]), journal([1.0, 2.0], [1.0, 2.0], [1.0]))
    assert (steps.first, steps.answer, steps.values, steps.differing, steps.largest) == (1, 2, (2.5, 2.0), 2, (2.0, 2))
    shorter = compare_steps(journal([1.0, 2.0]), journal([1.0]))
    assert (shorter.what, shorter.values) == ("number of answers", (2, 1))


def test_a_folder_that_is_no_run_and_a_damaged_journal_are_refused(zoplat: Any) -> None:
    zoplat.run("--steps", 3, "--out", "a")
    assert "is not a run directory" in zoplat.refused("diff", "a", "nowhere")
    path = Path("a/journal.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"step": 1', b'"step": 7'))
    assert "zoplat repair" in zoplat.refused("diff", "a", "a")

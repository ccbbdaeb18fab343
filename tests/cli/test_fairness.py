"""zoplat compare as a judge: what a run did against the terms of its comparison is reported, and in no mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoplat.training.journal import Journal, JournalWriter

from .conftest import STUDY

CHEAT = '''"""Methods that keep to no rule: they ask the model itself, for training rows and for others."""

from dataclasses import dataclass, replace

from zoplat import hookimpl
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class Asks(MeZO):
    """MeZO with a third forward pass that nobody counts."""

    def estimate(self, oracle, state):
        oracle._backend.session.forward(oracle._backend.rows)
        yield from super().estimate(oracle, state)


@dataclass(frozen=True)
class Peeks(MeZO):
    """MeZO that looks at the scores of test rows."""

    def estimate(self, oracle, state):
        from pathlib import Path

        session, rows = oracle._backend.session, oracle._backend.rows
        session.scores(session.encode([replace(row.example, prompt="a test row") for row in rows]))
        yield from super().estimate(oracle, state)


@hookimpl
def zoplat_estimators():
    return {"asks": Asks(), "peeks": Peeks()}
'''


def test_passes_beside_the_oracle_and_rows_of_other_splits_are_reported_and_in_no_mean(
    zoplat: Any, distribution: Any, in_process: list[str]
) -> None:
    distribution("zoplat-cheat", CHEAT)
    done = zoplat("compare", "--estimators", "mezo,asks,peeks", *STUDY, "--out", "all", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [row["label"] for row in found["rows"]] == ["mezo"]
    reasons = {(v["estimator"], v["reason"].partition(":")[0].partition(" the model")[0]) for v in found["violations"]}
    assert reasons == {
        ("asks", "passes outside the budget"),
        ("peeks", "passes outside the budget"),
        ("peeks", "in its steps"),
    }
    assert "the model made 6 forward passes in its steps that are not among the 12" in json.dumps(found)
    assert "24 rows that are no training rows" in json.dumps(found)


def test_scores_of_another_split_in_the_database_are_reported(zoplat: Any, in_process: list[str]) -> None:
    optuna = pytest.importorskip("optuna")
    import sqlalchemy

    arguments = ("--estimators", "mezo", "--tune-trials", 2, *STUDY, "--out", "all")
    found = zoplat.compared(*arguments)
    [choice] = found["chosen"]
    directory = Path("all", choice["trials"][1]["directory"])
    test = json.loads((directory / "summary.json").read_text())["test_after"]
    assert test != choice["trials"][1]["dev"], "else this tests nothing"
    study = optuna.load_study(study_name=f"{found['study']['name']}/mezo", storage="sqlite:///all/study.db")
    number = next(trial.number for trial in study.trials if trial.user_attrs["trial"] == 1)
    with sqlalchemy.create_engine("sqlite:///all/study.db").begin() as database:
        words = "update trial_values set value = :v where trial_id = (select trial_id from trials where number = :n)"
        database.execute(sqlalchemy.text(words), {"v": test, "n": number})
    done = zoplat("compare", *arguments, "--json")
    assert done.exit_code == 1
    [violation] = json.loads(done.stdout)["violations"]
    assert "its score on test: settings are chosen on dev" in violation["reason"]
    assert json.loads(done.stdout)["rows"] == []


def test_runs_with_other_rows_than_those_of_earlier_seeds_are_in_no_mean(
    zoplat: Any, in_process: list[str], rows: Any
) -> None:
    common = ("compare", "--estimators", "mezo", "--device", "reference", "--batch-size", 4, "--steps", 2)
    arguments = (*common, "--data", rows(Path("rows")), "--out", "all", "--json")
    assert zoplat(*arguments, "--seeds", "0,1").exit_code == 0
    train = Path("rows/train.jsonl")
    first, *others = train.read_text().splitlines(keepends=True)
    train.write_text("".join([json.dumps({**json.loads(first), "sentence": "another sentence"}) + "\n", *others]))
    done = zoplat(*arguments, "--seeds", "0,1,2")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [(v["seed"], v["reason"].partition(":")[0]) for v in found["violations"]] == [(2, "rows of train")]
    assert [row["runs"] for row in found["rows"]] == [2]


def test_a_run_that_began_with_other_weights_is_in_no_mean(zoplat: Any, in_process: list[str]) -> None:
    arguments = ("--estimators", "mezo,lozo,fzoo", *STUDY, "--out", "all")
    zoplat.compared(*arguments)
    path = Path("all/fzoo-0/journal.jsonl")
    journal = Journal.read(path)
    header = {key: value for key, value in journal.header.items() if key not in ("zoplat_journal", "checksum")}
    writer = JournalWriter(path, {**header, "start_digest": "sha256:0123456789"})
    for step in journal.steps:
        writer.append(step)
    writer.close()
    done = zoplat("compare", *arguments, "--json")
    found = json.loads(done.stdout)
    assert {row["label"] for row in found["rows"]} == {"mezo", "lozo"}
    [violation] = found["violations"]
    assert (violation["directory"], violation["reason"].partition(":")[0]) == ("fzoo-0", "starting weights")

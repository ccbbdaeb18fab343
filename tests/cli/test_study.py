"""zoplat compare as a study: searches, failures, and what a dry run says."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import STUDY, TOY

LONGER = (*TOY, "--max-passes", "60")


class TestSearch:
    def test_each_method_has_the_same_trials_and_the_best_on_dev_is_run_with_every_seed(
        self, zoplat: Any, in_process: list[str]
    ) -> None:
        optuna = pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo,lozo", "--seeds", "0,1", "--tune-trials", 3, *STUDY, "--out", "all")
        found = zoplat.compared(*arguments)
        assert sorted(in_process) == sorted(
            [f"{name}, sentiment, trial {n}" for name in ("mezo", "lozo") for n in range(3)]
            + [f"{name}, sentiment, seed {n}" for name in ("mezo", "lozo") for n in range(2)]
        )
        assert json.loads(Path("all/comparison.json").read_text()) == found
        assert found["study"].items() >= {"seeds": [0, 1], "tune_trials": 3, "tune_seed": 1000}.items()
        for choice in found["chosen"]:
            scores = [trial["dev"] for trial in choice["trials"]]
            directories = [Path("all", trial["directory"]) for trial in choice["trials"]]
            summaries = [json.loads((path / "summary.json").read_text()) for path in directories]
            assert scores == [summary["dev_after"] for summary in summaries]
            assert {summary["seed"] for summary in summaries} == {1000}
            assert {summary["forward_passes"] for summary in summaries} == {12}
            assert (choice["trial"], choice["dev"]) == (scores.index(max(scores)), max(scores))
            assert choice["passes"] == 36
            for seed in (0, 1):
                config = tomllib.loads(Path(f"all/{choice['label']}-{seed}/config.toml").read_text())["estimator"]
                assert config["eps"] == choice["settings"]["eps"]
                assert config["rule"]["lr"] == choice["settings"]["rule.lr"]
        assert [(row["runs"], row["search_passes"]) for row in found["rows"]] == [(2, 36), (2, 36)]
        assert sorted(run["directory"] for run in found["runs"]) == ["lozo-0", "lozo-1", "mezo-0", "mezo-1"]
        text = Path("all/comparison.md").read_text()
        assert "| method | task | chosen settings | dev score | trials | failed trials | passes of the search |" in text
        studies = optuna.get_all_study_summaries("sqlite:///all/study.db")
        assert sorted(study.study_name for study in studies) == [
            f"{found['study']['name']}/{n}" for n in ("lozo", "mezo")
        ]
        trials = optuna.load_study(study_name=studies[0].study_name, storage="sqlite:///all/study.db").trials
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        before = zoplat.files()
        again = zoplat("compare", *arguments, "--json")
        assert (json.loads(again.stdout), again.stderr) == (found, "")
        assert zoplat.files() == before
        assert len(in_process) == 10

    def test_a_search_can_be_extended_and_joined(self, zoplat: Any, in_process: list[str]) -> None:
        pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo", "--tune-trials", 1, "--trial-passes", 4, *STUDY, "--out", "all")
        zoplat.compared(*arguments)
        assert zoplat.compared(*arguments, "--seeds", "0,1")["rows"][0]["runs"] == 2
        assert in_process == ["mezo, sentiment, trial 0", "mezo, sentiment, seed 0", "mezo, sentiment, seed 1"]
        assert zoplat.compared("--join", "all")["rows"][0]["runs"] == 2
        assert zoplat.compared("--config", "all/study.toml", "--out", "other")["rows"][0]["search_passes"] == 4
        assert "only --jobs, --storage and --plugin" in zoplat.refused(
            "compare", "--join", "all", "--estimators", "mezo"
        )
        assert "there is no study" in zoplat.refused("compare", "--join", "nowhere")
        message = zoplat.refused("compare", "--join", "all", "--storage", "sqlite:///other.db")
        assert "the trials of all are in study.db" in message

    def test_settings_that_are_given_are_not_searched(self, zoplat: Any, in_process: list[str]) -> None:
        pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo", "--tune-trials", 2, "--eps", "0.01", *STUDY)
        [choice] = zoplat.compared(*arguments, "--out", "one")["chosen"]
        assert [*choice["settings"]] == ["rule.lr"]
        done = zoplat("compare", *arguments, "--lr", "0.01", "--out", "two")
        assert "mezo: nothing to search" in done.stderr
        assert in_process[-1] == "mezo, sentiment, seed 0"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of a radius near the largest float
class TestFailures:
    def test_failures_are_rows_and_are_tried_again_when_asked_for(self, zoplat: Any, in_process: list[str]) -> None:
        pytest.importorskip("optuna")
        Path("s.toml").write_text("[search.mezo]\neps = [1e-3, 3e38]\n'rule.lr' = []\n")
        arguments = ("--estimators", "mezo", "--tune-trials", 4, *LONGER, "--config", "s.toml", "--out", "all")
        done = zoplat("compare", *arguments, "--json")
        found = json.loads(done.stdout)
        assert done.exit_code == 1
        assert {run["trial"] for run in found["failed"]} < set(range(4))
        assert all(run["reason"].startswith("Error: ") for run in found["failed"])
        [choice] = found["chosen"]
        assert choice["settings"] == {"eps": 1e-3}
        assert sum(trial["dev"] is None for trial in choice["trials"]) == len(found["failed"]) > 0
        count = len(in_process)
        zoplat("compare", *arguments)
        assert len(in_process) == count, "what failed is not tried again"
        zoplat("compare", *arguments, "--retry-failed")
        assert len(in_process) == count + len(found["failed"])

    def test_where_all_trials_fail_the_runs_are_failures_too(self, zoplat: Any, in_process: list[str]) -> None:
        pytest.importorskip("optuna")
        Path("s.toml").write_text("[search.mezo]\neps = [3e38, 2e38]\n'rule.lr' = []\n")
        arguments = ("--estimators", "mezo,lozo", "--tune-trials", 2, *LONGER, "--config", "s.toml", "--out", "all")
        done = zoplat("compare", *arguments, "--json")
        found = json.loads(done.stdout)
        assert [row["label"] for row in found["rows"]] == ["lozo"]
        reasons = [run["reason"] for run in found["failed"] if run["trial"] is None]
        assert reasons == ["all 2 trials of its search failed"]


class TestForecast:
    def test_a_dry_run_says_how_much_there_is_and_how_long_it_takes_where_that_is_known(
        self, zoplat: Any, in_process: list[str]
    ) -> None:
        pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo,lozo", "--seeds", "0,1,2", "--tune-trials", 2, *STUDY, "--out", "all")
        before = zoplat.files()
        found = zoplat.compared(*arguments, "--dry-run")
        assert zoplat.files() == before
        assert (found["trials"], found["runs"], found["forward passes left"]) == (4, 6, 120)
        assert found["hours left"] == "unknown"
        assert "rule.lr" in found["search of mezo"]
        zoplat.compared("--estimators", "mezo", "--tune-trials", 2, *STUDY, "--out", "all")
        found = zoplat.compared(*arguments, "--dry-run")
        assert (found["trials left"], found["runs left"], found["forward passes left"]) == (2, 5, 84)
        assert 0 <= found["hours left"] < 0.1
        assert "hours left" in zoplat("compare", *arguments, "--dry-run").stdout

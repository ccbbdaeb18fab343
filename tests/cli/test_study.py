"""zoplat compare as a study: searches, workers that share it, failures, and whether it was fair."""

import json
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

from zoplat.comparison.claims import claimed
from zoplat.comparison.matrix import Matrix
from zoplat.comparison.planned import PlannedRun
from zoplat.comparison.study import Study
from zoplat.comparison.trials import point
from zoplat.config.search import declared, ranges
from zoplat.core.errors import ZoplatError
from zoplat.core.search import Around, Between, OneOf
from zoplat.registry import catalogue
from zoplat.training.journal import Journal, JournalWriter
from zoplat.training.readings import Readings
from zoplat.training.train import train

TOY = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--max-passes", 12)
LONGER = (*TOY[:-1], 60)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs of a comparison are made in this process, for they are tiny; the list says which, in order."""
    made: list[str] = []

    def execute(self: PlannedRun, claim: int, running: Any) -> Any:
        made.append(str(self))
        try:
            return train(self.config, self.directory, resume=True).summary
        except ZoplatError as problem:
            return self.failed(f"Error: {problem}")

    monkeypatch.setattr(PlannedRun, "execute", execute)
    return made


def compared(zoplat: Any, *arguments: Any) -> dict[str, Any]:
    done = zoplat("compare", *arguments, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


def matrix(**given: Any) -> Matrix:
    return Matrix.of({"device": "reference", "limit": 16, "batch_size": 4, "max_passes": 12}, given)


def keys(made: Matrix) -> list[str]:
    return [cell.key for cell in made.cells()]


class TestMatrix:
    def test_methods_are_crossed_with_laws_rules_tasks_and_tunings(self) -> None:
        made = matrix(
            estimators=("mezo", "fzoo", "zero-shot"),
            samplers=("gaussian", "rademacher"),
            step_rules=("cosine",),
            tunes=("full", "hidden"),
        )
        assert keys(made) == [
            "full/mezo+gaussian+cosine",
            "full/mezo+rademacher+cosine",
            "full/fzoo+gaussian+cosine",
            "full/fzoo+rademacher+cosine",
            "zero-shot",
            "hidden/mezo+gaussian+cosine",
            "hidden/mezo+rademacher+cosine",
            "hidden/fzoo+gaussian+cosine",
            "hidden/fzoo+rademacher+cosine",
        ]
        cell = made.cells()[-1]
        assert cell.label == "fzoo+rademacher+cosine, hidden"
        config = cell.config(5)
        names = catalogue().name_of("sampler", config.estimator.sampler), config.tune.name, config.seed
        assert names == ("rademacher", "hidden", 5)

    def test_a_method_without_a_law_is_not_repeated_for_each_law(self) -> None:
        made = Matrix.of({"device": "cpu"}, {"estimators": ("adamw",), "samplers": ("gaussian", "sphere")})
        assert keys(made) == ["adamw"]

    def test_a_file_says_the_same_as_flags_and_settings_of_single_ones(self) -> None:
        Path("study.toml").write_text(
            'device = "reference"\nseeds = [3, 4]\ntune_trials = 2\ntunes = ["full", "hidden"]\n'
            "[estimators]\nlozo = {}\nmezo = { queries = 3 }\n[search.mezo]\n'rule.lr' = { low = 1e-3, high = 1e-1 }\n"
        )
        made = Matrix.of({"config": Path("study.toml"), "limit": 16}, {"seeds": None})
        assert (made.estimators, made.seeds, made.tune_trials) == (("lozo", "mezo"), (3, 4), 2)
        mezo = next(cell for cell in made.cells() if cell.method == "mezo")
        assert mezo.config(0).estimator.queries == 3
        assert mezo.ranges() == {"eps": Between(1e-3 / 3, 3e-3), "rule.lr": Between(1e-3, 1e-1)}
        assert Matrix.of({"config": Path("study.toml")}, {"seeds": (7,)}).seeds == (7,)

    def test_without_a_budget_all_have_the_same_number_of_passes(self) -> None:
        [cell] = Matrix.of({"device": "reference"}, {"estimators": ("mezo",)}).cells()
        config = cell.config(0)
        assert (config.max_passes, config.steps) == (2000, None)
        [cell] = Matrix.of({"device": "reference", "steps": 7}, {"estimators": ("mezo",)}).cells()
        assert (cell.config(0).max_passes, cell.config(0).steps) == (None, 7)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"estimators": ("mezo",), "seeds": (0, 1000), "tune_trials": 2}, "is that of the trials"),
            ({"estimators": ("mezo",), "tunes": ("a(", "a)")}, "would have the same folder"),
            ({"estimators": ()}, "Give run directories, or --estimators"),
            ({"estimators": ("mezo",), "seeds": (0.5,)}, "a list of whole numbers"),
            ({"estimators": ("mezo",), "trial_passes": 0}, "a whole number above 0"),
        ],
    )
    def test_what_can_not_be_compared_is_refused(self, given: dict[str, Any], words: str) -> None:
        with pytest.raises(ZoplatError, match=words.replace("(", r"\(")):
            matrix(**given).cells()

    @pytest.mark.parametrize(
        "text", ["estimators = 'mezo,lozo'", "estimators = [1]", "search = 3", "[search]\nmezo = 2"]
    )
    def test_a_file_that_is_no_matrix_is_refused(self, text: str) -> None:
        Path("study.toml").write_text(f"{text}\n")
        with pytest.raises(ZoplatError, match=r"estimators must be a list|\[search\] must have a table"):
            Matrix.of({"config": Path("study.toml")}, {"estimators": None if "est" in text else ("mezo",)})

    def test_laws_may_have_settings_of_their_own(self) -> None:
        Path("study.toml").write_text('device = "reference"\n[samplers]\nlow-rank = { rank = 3 }\ngaussian = {}\n')
        made = Matrix.of({"config": Path("study.toml")}, {"estimators": ("mezo",)})
        assert made.cells()[0].config(0).estimator.sampler.rank == 3
        assert keys(Matrix.of({"config": made.table()}, {})) == keys(made) == ["mezo+low-rank", "mezo+gaussian"]

    def test_a_budget_of_energy_is_refused_where_the_machine_does_not_tell(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Readings, "energy_sources", [])
        study = Study(Path("all"), Matrix.of({"config": {"max_joules": 5.0}}, {"estimators": ("mezo",)}))
        with pytest.raises(ZoplatError, match="this machine does not tell its energy"):
            study.check()

    def test_budgets_of_tokens_and_joules_are_budgets(self) -> None:
        for budget in ({"max_tokens": 500}, {"max_joules": 5.0}):
            [cell] = Matrix.of({"config": {"device": "reference", **budget}}, {"estimators": ("mezo",)}).cells()
            config = cell.config(0)
            assert (config.steps, config.max_passes, config.max_seconds) == (None, None, None)
            assert {**config.table(), **budget} == config.table()


class TestRanges:
    def test_every_method_that_ships_searches_its_step_size(self) -> None:
        for entry in catalogue():
            if entry.kind == "estimator" and entry.distribution == "zoplat":
                paths = declared(entry.value).keys()
                assert any(path.endswith(".lr") for path in paths), entry.name
                assert "eps" in paths or "inner.eps" in paths or entry.value.asks != {"losses"}, entry.name

    def test_what_the_user_chose_stays_and_what_he_says_of_ranges_counts(self) -> None:
        mezo = catalogue().entry("estimator", "mezo").value
        assert ranges(mezo, {}) == {"eps": Between(1e-3 / 3, 1e-3 * 3), "rule.lr": Between(1e-6 / 10, 1e-6 * 10)}
        assert [*ranges(mezo, {}, fixed={"eps"})] == ["rule.lr"]
        own = {"eps": [1e-3, 1e-2], "queries": {"low": 1, "high": 8, "log": False}, "rule.lr": []}
        assert ranges(mezo, own) == {"eps": OneOf((1e-3, 1e-2)), "queries": Between(1, 8, log=False)}
        with pytest.raises(ZoplatError, match="must be a list of values, or a table"):
            ranges(mezo, {"eps": 3})
        with pytest.raises(ZoplatError, match="0 < low < high"):
            ranges(mezo, {"eps": {"low": 1, "high": 1}})

    def test_points_are_the_usual_settings_first_and_then_the_same_for_everybody(self) -> None:
        where = {"eps": Between(1e-4, 1e-2), "queries": Between(1, 8, log=False), "rule": OneOf(("a", "b"))}
        usual = {"eps": 5e-2, "queries": 2, "rule": "b"}
        points = [point(where, usual, number) for number in range(20)]
        assert points[0] == {"eps": 1e-2, "queries": 2, "rule": "b"}
        assert points == [point(where, usual, number) for number in range(20)]
        assert all(1e-4 <= p["eps"] <= 1e-2 and 1 <= p["queries"] <= 8 for p in points)
        assert {type(p["queries"]) for p in points} == {int}
        assert {p["rule"] for p in points} == {"a", "b"}
        below = sum(p["eps"] < 1e-3 for p in points[1:])
        assert 8 <= below <= 11, "half of them in each half of a logarithmic scale"

    def test_a_range_needs_a_value_to_lie_around(self) -> None:
        with pytest.raises(ValueError, match="positive number"):
            Around(10).at(0.0)


class TestSearch:
    def test_each_method_has_the_same_trials_and_the_best_on_dev_is_run_with_every_seed(
        self, zoplat: Any, in_process: list[str]
    ) -> None:
        optuna = pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo,lozo", "--seeds", "0,1", "--tune-trials", 3, *TOY, "--out", "all")
        found = compared(zoplat, *arguments)
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
        arguments = ("--estimators", "mezo", "--tune-trials", 1, "--trial-passes", 4, *TOY, "--out", "all")
        compared(zoplat, *arguments)
        assert compared(zoplat, *arguments, "--seeds", "0,1")["rows"][0]["runs"] == 2
        assert in_process == ["mezo, sentiment, trial 0", "mezo, sentiment, seed 0", "mezo, sentiment, seed 1"]
        assert compared(zoplat, "--join", "all")["rows"][0]["runs"] == 2
        assert compared(zoplat, "--config", "all/study.toml", "--out", "other")["rows"][0]["search_passes"] == 4
        assert "only --jobs, --storage and --plugin" in zoplat.refused(
            "compare", "--join", "all", "--estimators", "mezo"
        )
        assert "there is no study" in zoplat.refused("compare", "--join", "nowhere")
        message = zoplat.refused("compare", "--join", "all", "--storage", "sqlite:///other.db")
        assert "the trials of all are in study.db" in message

    def test_settings_that_are_given_are_not_searched(self, zoplat: Any, in_process: list[str]) -> None:
        pytest.importorskip("optuna")
        arguments = ("--estimators", "mezo", "--tune-trials", 2, "--eps", "0.01", *TOY)
        [choice] = compared(zoplat, *arguments, "--out", "one")["chosen"]
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
        arguments = ("--estimators", "mezo,lozo", "--seeds", "0,1,2", "--tune-trials", 2, *TOY, "--out", "all")
        before = zoplat.files()
        found = compared(zoplat, *arguments, "--dry-run")
        assert zoplat.files() == before
        assert (found["trials"], found["runs"], found["forward passes left"]) == (4, 6, 120)
        assert found["hours left"] == "unknown"
        assert "rule.lr" in found["search of mezo"]
        compared(zoplat, "--estimators", "mezo", "--tune-trials", 2, *TOY, "--out", "all")
        found = compared(zoplat, *arguments, "--dry-run")
        assert (found["trials left"], found["runs left"], found["forward passes left"]) == (2, 5, 84)
        assert 0 <= found["hours left"] < 0.1
        assert "hours left" in zoplat("compare", *arguments, "--dry-run").stdout


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


class TestFairness:
    def test_passes_beside_the_oracle_and_rows_of_other_splits_are_reported_and_in_no_mean(
        self, zoplat: Any, distribution: Any, in_process: list[str]
    ) -> None:
        distribution("zoplat-cheat", CHEAT)
        done = zoplat("compare", "--estimators", "mezo,asks,peeks", *TOY, "--out", "all", "--json")
        found = json.loads(done.stdout)
        assert done.exit_code == 1
        assert [row["label"] for row in found["rows"]] == ["mezo"]
        reasons = {
            (v["estimator"], v["reason"].partition(":")[0].partition(" the model")[0]) for v in found["violations"]
        }
        assert reasons == {
            ("asks", "passes outside the budget"),
            ("peeks", "passes outside the budget"),
            ("peeks", "in its steps"),
        }
        assert "the model made 6 forward passes in its steps that are not among the 12" in json.dumps(found)
        assert "24 rows that are no training rows" in json.dumps(found)

    def test_scores_of_another_split_in_the_database_are_reported(self, zoplat: Any, in_process: list[str]) -> None:
        optuna = pytest.importorskip("optuna")
        import sqlalchemy

        arguments = ("--estimators", "mezo", "--tune-trials", 2, *TOY, "--out", "all")
        found = compared(zoplat, *arguments)
        [choice] = found["chosen"]
        directory = Path("all", choice["trials"][1]["directory"])
        test = json.loads((directory / "summary.json").read_text())["test_after"]
        assert test != choice["trials"][1]["dev"], "else this tests nothing"
        study = optuna.load_study(study_name=f"{found['study']['name']}/mezo", storage="sqlite:///all/study.db")
        number = next(trial.number for trial in study.trials if trial.user_attrs["trial"] == 1)
        with sqlalchemy.create_engine("sqlite:///all/study.db").begin() as database:
            words = (
                "update trial_values set value = :v where trial_id = (select trial_id from trials where number = :n)"
            )
            database.execute(sqlalchemy.text(words), {"v": test, "n": number})
        done = zoplat("compare", *arguments, "--json")
        assert done.exit_code == 1
        [violation] = json.loads(done.stdout)["violations"]
        assert "its score on test: settings are chosen on dev" in violation["reason"]
        assert json.loads(done.stdout)["rows"] == []

    def test_a_run_that_began_with_other_weights_is_in_no_mean(self, zoplat: Any, in_process: list[str]) -> None:
        arguments = ("--estimators", "mezo,lozo,fzoo", *TOY, "--out", "all")
        compared(zoplat, *arguments)
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


class TestWorkers:
    def test_what_another_worker_has_claimed_is_left_to_it(self, zoplat: Any, in_process: list[str]) -> None:
        study = Study(Path("all"), matrix(estimators=("mezo", "lozo")))
        from zoplat.comparison.work import Workers

        study.prepare()
        workers = Workers(study, 1, in_process.append)
        with claimed(study.claim("mezo-0")) as claim:
            assert claim is not None
            with claimed(study.claim("mezo-0")) as other:
                assert other is None
            mine = [job for job in workers.jobs if workers.made(job)]
        assert [job.cell.method for job in mine] == ["lozo"]
        assert [job.cell.method for job in workers.jobs if not job.is_over] == ["mezo"]
        assert not Path("all/mezo-0").exists()

    def test_a_claim_is_held_as_long_as_the_run_lives_that_inherited_it(self) -> None:
        path = Path("a.lock")
        with claimed(path) as claim:
            assert claim is not None
            run = subprocess.Popen(["sleep", "60"], pass_fds=(claim,))
        with claimed(path) as other:
            assert other is None, "its worker is gone, the run goes on"
        run.kill()
        run.wait()
        with claimed(path) as other:
            assert other is not None

    @pytest.mark.slow
    def test_an_interrupted_worker_stops_its_run_which_is_gone_on_with(self, zoplat: Any) -> None:
        toy = (*TOY[:-2], "--max-passes", 3000, "--evaluate-every", 1000)
        arguments = ("compare", "--estimators", "mezo", *toy, "--out", "all", "--json")
        worker, journal = zoplat.start(*arguments), Path("all/mezo-0/journal.jsonl")
        while worker.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
            time.sleep(0.01)
        [run] = psutil.Process(worker.pid).children()
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate()
        assert worker.returncode == 130
        assert "the same command goes on" in errors
        assert not run.is_running()
        kept = journal.read_bytes()
        assert 20 < kept.count(b"\n") < 1500
        done = zoplat.start(*arguments)
        assert json.loads(done.communicate()[0])["rows"][0]["forward_passes"] == 3000
        assert journal.read_bytes().startswith(kept)

    @pytest.mark.slow
    def test_a_killed_worker_s_run_is_gone_on_with_by_two_others_and_nothing_is_made_twice(self, zoplat: Any) -> None:
        pytest.importorskip("optuna")
        steps = 120
        toy = (*TOY[:-2], "--max-passes", 2 * steps, "--evaluate-every", 60)
        arguments = ("compare", "--estimators", "mezo", "--tune-trials", 2, *toy, "--out", "all")
        first, journal = zoplat.start(*arguments), Path("all/trials/mezo-0/journal.jsonl")
        while first.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
            time.sleep(0.01)
        killed_run(first)
        kept = journal.read_bytes().rpartition(b"\n")[0]
        assert not Path("all/trials/mezo-0/summary.json").exists(), "it was to be killed in the middle"
        workers = [zoplat.start(*arguments, "--json"), zoplat.start("compare", "--join", "all", "--json")]
        outputs = [worker.communicate() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], outputs
        assert json.loads(outputs[0][0]) == json.loads(outputs[1][0])
        begun = [line.partition("  (")[0] for _, errors in outputs for line in errors.splitlines()]
        assert sorted(begun) == ["mezo, sentiment, seed 0", "mezo, sentiment, trial 0", "mezo, sentiment, trial 1"]
        assert journal.read_bytes().startswith(kept), "it was resumed, not begun anew"
        for path in Path("all").rglob("journal.jsonl"):
            assert len(Journal.read(path).steps) == steps, path
        assert len([*Path("all").rglob("journal.jsonl")]) == 3


def killed_run(worker: Any) -> None:
    """Kill a worker, and the run that it has begun."""
    processes = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    worker.communicate()


def test_three_runs_of_two_models_three_budgets_and_three_limits_are_three_rows(
    zoplat: Any, small_model: Any, rows: Any
) -> None:
    """What was once printed as "lozo 73.5 ± 11.7, runs 3"."""
    models, data = [small_model(seed=seed, num_hidden_layers=1) for seed in (0, 1)], rows(Path("rows"))
    for name, model, steps, limit in (("a", 0, 1, 16), ("b", 1, 2, 12), ("c", 0, 3, 8)):
        common = ("run", "--device", "cpu", "--estimator", "lozo", "--batch-size", 4, "--quiet", "--data", data)
        done = zoplat(*common, "--model", models[model], "--steps", steps, "--limit", limit, "--out", name)
        assert done.exit_code == 0, done.stderr
    found = json.loads(zoplat("compare", "a", "b", "c", "--json").stdout)["rows"]
    assert [row["runs"] for row in found] == [1, 1, 1]
    assert len({row["label"] for row in found}) == 3
    assert all("steps" in row["label"] and "model" in row["label"] for row in found), [row["label"] for row in found]

"""zoplat compare: a matrix of runs and one table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoplat.comparison.table import cells, markdown, table
from zoplat.comparison.terms import FinishedRun, labels
from zoplat.training.summary import Summary

SHORT = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 2)


def test_a_matrix_is_run_once_and_summed_up_in_one_table(zoplat: Any) -> None:
    arguments = ("compare", "--estimators", "mezo,lozo", "--seeds", "0,1", *SHORT, "--out", "all", "--json")
    done = zoplat(*arguments)
    assert done.exit_code == 0, done.stderr
    rows = {row["estimator"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows.keys() == {"mezo", "lozo"}
    assert (rows["mezo"]["runs"], rows["mezo"]["forward_passes"], rows["mezo"]["steps"]) == (2, 4, 2)
    runs = [json.loads((Path("all") / f"mezo-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    assert rows["mezo"]["score"] == sum(run["test_after"] for run in runs) / 2
    assert [run["seed"] for run in runs] == [0, 1]
    before = zoplat.files()
    again = zoplat(*arguments)
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert zoplat.files() == before, "runs that are done stay as they are"
    assert json.loads(Path("all/comparison.json").read_text())["rows"] == list(rows.values())
    read = zoplat("compare", "all/mezo-0", "all/mezo-1", "all/lozo-0", "all/lozo-1")
    assert read.stdout == Path("all/comparison.md").read_text()


def test_one_value_beside_several_and_a_folder_of_other_settings_are_refused(zoplat: Any) -> None:
    for several, one in (("--tasks", "--task"), ("--models", "--model"), ("--tunes", "--tune")):
        message = zoplat.refused("compare", "--estimators", "mezo", several, "a,b", one, "c", *SHORT, "--dry-run")
        assert f"{several} and {one} say the same, each its own. Leave one of them out." in message
    assert zoplat("compare", "--estimators", "mezo", *SHORT, "--out", "all").exit_code == 0
    message = zoplat.refused("compare", "--estimators", "mezo", *SHORT, "--lr", 0.5, "--out", "all")
    assert message.startswith("Error: --out all: all/mezo-0 was begun with other settings:\n  estimator.rule.lr: 1e-06")
    assert "--resume" not in message


def test_a_method_that_fails_is_named_and_the_others_are_in_the_table(zoplat: Any, distribution: Any) -> None:
    done = zoplat("compare", "--estimators", "mezo,lozo", *SHORT, "-o", "sampler.rank=4", "--out", "all", "--json")
    assert done.exit_code == 2, "a field that one of the methods lacks is refused before any run"
    done = zoplat("compare", "--estimators", "mezo,lozo", *SHORT, "--eps", "3e38", "--steps", 30, "--out", "all")
    assert done.exit_code == 1
    assert "mezo, sentiment, seed 0: Error: The scores of all 16 rows are not numbers" in done.stderr
    assert json.loads(Path("all/comparison.json").read_text())["failed"][0]["estimator"] == "mezo"


def test_a_settings_file_may_have_settings_of_single_methods(zoplat: Any) -> None:
    Path("all.toml").write_text("steps = 2\n[estimators.mezo]\nqueries = 3\n[estimators.mezo.rule]\nlr = 0.5\n")
    arguments = ("compare", "--config", "all.toml", *SHORT[:-2], "--eps", "0.25", "--out", "all")
    assert zoplat(*arguments, "--estimators", "mezo,lozo").exit_code == 0
    mezo, lozo = (json.loads(Path(f"all/{name}-0/summary.json").read_text()) for name in ("mezo", "lozo"))
    assert (mezo["forward_passes"], lozo["forward_passes"]) == (12, 4)
    config = Path("all/mezo-0/config.toml").read_text()
    assert "lr = 0.5" in config
    assert "eps = 0.25" in config
    Path("all.toml").write_text("steps = 2\n[estimators.meso]\nqueries = 3\n")
    assert "Unknown estimator 'meso'" in zoplat.refused(*arguments, "--estimators", "lozo")


def test_several_tasks_and_protocols_make_a_grid_with_published_scores(zoplat: Any) -> None:
    for task, label in (("sst2", "negative"), ("rte", "entailment")):
        Path(f"data/{task}").mkdir(parents=True)
        for number, split in enumerate(("train", "dev", "test")):
            rows = [
                {"sentence": f"{split} {i}", "premise": f"{split} {i}", "hypothesis": "yes", "label": (i + number) % 2}
                for i in range(8)
            ]
            rows[0]["label"] = label
            Path(f"data/{task}/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("compare", "--tasks", "sst2,rte", "--estimators", "zero-shot,icl-2,mezo", "--data", "data")
    done = zoplat(*arguments, "--seeds", "0,1", *SHORT, "--out", "all", "--published", "opt-13b")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "| method | sst2 | opt-13b | rte | opt-13b | runs |"
    shown = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines[2:]}
    assert (shown["mezo"][2], shown["mezo"][4], shown["mezo"][5]) == ("91.4", "66.1", "2")
    assert (shown["zero-shot"][2], shown["zero-shot"][5]) == ("58.8", "1"), "nothing in it hangs on the seed"
    assert (shown["icl-2"][2], shown["icl-2"][5]) == ("–", "2")
    own = json.loads(zoplat("eval", *SHORT[:4], "--task", "rte", "--data", "data/rte", "--json").stdout)
    assert "- opt-13b, zero-shot, mezo: arXiv:2305.17333, Table 1" in lines
    assert shown["zero-shot"][3] == f"{100 * own['score']:.1f}"
    before = zoplat.files()
    again = zoplat(*arguments, "--seeds", "0,1", *SHORT, "--out", "all", "--published", "opt-13b")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert zoplat.files() == before
    message = zoplat.refused(*arguments, *SHORT, "--out", "all", "--published", "opt-14b")
    assert "opt-13b" in message


def test_of_several_tasks_the_packaged_one_needs_no_folder(zoplat: Any) -> None:
    Path("data/sst2").mkdir(parents=True)
    for number, split in enumerate(("train", "dev", "test")):
        rows = [{"sentence": f"{split} {i}", "label": (i + number) % 2} for i in range(8)]
        Path(f"data/sst2/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = zoplat("compare", "--tasks", "sst2,sentiment", "--estimators", "zero-shot", "--data", "data", *SHORT)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == "| method | sst2 | sentiment | runs |"
    message = zoplat.refused("compare", "--tasks", "sst2,rte", "--estimators", "zero-shot", "--data", "data", *SHORT)
    assert "--data: data/rte does not exist" in message, "this one ships no rows, which is said before any run begins"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("run directories, or --estimators",)),
        (("--estimators", "mezo", "here"), ("run directories, or --estimators",)),
        (("--estimators", "meso", *SHORT), ("Unknown estimator 'meso'", "mezo")),
        (("--estimators", "mezo", "--seeds", "0;1"), ("whole numbers", "'0;1'")),
        (("nowhere",), ("nowhere is not a run directory",)),
    ],
)
def test_an_impossible_comparison_is_explained(zoplat: Any, arguments: tuple[Any, ...], words: Any) -> None:
    message = zoplat.refused("compare", *arguments)
    assert all(word in message for word in words), message


def test_existing_runs_with_other_settings_are_refused(zoplat: Any) -> None:
    assert zoplat("compare", "--estimators", "mezo", *SHORT, "--out", "all").exit_code == 0
    message = zoplat.refused("compare", "--estimators", "mezo", *SHORT, "--eps", "0.5", "--out", "all")
    assert "estimator.eps: 0.001 → 0.5" in message


def ended(estimator: str, test: float, seconds: float, seed: int = 0, **terms: str) -> FinishedRun:
    memory = {"host": 3 << 20, "device": None}
    values = {
        "estimator": estimator,
        "task": "t",
        "seed": seed,
        "test_before": 0.5,
        "test_after": test,
        "dev_after": 0.625,
        "steps": 10,
        "peak_bytes": {"host": 1, "device": None},
        "forward_passes": 1200,
        "seconds_training": seconds,
        "skipped_steps": 0,
        "step_peak_bytes": memory,
        "forward_peak_bytes": {"host": 1 << 20, "device": None},
    }
    return FinishedRun(Summary.from_json(values), terms)


def test_the_table_has_means_spread_and_memory_and_the_best_first() -> None:
    rows = table([ended("a", 0.6, 10.0), ended("a", 0.7, 14.0, seed=1), ended("b", 0.9, 1.0)])
    assert [row["estimator"] for row in rows] == ["b", "a"]
    assert cells(rows[1]) == ["a", "65.0 ± 7.1", "62.5", "1,200", "10", "12", "3", "2", "2"]
    assert cells(rows[0])[1] == "90.0", "one run has no spread"
    assert markdown(rows).splitlines()[1].count("|") == markdown(rows).splitlines()[2].count("|")


def test_runs_that_differ_in_anything_but_the_seed_never_share_a_mean() -> None:
    runs = [ended("a", 0.5, 1.0, lr="1"), ended("a", 0.7, 1.0, seed=1, lr="1"), ended("a", 0.9, 1.0, lr="2")]
    rows = {row["label"]: row for row in table(runs)}
    assert {label: (row["runs"], row["score"]) for label, row in rows.items()} == {
        "a (lr 1)": (2, pytest.approx(0.6)),
        "a (lr 2)": (1, 0.9),
    }


def forgets(seed: int, **values: Any) -> FinishedRun:
    run = ended("a", 0.5, 1.0, seed=seed)
    known = {"general_loss_before": 3.0, "general_loss_after": 3.25, "general_kl": 0.5, "general_text": "sha256:1"}
    return replace(run, summary=replace(run.summary, **{**known, **values}))


def test_forgetting_has_columns_where_a_run_has_measured_it() -> None:
    other = ended("b", 0.25, 1.0)
    rows = table([forgets(0), forgets(1, general_loss_after=3.75), other])
    assert [rows[0][f"general_{name}"] for name in ("loss_before", "loss_after", "kl")] == [3.0, 3.5, 0.5]
    lines = markdown(rows).splitlines()
    assert lines[0].endswith("| general loss, nats | KL to the start, nats |")
    assert lines[2].endswith("| +0.5000 | 0.5 |")
    assert lines[3].endswith("| not measured | not measured |")
    assert "nats" not in markdown(table([other])), "nobody has asked for it"


@pytest.mark.parametrize("other", [{"general_text": "sha256:2"}, {"general_kl": None, "general_text": None}])
def test_forgetting_is_no_mean_over_other_texts_or_some_of_the_seeds(other: dict[str, Any]) -> None:
    [row] = table([forgets(0), forgets(1, **other)])
    assert (row["runs"], row["general_loss_after"], row["general_kl"]) == (2, None, None)


def test_a_seed_counts_once() -> None:
    [row] = table([ended("a", 0.5, 1.0), ended("a", 0.9, 1.0), ended("a", 0.7, 1.0, seed=1)])
    assert (row["runs"], row["score"]) == (2, pytest.approx(0.6))


def test_a_label_names_the_first_differences_and_how_many_there_are() -> None:
    one, other = {"estimator.rule.lr": "1", **dict.fromkeys("abcd", "x")}, {"estimator.rule.lr": "2", "a": "y"}
    assert labels("m", [one, other]) == ["m (rule.lr 1, a x, b x and 2 more)", "m (rule.lr 2, a y, b – and 2 more)"]
    assert labels("m", [one]) == ["m"]


def test_existing_runs_of_other_data_budgets_and_step_sizes_are_rows_of_their_own(zoplat: Any) -> None:
    """Three run directories that were once printed as one row of three runs."""
    common = ("run", "--device", "reference", "--estimator", "mezo", "--batch-size", 4, "--quiet")
    for name, more in {
        "a": ("--limit", 16, "--steps", 2),
        "b": ("--limit", 8, "--steps", 2),
        "c": ("--limit", 16, "--steps", 2, "--lr", 0.5),
        "d": ("--limit", 16, "--steps", 2, "--seed", 1),
    }.items():
        assert zoplat(*common, *more, "--out", name).exit_code == 0
    rows = json.loads(zoplat("compare", "a", "b", "c", "d", "--json").stdout)["rows"]
    assert sorted(row["runs"] for row in rows) == [1, 1, 2]
    labels_ = [row["label"] for row in rows]
    assert len(set(labels_)) == 3
    assert any("rule.lr 0.5" in label for label in labels_)
    assert any("train 8 rows" in label for label in labels_)


def test_a_task_file_is_one_task_wherever_it_was_given() -> None:
    runs = [ended("a", 0.5, 1.0), ended("a", 0.7, 1.0, seed=1), ended("b", 0.6, 1.0)]
    places = ["own.toml", "/data/own.toml", "/data/own.toml"]
    found = table(
        [replace(run, summary=replace(run.summary, task=place)) for run, place in zip(runs, places, strict=True)]
    )
    assert [(row["method"], row["task"], row["runs"]) for row in found] == [
        ("a", "own.toml", 2),
        ("b", "own.toml", 1),
    ]


def test_what_differs_between_existing_runs_and_which_are_not_counted_is_said(zoplat: Any) -> None:
    common = ("run", "--device", "reference", "--batch-size", 4, "--steps", 2, "--quiet")
    for name, more in {
        "a": ("mezo", "--limit", 16),
        "again": ("mezo", "--limit", 16),
        "b": ("lozo", "--limit", 8),
    }.items():
        assert zoplat(*common, "--estimator", *more, "--out", name).exit_code == 0
    done = zoplat("compare", "a", "again", "b")
    assert "Not the same for all methods of a task, beside their own settings: train, dev, test." in done.stdout
    assert "Not counted, as another run before has the same method, settings and seed: mezo, seed 0." in done.stdout
    assert len(json.loads(zoplat("compare", "a", "again", "b", "--json").stdout)["notes"]) == 2
    assert "Not " not in zoplat("compare", "a").stdout


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

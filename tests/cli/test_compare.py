"""zoplat compare: a matrix of runs and one table."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoplat.compare.table import cells, markdown, table
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


def summary(estimator: str, test: float, seconds: float) -> Summary:
    memory = {"host": 3 << 20, "device": None}
    values = {
        "estimator": estimator,
        "task": "t",
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
    return Summary.from_json(values)


def test_the_table_has_means_spread_and_memory_and_the_best_first() -> None:
    rows = table([summary("a", 0.6, 10.0), summary("a", 0.7, 14.0), summary("b", 0.9, 1.0)])
    assert [row["estimator"] for row in rows] == ["b", "a"]
    assert cells(rows[1]) == ["a", "65.0 ± 7.1", "62.5", "1,200", "10", "12", "3", "2", "2"]
    assert cells(rows[0])[1] == "90.0", "one run has no spread"
    assert markdown(rows).splitlines()[1].count("|") == markdown(rows).splitlines()[2].count("|")

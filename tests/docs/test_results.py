"""The pages of results are made from stored studies, and the default method is the one that they name everywhere."""

import re
from collections.abc import Sequence
from shutil import copy
from typing import Any

import pytest
from click.testing import CliRunner

from docs.results.pages import FOLDER, README, pages, recommended, stored
from zoplat.cli import main
from zoplat.config.defaults import ESTIMATOR, TRIED
from zoplat.config.layers import resolve
from zoplat.config.usual import recipes
from zoplat.report.study.reading import Study
from zoplat.report.study.runs import ReportedRun
from zoplat.report.study.stored import as_lines, compressed
from zoplat.training.summary import Summary

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
ROOT = FOLDER.parents[1]
MIB = 1 << 20
SCORES = {
    ("mezo", "sst2"): [0.80, 0.82, 0.84],
    ("mezo", "rte"): [0.60, 0.61, 0.59],
    ("lozo", "sst2"): [0.70, 0.71, 0.69],
    ("lozo", "rte"): [0.55, 0.54, 0.53],
    ("zo-sgd-sign", "sst2"): [0.50, 0.51, 0.49],
    ("adamw", "sst2"): [0.90, 0.91, 0.92],
    ("adamw", "rte"): [0.70, 0.71, 0.72],
    ("zero-shot", "sst2"): [0.5],
    ("zero-shot", "rte"): [0.5],
}


def runs(label: str, task: str, scores: Sequence[float]) -> list[ReportedRun]:
    is_trained = label != "zero-shot"
    above = 900 if label == "adamw" else 10
    facts: dict[str, Any] = {"metric": "accuracy", "model": "small", "tune": "lora", "steps": 100 * is_trained}
    facts |= {"forward_passes": 200, "seconds_training": 20.0}
    facts |= {"step_peak_bytes": {"host": (500 + above) * MIB}, "forward_peak_bytes": {"host": 500 * MIB}}
    terms = {"estimator.eps": "0.01", "estimator.rule.lr": "0.002", "estimator.rule.eps": "1e-8"} if is_trained else {}
    kept = [{"step": step, "split": "dev", "score": 0.5, "passes": 2 * step} for step in (0, 100)]
    return [
        ReportedRun(
            Summary.from_json({"estimator": label, "task": task, "seed": seed, "test_after": score, **facts}),
            terms,
            metrics=kept if is_trained else (),
            phases=[{"phase": "gradient"}] if label == "adamw" else (),
        )
        for seed, score in enumerate(scores)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages that are made from a study of invented scores, by their paths in the folder of results."""
    folder = tmp_path_factory.mktemp("root") / "docs" / "results"
    folder.mkdir(parents=True)
    for path in FOLDER.glob("*.md"):
        copy(path, folder)
    copy(README, folder.parents[1])
    trial = {"dev": 0.8, "passes": 200, "settings": {"rule.lr": 0.002}}
    chosen = {"label": "mezo", "task": "sst2", "dev": 0.81, "settings": {"rule.lr": 0.002, "queries": 4}}
    failed = {"estimator": "zo-sgd-sign", "task": "rte", "seed": 0, "reason": "it broke", "trial": None}
    own = Study.of(
        [run for (label, task), scores in SCORES.items() for run in runs(label, task, scores)],
        failed=[failed],
        chosen=[{**chosen, "trials": [trial] * 3}],
        ended="2026-11-28",
    )
    (folder / "small.jsonl.gz").write_bytes(compressed(as_lines(own)))
    listed = '[[study]]\nfile = "small.jsonl.gz"\ntitle = "A small study"\ncut = "two tasks of six"\n'
    (folder / "studies.toml").write_text(listed)
    found = pages(folder, folder.parents[1] / "README.md")
    return {str(path.relative_to(folder.parents[1])): text for path, text in found.items()}


def test_the_main_table_has_scores_with_intervals_costs_and_settings(made: dict[str, str]) -> None:
    page = made["docs/results/README.md"]
    mezo = next(line for line in page.splitlines() if line.startswith("| mezo | 82.0"))
    assert mezo.startswith("| mezo | 82.0 (77.0 to 87.0) | 60.0 (57.5 to 62.5) | 71.0 | 70.7 (")
    assert mezo.endswith(") | 200 | 20 | 510 | 10 |")
    assert "| adamw | 91.0 (88.5 to 93.5) | 71.0 (68.5 to 73.5) | 81.0 |" in page
    assert "| zero-shot | 50.0 | 50.0 | 50.0 | 50.0 |  |  |  |  |" in page
    assert "| mezo | sst2 | 0.002 | 0.01 | queries 4 | 81.0 | 3 |" in page
    assert "What was cut: two tasks of six" in page
    assert "zoplat report docs/results/small.jsonl.gz --to small.toml" in page
    assert "[A small study](small/README.md)" in page


def test_what_is_missing_is_empty_with_the_reason(made: dict[str, str]) -> None:
    page = made["docs/results/README.md"]
    assert "| zo-sgd-sign | 50.0 (47.5 to 52.5) |  |  |  | 200 |" in page
    assert "`zo-sgd-sign` on rte, seed 0, failed: it broke" in page
    assert "costs of zero-shot: the model is scored without training" in page


def test_each_study_has_a_page_with_its_figures(made: dict[str, str]) -> None:
    page = made["docs/results/small/README.md"]
    assert page.startswith("<!-- Made by `python docs/generate.py`")
    for name in re.findall(r"\]\((report-[\w-]+\.svg)\)", page):
        assert made[f"docs/results/small/{name}"].startswith("<?xml")
    assert "## Learning" in page
    assert "## Predictions" not in page


def test_which_method_says_what_is_best_and_what_the_default_is(made: dict[str, str]) -> None:
    page = made["docs/results/which-method.md"]
    assert "By score, at equal passes (200 a run): mezo, 71.0 % over 2 tasks." in page
    assert "Left out, for want of scores on some task: zo-sgd-sign." in page
    best = "the best by score" if ESTIMATOR == "mezo" else "although `mezo` is better by these runs"
    assert f"`zoplat run` without `--estimator` takes `{ESTIMATOR}`, {best}." in page


def test_published_cells_stand_beside_ours_and_none_is_invented(made: dict[str, str]) -> None:
    page = made["docs/results/published.md"]
    assert "| mezo | 91.4 | 82.0 (77.0 to 87.0) | 66.1 | 60.0 (57.5 to 62.5) | 63.5 |  | 61.1 |  |" in page
    assert "ours on wsc, wic: no stored study has them; ours of hizoo: in no stored study." in page
    bench = page.partition("## ZO-Bench")[2]
    signs = next(line for line in bench.splitlines() if line.startswith("| zo-sgd-sign |"))
    assert signs == f"| zo-sgd-sign |{'  |' * 8}  | 50.0 (47.5 to 52.5) |  |  |"
    assert "left empty" in bench


def test_the_front_page_has_scores_and_memory_beside_backpropagation(made: dict[str, str]) -> None:
    page = made["README.md"]
    assert "| adamw (backpropagation) | 91.0 | 71.0 | 81.0 | 900 |" in page
    assert "| mezo | 82.0 | 60.0 | 71.0 | 10 |" in page
    assert "| zero-shot | 50.0 | 50.0 | 50.0 |  |" in page
    assert "1 more method is in the results." in page


def test_the_default_is_one_and_the_same_in_code_help_and_docs() -> None:
    assert resolve({}).estimator_name == ESTIMATOR
    assert ESTIMATOR in recipes()["estimator"], "the packaged task has settings for it"
    for command in ("run", "profile", "plan"):
        text = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert f"[default: {ESTIMATOR}]" in text, command
    assert f"[default: {','.join(TRIED)}]" in " ".join(CliRunner().invoke(main, ["poc", "--help"]).output.split())
    page = (FOLDER / "which-method.md").read_text(encoding="utf-8")
    assert f"`zoplat run` without `--estimator` takes `{ESTIMATOR}`" in page
    commands = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert {*re.findall(r"zoplat list estimators`\.\s+\[default: ([\w-]+)\]", commands)} == {ESTIMATOR}


@pytest.mark.parametrize("main_study", stored()[:1], ids=lambda one: one.name)
def test_the_default_is_recommended_by_the_first_stored_study(main_study: Any) -> None:
    names = recommended(main_study.study)
    assert ESTIMATOR in names, f"set zoplat/config/defaults.py: {names[0]} is the best, and {ESTIMATOR} is worse"


def test_stored_studies_name_no_place_on_somebodys_machine() -> None:
    for one in stored():
        assert not re.search(r'"/(?:home|Users|root|work|tmp|mnt)/', as_lines(one.study))

"""`zoplat report` of a comparison: what is on the page is in the runs, and the formats agree."""

import csv
import json
import re
from pathlib import Path
from shutil import copytree
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import zoplat
from zoplat.cli import main
from zoplat.comparison.statistics import Interval
from zoplat.report.pages import Rows
from zoplat.report.report import write
from zoplat.report.study.scores import between

from .conftest import METHODS, SEEDS, SHORT, TASKS

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")


def report(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def summaries(study: Path, task: str, method: str) -> list[dict[str, Any]]:
    return [json.loads((study / task / f"{method}-{seed}" / "summary.json").read_text()) for seed in SEEDS]


def table(text: str, first: str) -> list[list[str]]:
    """The Markdown tables with this first heading, below each other."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        inside = line.startswith("|") and (inside or line.startswith(f"| {first} |"))
        if inside and not line.startswith("| ---"):
            rows.append(cells)
    return rows


def test_scores_of_the_page_are_means_of_the_runs(study: Path, page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    lines = [cells for cells in table(text, "method | test accuracy, %") if cells[0] in METHODS]
    assert len(lines) == len(METHODS) * len(TASKS)
    for number, cells in enumerate(lines):
        own = summaries(study, TASKS[::-1][number // len(METHODS)], cells[0])
        assert cells[1] == f"{100 * fmean(one['test_after'] for one in own):.1f}"
        assert cells[3] == f"{100 * fmean(one['test_after'] - one['test_before'] for one in own):+.1f}"
        assert cells[5] == f"{fmean(one['forward_passes'] for one in own):,.0f}"
        assert cells[8] == "3", "the trial of a search is no seed"


def test_every_section_is_there_and_says_what_it_shows(page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == [
        *(
            "Scores",
            "Which to take",
            "Against mezo",
            "Learning",
            "Profiles",
            "Score and memory",
            "Memory",
            "Forgetting",
        ),
        *("Costs", "Settings", "Predictions", "Doing it again", "Environment"),
    ]
    assert "Lines are means over 3 seeds, and bands go from the lowest to the highest seed" in text
    assert "generator seed 0" in text
    assert "was not measured in these runs" in text, "no run trained LoRA by backpropagation"
    assert "forward passes" in text
    assert "zoplat compare …" in text
    assert text.count("zoplat run --config") == len(METHODS) * len(TASKS) * len(SEEDS)
    assert "| es | sst2 | 0 | it &lt;b&gt;broke&lt;/b&gt; |" in text
    assert "Failed, and in no mean: 1 run." in text
    assert "Not finished" not in text


def test_chosen_settings_and_all_trials_are_shown(page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    assert "| mezo | rule.lr 0.02 | 75.0 | 2 | 15 |" in text
    assert "| mezo | rule.lr 123 | – | not finite |" in text


def test_predictions_of_the_first_rows_are_those_of_the_runs(study: Path, page: Path) -> None:
    text = page.with_suffix(".md").read_text()
    lines = [cells for cells in table(text, "end of the prompt") if cells[0] != "end of the prompt"]
    assert len(lines) == 20
    assert all(cell[-1] in "✓✗" for cells in lines for cell in cells[2:])
    first = json.loads((study / "rte" / "mezo-0" / "predictions.jsonl").read_text().splitlines()[0])
    assert lines[0][1] == first["shown"][0][1]
    assert lines[0][2] == f"{first['texts'][first['predicted'][0]]} {'✗✓'[int(first['right'][0])]}"


def test_the_page_loads_nothing_and_its_figures_are_well_formed(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < 2_000_000
    assert not re.search(r"https?:|<(script [^>]|link|img|iframe|object)\b|\bsrc=|@import", text)
    known = re.findall(r'\bid="([^"]*)"', text)
    assert len(known) == len(set(known))
    assert {*re.findall(r'href="#([^"]*)"', text), *re.findall(r"url\(#([^)]*)\)", text)} <= {*known}
    figures = sorted(page.parent.glob("*.svg"))
    assert len(figures) == 7
    for path in figures:
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
    labels = re.findall(r'<svg class="\w+" role="img" aria-label="([^"]*)"', text)
    assert len(labels) == 2 * len(figures), "each is drawn for a page and for a telephone"
    assert all(len(label) > 40 for label in labels)


def test_the_same_runs_make_the_same_bytes(study: Path, tmp_path: Path) -> None:
    runs = [study / "sst2" / name for name in ("mezo-0", "mezo-1", "lozo-0")]
    [first], [second] = (write(runs, tmp_path / f"{number}.html") for number in range(2))
    assert first.read_text() == second.read_text()


def test_data_has_a_row_for_each_run(study: Path, page: Path, tmp_path: Path) -> None:
    with page.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(METHODS) * len(TASKS) * len(SEEDS)
    for row in rows:
        own = json.loads(Path(row["run_dir"], "summary.json").read_text())
        assert float(row["test_after"]) == own["test_after"]
        assert int(row["step_peak_bytes.host"]) == own["step_peak_bytes"]["host"]
        assert row["setting.estimator.name"] == own["estimator"]
    parquet = pytest.importorskip("pyarrow.parquet")
    [path] = write([study], tmp_path / "runs.parquet")
    read = parquet.read_table(path).to_pylist()
    assert [row["test_after"] for row in read] == [float(row["test_after"]) for row in rows]
    assert read[0].keys() == rows[0].keys()


def test_latex_has_a_booktabs_table_for_each_task(study: Path, page: Path) -> None:
    text = page.with_suffix(".tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\bottomrule") == len(TASKS)
    assert not re.search(r"(?<!\\)[%&#_](?! |Needs)", re.sub(r"^%.*$| & ", "", text, flags=re.MULTILINE))
    for task in TASKS:
        for method in METHODS:
            score = 100 * fmean(one["test_after"] for one in summaries(study, task, method))
            assert f"{method} & {score:.1f} & " in text


def test_several_run_directories_are_a_comparison_and_never_merged_when_they_differ(
    study: Path, tmp_path: Path
) -> None:
    copy, data = tmp_path / "other", study.parent / "data" / "sst2"
    zoplat.run(estimator="mezo", task="sst2", data=data, seed=1, out=copy, **{**SHORT, "lr": 0.5})
    done = report(study / "sst2" / "mezo-0", copy, "--to", tmp_path / "page.md")
    assert done.exit_code == 0, done.output
    assert done.output.split()[0] == str(tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| mezo (rule.lr 0.02) |" in text
    assert "| mezo (rule.lr 0.5) |" in text


def test_one_run_directory_in_a_list_form_is_the_report_of_a_run(study: Path, tmp_path: Path) -> None:
    write([study / "sst2" / "mezo-0"], tmp_path, ("md", "csv"))
    assert "# mezo on sst2" in (tmp_path / "report.md").read_text()
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 2


def test_a_study_says_which_runs_count_what_they_are_called_and_which_broke_its_terms(
    study: Path, tmp_path: Path
) -> None:
    """As `comparison.json` of a study has it; what else is in the folder does not count."""
    copytree(study / "sst2", folder := tmp_path / "study")
    (begun := folder / "lozo-3").mkdir()
    (begun / "config.toml").write_text("")
    runs = [{"directory": f"mezo-{seed}", "label": "mezo+gaussian"} for seed in SEEDS]
    runs += [{"directory": f"lozo-{seed}", "label": "lozo"} for seed in SEEDS[:2]]
    broke = {"estimator": "lozo", "task": "sst2", "seed": 2, "directory": "lozo-2", "reason": "looked at test rows"}
    (folder / "comparison.json").write_text(json.dumps({"runs": runs, "violations": [broke]}))
    (folder / "study.toml").write_text("")
    write([folder], tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert f"zoplat compare --config {folder}/study.toml --out {folder}-again" in text
    assert {cells[0]: cells[8] for cells in table(text, "method | test accuracy, %") if cells[0] != "method"} == {
        "mezo+gaussian": "3",
        "lozo": "2",
    }
    assert "## Against mezo+gaussian" in text
    assert "Broke the terms of the comparison, and in no mean: 1 run." in text
    assert "| lozo | sst2 | 2 | looked at test rows |" in text
    assert "Not finished, and in no mean: 1 run." in text


def test_several_tasks_begin_with_a_grid(study: Path, page: Path) -> None:
    lines = table(page.with_suffix(".md").read_text(), "method | rte, % | sst2, % | mean, %")[1:]
    assert len(lines) == len(METHODS)
    for label, *scores in lines:
        means = [fmean(one["test_after"] for one in summaries(study, task, label)) for task in ("rte", "sst2")]
        assert scores == [f"{100 * value:.1f}" for value in (*means, fmean(means))]
    assert [float(cells[3]) for cells in lines] == sorted((float(cells[3]) for cells in lines), reverse=True)


def test_without_a_gain_there_is_no_target(study: Path, tmp_path: Path) -> None:
    copytree(study / "sst2" / "mezo-0", run := tmp_path / "runs" / "mezo-0")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps({**line, "score": 0.5}) + "\n" for line in lines))
    write([tmp_path / "runs"], tmp_path / "p.md")
    text = (tmp_path / "p.md").read_text()
    assert "No method gained on dev" in text
    assert "| method | dev at 12 passes |" in text


def test_another_baseline_and_target(study: Path, tmp_path: Path) -> None:
    done = report(study / "sst2", "--to", tmp_path / "p.md", "--baseline", "lozo", "--target", 0.9)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "p.md").read_text()
    assert "## Against lozo" in text
    assert "P(better than lozo)" in text
    assert "passes to 90.0 %" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere is neither a run directory nor a folder with finished runs"),
        (("{study}", "--format", "html,pdf"), "none of html, md, csv, parquet, tex"),
        (("{study}", "--format", ","), "none of html"),
        (("{study}", "--baseline", "mezzo"), "Did you mean 'mezo'?  (--baseline takes one of: "),
    ],
)
def test_what_can_not_be_is_refused(study: Path, arguments: tuple[str, ...], words: str) -> None:
    done = report(*(text.format(study=study) for text in arguments))
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert not (study / "report.html").exists()


def test_runs_without_predictions_or_seconds_are_reported_all_the_same(study: Path, tmp_path: Path) -> None:
    """As an earlier version left them; and a model that was scored without training."""
    for seed in (0, 1):
        copytree(study / "sst2" / f"mezo-{seed}", old := tmp_path / "runs" / f"mezo-{seed}")
        (old / "predictions.jsonl").unlink()
        records = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
        lines = [{key: value for key, value in one.items() if key != "seconds_training"} for one in records]
        (old / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = tmp_path / "runs" / "zero-shot-0"
    scored.mkdir()
    (scored / "config.toml").write_text((tmp_path / "runs/mezo-0/config.toml").read_text())
    own = json.loads((tmp_path / "runs/mezo-0/summary.json").read_text())
    summary = {key: own[key] for key in ("status", "task", "metric", "model", "seed")}
    (scored / "summary.json").write_text(
        json.dumps({**summary, "estimator": "zero-shot", "test_after": 0.5, "steps": 0, "forward_passes": 0})
    )
    write([tmp_path / "runs"], tmp_path / "old.md")
    text = (tmp_path / "old.md").read_text()
    assert "| zero-shot | 50.0 | – | – | – | 0 | – | – | 1 |" in text
    assert "Not kept: these runs were made by a version" in text
    assert "kept no predictions" in text
    assert "kept no seconds" in text


def test_a_damaged_comparison_is_no_traceback(study: Path, tmp_path: Path) -> None:
    copytree(study / "sst2", tmp_path / "study")
    (tmp_path / "study" / "comparison.json").write_text("{")
    done = report(tmp_path / "study")
    assert done.exit_code == 2
    assert "comparison.json is damaged" in done.output


def test_labels_with_markup_are_text(study: Path, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)> $x$ \\input | `a`"
    for seed in (0, 1):
        copytree(study / "sst2" / f"mezo-{seed}", run := tmp_path / "runs" / f"mezo-{seed}")
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "estimator": evil, "model": evil, "metric": evil}))
    write([tmp_path / "runs"], tmp_path, ("html", "md", "tex"))
    assert "<img" not in (tmp_path / "report.html").read_text()
    assert "<img" not in (tmp_path / "report.md").read_text()
    assert r"\textbackslash{}input" in (tmp_path / "report.tex").read_text()


def test_one_method_alone_has_nothing_to_be_compared_with(study: Path, tmp_path: Path) -> None:
    write([study / "sst2" / "mezo-0", study / "sst2" / "mezo-1"], tmp_path / "one.md")
    assert "fewer than two methods have scores on every task" in (tmp_path / "one.md").read_text()


def test_intervals_are_cut_to_what_can_be() -> None:
    assert between(None) == "–"
    assert between(Interval(-0.2, 1.3)) == "0.0 to 100.0"
    assert between(Interval(-0.2, 0.1), lowest=-1.0) == "-20.0 to 10.0"
    assert between(Interval(0.7, 0.7)) == "no spread"
    assert between(Interval(1.0, 1.0), scale=1) == "1.00 to 1.00"


def test_a_constant_column_is_left_out() -> None:
    rows = Rows(("method", "task", "x"), [["a", "t", "1"], ["b", "t", "2"]], words=2)
    assert rows.without_constant("task") == Rows(["method", "x"], [["a", "1"], ["b", "2"]], words=1)
    assert rows.without_constant("method") is rows

"""`zoplat report`: the content of the pages comes from the files of the run, and the HTML page is self-contained."""

import json
import re
import sys
from pathlib import Path
from shutil import copytree
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import zoplat
from zoplat.cli import main
from zoplat.report.report import write

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("runs") / "toy"
    zoplat.run(device="reference", estimator="lozo", steps=40, lr=0.02, eps=0.01, limit=40, out=out)
    return out


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    files = write([run], tmp_path_factory.mktemp("pages"))
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def test_the_command_writes_both_pages_and_names_them(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(run), "--to", str(tmp_path / "pages")])
    assert done.exit_code == 0, done.output
    named = [Path(line) for line in done.output.split()]
    assert {path.name for path in named} >= {"report.html", "report.md", "report-learning.svg", "report-memory.svg"}
    assert all(path.stat().st_size > 0 for path in named)


def test_the_page_refers_to_nothing_outside_itself(pages: dict[str, str]) -> None:
    page = pages["report.html"]
    assert not re.search(r"https?:", page)
    assert not re.search(r"<(script [^>]|link|img|iframe|object)\b|\bsrc=|@import", page)
    assert "default-src 'none'" in page
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_references_inside_the_figures_have_targets(pages: dict[str, str]) -> None:
    page = pages["report.html"]
    known = re.findall(r'\bid="([^"]*)"', page)
    used = {*re.findall(r'href="#([^"]*)"', page), *re.findall(r"url\(#([^)]*)\)", page)}
    assert used <= set(known)
    assert all(known.count(name) == 1 for name in used)


def test_figures_are_well_formed_and_named_in_the_markdown(pages: dict[str, str]) -> None:
    for name in ("report-learning.svg", "report-memory.svg"):
        assert ElementTree.fromstring(pages[name]).tag.endswith("svg")
        assert f"]({name})" in pages["report.md"]


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_page_has_scores_cost_digest_settings_and_the_command(
    name: str, pages: dict[str, str], summary: dict[str, Any], run: Path
) -> None:
    page = pages[name]
    for key in ("dev_before", "dev_after", "test_before", "test_after"):
        assert f"{summary[key]:.1%}" in page
    assert summary["weights_digest"] in page
    assert f"zoplat run --config {run}/config.toml --out {run}-again" in page
    assert f"{summary['seconds_training']:,.1f}" in page
    assert f"{summary['overhead_ratio']:.2f}" in page
    assert str(summary["passes_over_weights"]) in page
    assert "interval = 50" in page
    assert "numpy" in page
    for phase in ("forward", "move", "evaluate", "checkpoint"):
        assert phase in page


def test_memory_is_listed_by_owner_with_the_rest(pages: dict[str, str]) -> None:
    text = pages["report.md"]
    assert "inference peaked at" in text
    assert "no more than inference" in text or "of scratch" in text
    for owner in ("weights", "scratch"):
        assert owner in pages["report-memory.svg"]


@pytest.mark.parametrize(
    ("baseline", "inference", "more"), [(None, 400, "120 MiB more, or 30.0%"), (450, 450, "70 MiB more, or 15.6%")]
)
def test_an_accelerator_has_its_own_figure_and_sentence(
    baseline: int | None, inference: int, more: str, run: Path, tmp_path: Path
) -> None:
    """A run on the CPU, with the memory readings of an accelerator added."""
    copy = tmp_path / "copy"
    copytree(run, copy)
    rows = [json.loads(line) for line in (copy / "memory.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("phase") != "baseline"]
    if baseline:
        rows.append({"kind": "phase", "phase": "baseline", "seconds": 1.0, "calls": 2, "host_peak": 2**20})
    peaks = {"inference": 400, "baseline": baseline, "forward": 520}
    for row in rows:
        if row["kind"] == "phase":
            row["device_peak"] = peaks.get(row["phase"], 300) * 2**20
    (copy / "memory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((copy / "summary.json").read_text())
    summary["peak_bytes"]["device"] = 520 * 2**20
    (copy / "summary.json").write_text(json.dumps(summary))
    files = {path.name: path.read_text(encoding="utf-8") for path in write([copy], tmp_path / "pages")}
    text = files["report.md"]
    assert f"peaked at {inference} MiB of device memory and training at 520 MiB (phase `forward`)" in text
    assert more in text
    assert ("| baseline | scoring both splits" in text) == bool(baseline)
    assert "of host memory" in text
    assert {"report-memory.svg", "report-memory-host.svg"} <= files.keys()


def test_every_evaluation_is_a_point_of_the_curve(pages: dict[str, str], run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [record["score"] for record in records if record["split"] == "dev"]
    assert len(scores) == 5
    for score in scores:
        assert f"{100 * score:.1f}" in pages["report-learning.svg"]


def test_the_same_run_makes_the_same_bytes(run: Path, pages: dict[str, str], tmp_path: Path) -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in write([run], tmp_path)} == pages


def test_an_unfinished_run_is_refused_with_what_to_do(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.toml", "environment.json", "journal.jsonl", "metrics.jsonl"):
        (half / name).write_bytes((run / name).read_bytes())
    done = CliRunner().invoke(main, ["report", str(half)])
    assert done.exit_code == 2
    assert "not finished" in done.output
    assert f"zoplat run --resume --out {half}" in done.output
    assert not (half / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "neither a run directory nor" in done.output


def test_missing_matplotlib_is_explained_with_the_command_that_installs_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(main, ["report", str(run), "--to", str(tmp_path / "pages")])
    assert done.exit_code == 2
    assert "pip install matplotlib" in done.output
    assert not (tmp_path / "pages").exists()

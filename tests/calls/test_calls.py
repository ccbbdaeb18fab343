"""`zoplat.run`, `compare`, `plan` and `check`: the same as the commands, with results that can be read on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import zoplat
from zoplat.cli import main
from zoplat.errors import Interrupted, RunFailed, ZoplatError

TOY: dict[str, Any] = {"device": "reference", "steps": 4, "evaluate_every": 2, "batch_size": 4, "limit": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> zoplat.RunResult:
    """A run of four steps, whose folder has a name that HTML must not read."""
    return zoplat.run(estimator="mezo", lr=1e-3, out=tmp_path_factory.mktemp("runs") / "<run>", **TOY)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> zoplat.ComparisonResult:
    """Two methods, one with a setting of its own."""
    names = {"mezo": {}, "lozo": {"sampler": {"rank": 3}}}
    return zoplat.compare(estimators=names, out=tmp_path_factory.mktemp("studies") / "two", jobs=2, **TOY)


def test_the_history_of_a_run_is_a_frame(made: zoplat.RunResult) -> None:
    pytest.importorskip("pandas")
    frame = made.history()
    assert [*frame.index] == [0, 1, 2, 3, 4]
    assert frame.index.name == "step"
    assert [*frame.columns] == ["loss", "lr", "dev", "test"]
    assert frame["loss"].notna().tolist() == [False, True, True, True, True]
    assert frame["dev"].notna().tolist() == [True, False, True, False, True]
    assert frame["test"].loc[4] == made.score
    assert (frame["lr"].loc[1:] == 1e-3).all()


def test_a_notebook_shows_a_run_as_a_report_in_brief(made: zoplat.RunResult) -> None:
    pytest.importorskip("matplotlib")
    page = made._repr_html_()
    assert "&lt;run&gt;" in page
    assert "<run>" not in page
    assert f"<b>{made.score:.1%}</b>" in page
    assert page.count("<svg") == 2
    assert "Bars of host memory" in page
    assert "<html" not in page


def test_a_run_whose_files_are_gone_is_still_shown(tmp_path: Path, made: zoplat.RunResult) -> None:
    page = zoplat.RunResult(made.summary, tmp_path / "gone")._repr_html_()
    assert f"{made.score:.1%}" in page
    assert "is not finished" in page


def test_styles_of_a_report_in_a_notebook_hold_inside_of_it_alone(made: zoplat.RunResult) -> None:
    style = made._repr_html_().partition("<style>")[2].partition("</style>")[0]
    depth, outside = 0, ""
    for letter in style:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        outside += letter if depth == 0 else ""
    selectors = [words for words in outside.replace("}", "\n").splitlines() if words.strip()]
    assert selectors
    assert all(".zoplat-report" in words or "@media" in words for words in selectors)


def test_nothing_is_printed_unless_it_is_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    zoplat.run(estimator="mezo", out=tmp_path / "quiet", **TOY)
    assert capfd.readouterr() == ("", "")
    zoplat.run(estimator="mezo", out=tmp_path / "loud", progress=True, **TOY)
    assert "step 4: dev accuracy" in capfd.readouterr().out


def test_ctrl_c_leaves_a_run_that_the_named_call_goes_on_with(tmp_path: Path) -> None:
    class Impatient(zoplat.Callback):
        def stepped(self, progress: Any, loss: float | None) -> None:
            if progress.step == 3:
                raise KeyboardInterrupt

    out = tmp_path / "cut"
    with pytest.raises(Interrupted, match="what was done is saved") as caught:
        zoplat.run(estimator="mezo", out=out, callback=Impatient(), **TOY)
    call = str(caught.value).partition("Go on with: ")[2]
    resumed: zoplat.RunResult = eval(call, {"zoplat": zoplat})
    whole = zoplat.run(estimator="mezo", out=tmp_path / "whole", **TOY)
    assert resumed.summary.weights_digest == whole.summary.weights_digest


def test_mistakes_are_exceptions_with_the_status_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(ZoplatError, match="Did you mean 'mezo'") as caught:
        zoplat.run(estimator="mezzo")
    assert caught.value.exit_status == 2
    with pytest.raises(ZoplatError, match="callback must be"):
        zoplat.run(callback=print)  # type: ignore[arg-type]
    with pytest.raises(ZoplatError, match="--memory"):
        zoplat.plan(memory="eight")


@pytest.fixture
def planned(small_model: Any, capfd: pytest.CaptureFixture[str]) -> tuple[zoplat.PlanResult, str]:
    """A plan of the smallest model, and the model; nothing is printed."""
    model = str(small_model())
    found = zoplat.plan(model=model, task="sst2", device="cpu", estimator="mezo", memory="4GiB", tokens=12, alone=True)
    assert capfd.readouterr().out == ""
    return found, model


def test_a_plan_is_that_of_the_command(planned: tuple[zoplat.PlanResult, str]) -> None:
    found, model = planned
    flags = ["--task=sst2", "--device=cpu", "--estimator=mezo", "--memory=4GiB", "--tokens=12", "--alone"]
    done = CliRunner().invoke(main, ["plan", f"--model={model}", "--json", *flags])
    assert done.exit_code == 0
    assert found.verdict == "fits"
    printed, same = json.loads(done.stdout), json.loads(json.dumps(found.plan.to_json()))
    assert printed.keys() == same.keys()
    assert [{**mode, "bytes": 0, "owners": 0} for mode in printed["modes"]] == [
        {**mode, "bytes": 0, "owners": 0} for mode in same["modes"]
    ]


def test_a_plan_is_frames_and_a_page(planned: tuple[zoplat.PlanResult, str]) -> None:
    pytest.importorskip("pandas")
    found, _ = planned
    table = found.table()
    assert table["verdict"].iloc[0] == found.verdict
    assert table["high"].iloc[0] == found.bytes.high == found.owners()["high"].sum()
    page = found._repr_html_()
    assert "a limit of 4.00 GiB" in page
    assert all(owner.owner in page for owner in found.asked.shares if owner.high > 1 << 20)


def test_a_comparison_is_that_of_the_command(compared: zoplat.ComparisonResult) -> None:
    assert compared.directory is not None
    assert compared.failed == compared.violations == []
    written = json.loads((compared.directory / "comparison.json").read_text())
    assert written["rows"] == compared.rows
    assert {row["method"] for row in compared.rows} == {"mezo", "lozo"}
    assert "rank = 3" in (compared.directory / "lozo-0" / "config.toml").read_text()
    assert compared.markdown() == (compared.directory / "comparison.md").read_text()


def test_a_comparison_is_frames_and_a_page(compared: zoplat.ComparisonResult) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    table, history = compared.table(), compared.history()
    assert [*table["score"]] == [row["score"] for row in compared.rows]
    assert history.loc["lozo-0"]["loss"].notna().sum() == 4
    assert {run for run, _ in history.index} == {"mezo-0", "lozo-0"}
    page = compared._repr_html_()
    assert "mezo" in page
    assert "<svg" in page
    assert str(compared.directory) in page


def test_runs_that_are_there_are_compared_without_running_anything(compared: zoplat.ComparisonResult) -> None:
    again = zoplat.compare(*compared.runs)
    assert again.directory is None
    assert [row["score"] for row in again.rows] == [row["score"] for row in compared.rows]
    assert "lozo" in again._repr_html_()
    assert again.history().index.nlevels == 2


def test_the_same_call_again_runs_nothing(compared: zoplat.ComparisonResult) -> None:
    said: list[str] = []
    again = zoplat.compare(join=compared.directory, progress=said.append)
    assert said == []
    assert again.rows == compared.rows


def test_runs_that_failed_are_in_the_result(tmp_path: Path) -> None:
    found = zoplat.compare(estimators="mezo", out=tmp_path / "bad", **{**TOY, "task": str(failing_task(tmp_path))})
    assert [run.estimator for run in found.failed] == ["mezo"]
    assert found.rows == []
    with pytest.raises(RunFailed, match="No run of the comparison has ended well"):
        found.table()
    assert "mezo" in found._repr_html_()


def failing_task(folder: Path) -> Path:
    """A task whose metric is a program that fails."""
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}] * 4
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "task.toml"
    path.write_text('template = "{text} It was"\noptions = [" bad", " good"]\nmetric = "command:false"\n')
    return path


def test_a_value_as_a_method_of_a_comparison_is_refused_with_the_way_round(tmp_path: Path) -> None:
    values: Sequence[Any] = [object()]
    with pytest.raises(ZoplatError, match=r"takes names.*plugin='FILE.py'"):
        zoplat.compare(estimators=values, out=tmp_path / "values")


def test_a_file_is_checked_and_its_failing_property_is_named() -> None:
    pytest.importorskip("pandas")
    wrong = Path(__file__).parents[1] / "contracts" / "wrong"
    found = zoplat.check(str(next(iter(sorted(wrong.glob("*.py"))))))
    table = found.table()
    assert not found.has_held
    assert "failed" in set(table["outcome"])
    assert zoplat.check("constant", only="constant").has_held


def test_without_pandas_the_message_says_what_to_install(
    made: zoplat.RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ZoplatError, match="pip install pandas"):
        made.history()


def test_a_result_needs_pandas_only_when_a_frame_is_asked_for() -> None:
    code = "import sys, zoplat; zoplat.run, zoplat.compare, zoplat.plan; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_copied_comparison_is_read_where_it_lies(compared: zoplat.ComparisonResult, tmp_path: Path) -> None:
    shutil.copytree(str(compared.directory), tmp_path / "moved")
    again = zoplat.compare(join=tmp_path / "moved")
    assert {path.parent for path in again.runs} == {tmp_path / "moved"}

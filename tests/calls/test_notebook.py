"""docs/tutorial/notebook.ipynb, executed from top to bottom, and what a notebook shows."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "notebook.ipynb"
CUT = """
class Impatient(zoplat.Callback):
    def stepped(self, progress, loss):
        if progress.step == 2:
            raise KeyboardInterrupt

zoplat.run(estimator="mezo", out="runs/cut", callback=Impatient(), **toy)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Source of each cell of code → its outputs; one more cell interrupts a run."""
    nbformat, nbclient, _ = (pytest.importorskip(name) for name in ("nbformat", "nbclient", "ipykernel"))
    book = nbformat.read(PAGE, as_version=4)
    nbformat.validate(book)
    book.cells.append(nbformat.v4.new_code_cell(CUT, metadata={"tags": ["raises-exception"]}))
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    return {cell.source: cell.outputs for cell in book.cells if cell.cell_type == "code"}


def result(cells: dict[str, list[Any]], words: str) -> Any:
    """The data of the last output of the cell that has these words."""
    [outputs] = [found for source, found in cells.items() if words in source]
    return outputs[-1].data


def test_no_outputs_are_stored() -> None:
    cells = json.loads(PAGE.read_text())["cells"]
    assert len(cells) > 10
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.slow
def test_results_are_reports(cells: dict[str, list[Any]]) -> None:
    run, plan, compared = (result(cells, f"{name} = zoplat.") for name in ("result", "plan", "compared"))
    for shown in (run, plan, compared):
        assert 'class="zoplat-report"' in shown["text/html"]
    assert run["text/html"].count("<svg") == 2
    assert "GeForce RTX 3060" in plan["text/html"]
    assert "backpropagation, AdamW, all weights" in plan["text/html"]
    assert "Each method ran with 2 seeds" in compared["text/html"]


@pytest.mark.slow
def test_progress_is_one_bar_that_is_changed_in_place(cells: dict[str, list[Any]]) -> None:
    [outputs] = [found for source, found in cells.items() if "result = zoplat.run(" in source]
    bars = [one.data["text/plain"] for one in outputs if one.output_type == "display_data"]
    assert len(bars) == 1
    assert "120/120 steps" in bars[0]


@pytest.mark.slow
def test_the_own_estimator_learns_and_its_run_goes_on(cells: dict[str, list[Any]]) -> None:
    assert "local.Steepest" in result(cells, "own = zoplat.run")["text/html"]
    assert result(cells, "resume=True")["text/plain"] == "150"


@pytest.mark.slow
def test_the_callback_ends_its_run(cells: dict[str, list[Any]]) -> None:
    steps, reason = eval(result(cells, "class Enough")["text/plain"])
    assert 20 <= steps < 120
    assert reason.startswith("the mean loss of 20 steps is 0.6")


@pytest.mark.slow
def test_the_loop_learns_and_is_replayed(cells: dict[str, list[Any]]) -> None:
    first, last = eval(result(cells, "optimizer = ZerothOrder")["text/plain"])
    assert last < first / 10
    assert result(cells, "again.replay")["text/plain"] == "(200, True)"


@pytest.mark.slow
def test_an_interrupted_cell_says_which_call_goes_on(cells: dict[str, list[Any]]) -> None:
    stop = cells[CUT][-1]
    assert (stop.ename, stop.output_type) == ("Interrupted", "error")
    assert stop.evalue == "what was done is saved. Go on with: zoplat.run(out='runs/cut', resume=True)"

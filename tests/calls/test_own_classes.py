"""An estimator whose class no plugin registers: known by its source, gone on with by the same, refused for another."""

import json
import linecache
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat.config.local import Source
from zoplat.config.written import adopted
from zoplat.errors import ZoplatError
from zoplat.registry import catalogue
from zoplat.testing.target import opened
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay

CELL = '''
from collections.abc import Iterator
from dataclasses import dataclass

import zoplat
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian

SCALE = 1.0
step = 5


def halved(x):
    return x / 2


@dataclass(frozen=True)
class Mine(zoplat.Estimator[None]):
    """Two points along one direction, and half of the slope between them."""

    eps: float = zoplat.number(1e-3, above=0)
    sampler: zoplat.Sampler = Gaussian()
    rule: zoplat.StepRule = Constant(lr=1e-3)

    def estimate(self, oracle, state):
        [z] = oracle.draw(self.sampler, 1)  # one direction
        found = oracle.slopes([z], self.eps)
        slope = SCALE * halved(found.projected_grads[0])
        yield zoplat.Estimate(zoplat.Direction.mean([slope], [z]), found.losses, self.eps)
'''
TOY: dict[str, Any] = {"device": "reference", "steps": 4, "evaluate_every": 2, "batch_size": 4, "limit": 8}


def cell(text: str, number: list[int] = [0]) -> Any:  # noqa: B006  # counts the cells
    """A class as a cell of a notebook defines it: in a module without a file, its text kept by linecache."""
    number[0] += 1
    name = f"<cell {number[0]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = sys.modules.setdefault("notebook", types.ModuleType("notebook")).__dict__
    exec(compile(text, name, "exec"), space)
    return space["Mine"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing of this file is registered afterwards."""
    before = dict(catalogue().entries)
    yield
    catalogue().entries.clear()
    catalogue().entries.update(before)
    sys.modules.pop("notebook", None)


class Cut(zoplat.Callback):
    def stepped(self, progress: Any, loss: float | None) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt


def test_a_class_of_a_cell_trains_and_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    whole = zoplat.run(estimator=cell(CELL)(eps=1e-2), out=tmp_path / "whole", lr=1e-2, **TOY)
    assert whole.summary.estimator == "local.Mine"
    settings = (tmp_path / "whole" / "config.toml").read_text()
    assert "eps = 0.01" in settings
    with pytest.raises(KeyboardInterrupt):
        zoplat.run(estimator=cell(CELL)(eps=1e-2), out=tmp_path / "cut", lr=1e-2, callback=Cut(), **TOY)
    again = cell(CELL.replace("# one direction", "# the same, said otherwise"))
    resumed = zoplat.run(estimator=again(eps=1e-2), out=tmp_path / "cut", lr=1e-2, resume=True, **TOY)
    assert resumed.summary.weights_digest == whole.summary.weights_digest
    assert replay(RunDirectory(tmp_path / "cut"), None)["status"] == "done"


def test_the_journal_has_the_digest_of_its_source(tmp_path: Path) -> None:
    mine = cell(CELL)
    zoplat.run(estimator=mine(), out=tmp_path / "run", **TOY)
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().partition("\n")[0])
    assert header["plugins"] == {"local.Mine": f"source:{Source(mine).digest}"}


@pytest.mark.parametrize(
    "change",
    [
        ("SCALE * halved", "2 * SCALE * halved"),
        ("return x / 2", "return x / 3"),
        ("SCALE = 1.0", "SCALE = 1.5"),
    ],
)
def test_another_class_of_that_name_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        zoplat.run(estimator=cell(CELL)(), out=tmp_path / "run", callback=Cut(), **TOY)
    other = cell(CELL.replace(*change))
    with pytest.raises(ZoplatError, match="another source of Mine than it has here"):
        zoplat.run(estimator=other(), out=tmp_path / "run", resume=True, **TOY)
    with pytest.raises(ZoplatError, match="another source of Mine than it has here"):
        replay(RunDirectory(tmp_path / "run"), None)


def test_what_a_class_does_not_use_is_not_in_its_digest() -> None:
    assert Source(cell(CELL)).digest == Source(cell(CELL.replace("step = 5", "step = 6"))).digest


def test_a_class_without_a_text_is_known_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = (("", ""), ("# one direction", ""), ("[z], self.eps)", "[z], self.eps / 2)"))
    kinds = [cell(CELL.replace(*change)) for change in changes]
    monkeypatch.setattr(linecache, "cache", {})
    first, same, other = (Source(kind).digest for kind in kinds)
    assert first == same != other


def test_in_another_process_the_run_is_refused_by_name(tmp_path: Path) -> None:
    zoplat.run(estimator=cell(CELL)(), out=tmp_path / "run", **TOY)
    for command in (("replay", str(tmp_path / "run")), ("run", "--resume", "--out", str(tmp_path / "run"))):
        done = subprocess.run([sys.executable, "-m", "zoplat", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "The estimator Mine was a class in a notebook or a script" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_own_law_inside_of_a_registered_method_is_known_too(tmp_path: Path) -> None:
    text = (
        CELL.replace("class Mine(zoplat.Estimator[None])", "class Other(zoplat.Estimator[None])")
        + '''

@dataclass(frozen=True)
class Mine(Gaussian):
    """A normal law under another name."""
'''
    )
    result = zoplat.run(estimator="mezo", sampler=cell(text)(), out=tmp_path / "run", **TOY)
    plain = zoplat.run(estimator="mezo", out=tmp_path / "plain", **TOY)
    assert result.summary.sampler == "local.Mine"
    assert result.summary.weights_digest == plain.summary.weights_digest


@pytest.mark.slow
def test_a_comparison_takes_a_class_of_a_cell_as_a_method(tmp_path: Path) -> None:
    mine = cell(CELL)
    found = zoplat.compare(estimators=[mine(eps=1e-2), "mezo"], out=tmp_path / "both", **TOY)
    assert found.failed == []
    assert {row["method"] for row in found.rows} == {"Mine", "mezo"}
    assert "eps = 0.01" in (tmp_path / "both" / "Mine-0" / "config.toml").read_text()
    again = zoplat.compare(estimators=[mine(eps=1e-2), "mezo"], out=tmp_path / "both", **TOY)
    assert again.rows == found.rows
    with pytest.raises(ZoplatError, match="another source of Mine"):
        zoplat.compare(estimators=cell(CELL.replace("x / 2", "x / 3")), out=tmp_path / "both", **TOY)


def test_a_class_is_written_with_what_it_uses_and_nothing_else(tmp_path: Path) -> None:
    table, [path] = adopted([cell(CELL)(eps=0.5), "mezo"], tmp_path)
    assert table == {"Mine": {"eps": 0.5}, "mezo": {}}
    text = path.read_text()
    assert "def halved" in text
    assert "SCALE = 1.0" in text
    assert "step = 5" not in text
    with opened(str(path)) as target:
        assert [entry.name for entry in target.entries] == ["Mine"]


def test_a_class_in_the_field_of_another_is_registered_too(tmp_path: Path) -> None:
    law = "@dataclass(frozen=True)\nclass Wide(Gaussian):\n    def scale(self, space, key):\n        return 2.0\n\n\n"
    mine = cell(CELL.replace("@dataclass", law + "@dataclass", 1).replace("= Gaussian()", "= Wide()"))
    _, [path] = adopted(mine, tmp_path)
    with opened(str(path)) as target:
        assert [(entry.kind, entry.name) for entry in target.entries] == [("estimator", "Mine"), ("sampler", "Wide")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("SCALE = 1.0", "SCALE = object()"), "Mine uses SCALE, a object"),
        (("= Gaussian()", ""), "Give its fields defaults"),
    ],
)
def test_what_can_not_be_written_is_refused_by_name(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = CELL.replace(*change)
    text = text.replace("eps: float = zoplat.number(1e-3, above=0)", "eps: float") if "Gaussian" in change[0] else text
    with pytest.raises(ZoplatError, match=words):
        adopted(cell(text), tmp_path)


def test_one_class_twice_is_refused(tmp_path: Path) -> None:
    mine = cell(CELL)
    with pytest.raises(ZoplatError, match="Mine is given twice"):
        adopted([mine(eps=0.1), mine(eps=0.2)], tmp_path)

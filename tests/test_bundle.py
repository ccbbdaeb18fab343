"""Bundles: what was packed is what is read, and anything else is refused before use, with exit status 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat import ZoplatError
from zoplat.bundle import bundle
from zoplat.bundle.bundle import Bundle
from zoplat.bundle.pack import pack
from zoplat.config.layers import resolve
from zoplat.core.noise import Noise
from zoplat.tasks import data
from zoplat_devices.edge.runner import main
from zoplat_devices.onnx import bundle as onnx_bundle

TASK = """
summary = "tickets"
prompt = "{text} is about"
data = "rows"
[options]
billing = "money"
login = "access"
"""


def packed_by(folder: Path) -> None:
    (folder / "graph").mkdir()
    (folder / "graph" / "graph.onnx").write_bytes(bytes(1000))


SESSION: Any = SimpleNamespace(
    pack=packed_by,
    facts={"model": "tiny", "base": "plain"},
    digest=lambda: "sha256:0",
    space=SimpleNamespace(noise=Noise),
)


def written(to: Path, **settings: Any) -> Bundle:
    config = resolve({"device": "onnx", "model": "tiny", "estimator": "mezo", "tune": "lora", "steps": 4, **settings})
    rows = data.load(data.find(config.task), config.task, Path(config.data) if config.data else None, config.limit)
    return bundle.write(config, rows, SESSION, to)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return written(tmp_path / "bundle", limit=8).folder


def retold(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another bundle.json, with a checksum that fits."""
    told = json.loads((folder / "bundle.json").read_text())
    del told["checksum"]
    change(told)
    (folder / "bundle.json").write_text(json.dumps({**told, "checksum": bundle._checksum(told)}))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped_for_a_link(folder: Path) -> None:
    shutil.move(folder / "run.toml", folder.parent / "elsewhere.toml")
    (folder / "run.toml").symlink_to(folder.parent / "elsewhere.toml")


def folder_linked(folder: Path) -> None:
    shutil.move(folder / "graph", folder.parent / "graph")
    (folder / "graph").symlink_to(folder.parent / "graph")


def named(name: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("x")
        known = bundle._sum(target)
        retold(folder, lambda told: told["files"].update({name: known}))

    return tamper


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a byte of the graph": (lambda f: flipped(f / "graph" / "graph.onnx"), "graph/graph.onnx is not what was packed"),
    "a byte of the settings": (lambda f: flipped(f / "run.toml"), "run.toml is not what was packed"),
    "a byte of bundle.json": (lambda f: flipped(f / "bundle.json"), "bundle.json"),
    "a file that ends early": (lambda f: (f / "data" / "dev.jsonl").write_text(""), "data/dev.jsonl is not what was"),
    "a missing file": (lambda f: (f / "data" / "train.jsonl").unlink(), "data/train.jsonl is missing"),
    "an added file": (lambda f: (f / "graph" / "more.so").write_text("x"), "graph/more.so was added"),
    "a link": (swapped_for_a_link, "run.toml is a link"),
    "a linked folder": (folder_linked, "graph is a link"),
    "a path outside": (named("../outside.txt"), "names '../outside.txt', which points outside"),
    "an absolute path": (
        lambda f: retold(f, lambda told: told["files"].update({str(f / "run.toml"): {}})),
        "which points outside",
    ),
    "a path of Windows": (
        lambda f: retold(f, lambda told: told["files"].update({"C:\\x": {}})),
        "which points outside",
    ),
    "another format": (lambda f: retold(f, lambda told: told.update(zoplat_bundle=2)), "a bundle of format 2"),
    "other noise": (lambda f: retold(f, lambda told: told.update(noise="zoplat-0")), "packed for noise 'zoplat-0'"),
    "no JSON": (lambda f: (f / "bundle.json").write_text("{"), "bundle.json can't be read"),
    "no manifest": (lambda f: (f / "bundle.json").unlink(), "is not a bundle"),
}


def test_a_bundle_is_read_as_it_was_packed(made: Path) -> None:
    opened = Bundle.opened(made)
    assert opened.bytes == sum(path.stat().st_size for path in made.rglob("*") if path.name != "bundle.json") - sum(
        path.stat().st_size for path in made.rglob("*") if path.is_dir()
    )
    assert opened.told["facts"]["rows"] == {"train": 8, "dev": 8, "test": 8}
    assert {path.name for path in made.iterdir()} == {"bundle.json", "run.toml", "data", "graph"}
    assert not list(made.parent.glob(".zoplat-*"))


@pytest.mark.parametrize("command", ["check", "run", "eval"])
@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_refused_before_use(
    made: Path, monkeypatch: pytest.MonkeyPatch, what: str, command: str
) -> None:
    def used(*_: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(onnx_bundle.OnnxBundle, "open", used)
    monkeypatch.setattr(bundle, "read_toml", used)
    tamper, words = TAMPERED[what]
    tamper(made)
    told = CliRunner().invoke(main, [command, str(made)])
    assert told.exit_code == 2, told.output
    assert words in told.stderr
    assert not Path("runs").exists()


def test_an_intact_bundle_is_opened_by_the_same_road(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above could fail."""
    assert CliRunner().invoke(main, ["check", str(made)]).exit_code == 0
    monkeypatch.setattr(bundle, "read_toml", lambda _: (_ for _ in ()).throw(ZoplatError("reached")))
    assert "reached" in CliRunner().invoke(main, ["run", str(made), "--out", str(made.parent / "out")]).stderr


def test_settings_are_written_down_as_they_were_and_rows_are_read_from_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"text": f"ticket {i}", "label": ("billing", "login")[i % 2]} for i in range(60)]
    (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tickets.toml").write_text(TASK)
    task = str(tmp_path / "tickets.toml")
    opened = written(tmp_path / "bundle", task=task, batch_size=4)
    shutil.rmtree(tmp_path / "rows")
    (tmp_path / "tickets.toml").rename(tmp_path / "gone")
    config = opened.config()
    told = config.table()
    assert told["task"] == task
    assert "data" not in told
    assert "written" not in told
    found = data.load(data.find(config.task), config.task, Path(config.data or ""), None)
    assert sorted(row["text"] for rows in found.values() for _, row in rows) == sorted(row["text"] for row in rows)
    other = opened.config(changes={"steps": 9}, data=tmp_path / "mine")
    assert other.data == str(tmp_path / "mine") == other.table()["data"]
    assert (config.steps, other.steps) == (4, 9)


def test_a_run_of_other_weights_is_no_run_of_the_bundle(made: Path) -> None:
    opened = Bundle.opened(made)
    table = opened.config().table()
    assert opened.config({**table, "estimator": {"name": "lozo"}, "limit": 4}).estimator_name == "lozo"
    for name, value in (("seed", 1), ("base", "int8"), ("tune", {"name": "prefix"}), ("model", "other")):
        with pytest.raises(ZoplatError, match=f"(?s)holds another model, or other weights.*{name}"):
            opened.config({**table, name: value})


def test_a_place_that_is_taken_is_refused_before_a_model_is_opened(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve({"device": "onnx", "estimator": "mezo", "tune": "lora", "steps": 1, "limit": 16})
    with pytest.raises(ZoplatError, match="holds something already"):
        pack(config, made)


def test_a_device_that_packs_nothing_names_one_that_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZoplatError, match="'reference' makes no bundles"):
        pack(resolve({"device": "reference", "estimator": "mezo", "steps": 1}), tmp_path / "bundle")


def test_a_run_inside_the_bundle_is_refused(made: Path) -> None:
    told = CliRunner().invoke(main, ["run", str(made), "--out", str(made / "runs")])
    assert told.exit_code == 2
    assert "inside the bundle" in told.stderr

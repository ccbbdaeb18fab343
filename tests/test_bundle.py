"""Bundles: a bundle reads back as packed, and one that was changed is refused before use, with exit status 2."""

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
from zoplat.bundle.manifest import file_sum, manifest_checksum
from zoplat.bundle.pack import pack, write_bundle
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


def write_graph(folder: Path) -> None:
    (folder / "graph").mkdir()
    (folder / "graph" / "graph.onnx").write_bytes(bytes(1000))


SESSION: Any = SimpleNamespace(
    write_bundle=write_graph,
    facts={"model": "tiny", "base": "plain"},
    digest=lambda: "sha256:0",
    space=SimpleNamespace(noise=Noise),
)


def written(to: Path, **settings: Any) -> Bundle:
    config = resolve({"device": "onnx", "model": "tiny", "estimator": "mezo", "tune": "lora", "steps": 4, **settings})
    rows = data.load(data.find(config.task), config.task, Path(config.data) if config.data else None, config.limit)
    return write_bundle(config, rows, SESSION, to)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "bundle", limit=8).folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json and give it the checksum that fits."""
    manifest = json.loads((folder / "bundle.json").read_text())
    del manifest["checksum"]
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps({**manifest, "checksum": manifest_checksum(manifest)}))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_a_link(folder: Path) -> None:
    shutil.move(folder / "run.toml", folder.parent / "other.toml")
    (folder / "run.toml").symlink_to(folder.parent / "other.toml")


def link_a_folder(folder: Path) -> None:
    shutil.move(folder / "graph", folder.parent / "graph")
    (folder / "graph").symlink_to(folder.parent / "graph")


def list_file(name: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("x")
        entry = file_sum(target)
        rewrite(folder, lambda manifest: manifest["files"].update({name: entry}))

    return tamper


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a byte of the graph": (
        lambda f: flip_a_bit(f / "graph" / "graph.onnx"),
        "graph/graph.onnx is not what was packed",
    ),
    "a byte of the settings": (lambda f: flip_a_bit(f / "run.toml"), "run.toml is not what was packed"),
    "a byte of bundle.json": (lambda f: flip_a_bit(f / "bundle.json"), "bundle.json"),
    "a file that ends early": (lambda f: (f / "data" / "dev.jsonl").write_text(""), "data/dev.jsonl is not what was"),
    "a missing file": (lambda f: (f / "data" / "train.jsonl").unlink(), "data/train.jsonl is missing"),
    "an added file": (lambda f: (f / "graph" / "more.so").write_text("x"), "graph/more.so was added"),
    "a link": (replace_by_a_link, "run.toml is a link"),
    "a linked folder": (link_a_folder, "graph is a link"),
    "a path outside": (list_file("../outside.txt"), "names '../outside.txt', which points outside"),
    "an absolute path": (
        lambda f: rewrite(f, lambda m: m["files"].update({str(f / "run.toml"): {}})),
        "which points outside",
    ),
    "a path of Windows": (
        lambda f: rewrite(f, lambda m: m["files"].update({"C:\\x": {}})),
        "which points outside",
    ),
    "another format": (lambda f: rewrite(f, lambda m: m.update(zoplat_bundle=2)), "a bundle of format 2"),
    "other noise": (lambda f: rewrite(f, lambda m: m.update(noise="zoplat-0")), "packed for noise 'zoplat-0'"),
    "files that are a list": (lambda f: rewrite(f, lambda m: m.update(files=["run.toml"])), "lists no files"),
    "a file without sums": (lambda f: rewrite(f, lambda m: m["files"].update({"run.toml": 3})), "lists no files"),
    "facts that are text": (lambda f: rewrite(f, lambda m: m.update(facts="x")), "has no facts about"),
    "facts without a task": (lambda f: rewrite(f, lambda m: m["facts"].pop("task")), "has no facts about"),
    "no JSON": (lambda f: (f / "bundle.json").write_text("{"), "bundle.json can't be read"),
    "no manifest": (lambda f: (f / "bundle.json").unlink(), "is not a bundle"),
}


def test_a_bundle_is_read_as_it_was_packed(folder: Path) -> None:
    opened = Bundle.opened(folder)
    assert opened.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.name != "bundle.json") - sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_dir()
    )
    assert opened.manifest["facts"]["rows"] == {"train": 8, "dev": 8, "test": 8}
    assert {path.name for path in folder.iterdir()} == {"bundle.json", "run.toml", "data", "graph"}
    assert not list(folder.parent.glob(".zoplat-*"))


@pytest.mark.parametrize("command", ["check", "run", "eval"])
@pytest.mark.parametrize("what", TAMPERED)
def test_a_changed_bundle_is_refused_before_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, command: str
) -> None:
    def used(*_: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(onnx_bundle.OnnxBundle, "open", used)
    monkeypatch.setattr(bundle, "recorded_settings", used)
    tamper, words = TAMPERED[what]
    tamper(folder)
    done = CliRunner().invoke(main, [command, str(folder)])
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert not Path("runs").exists()


def test_an_intact_bundle_is_opened_by_the_same_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart of the test above: the functions that it replaces are reached."""
    assert CliRunner().invoke(main, ["check", str(folder)]).exit_code == 0
    monkeypatch.setattr(bundle, "recorded_settings", lambda _: (_ for _ in ()).throw(ZoplatError("reached")))
    assert "reached" in CliRunner().invoke(main, ["run", str(folder), "--out", str(folder.parent / "out")]).stderr


def test_settings_keep_their_original_paths_and_rows_are_read_from_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"text": f"ticket {i}", "label": ("billing", "login")[i % 2]} for i in range(60)]
    (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tickets.toml").write_text(TASK)
    task = str(tmp_path / "tickets.toml")
    opened = written(tmp_path / "bundle", task=task, batch_size=4)
    shutil.rmtree(tmp_path / "rows")
    (tmp_path / "tickets.toml").rename(tmp_path / "gone")
    config = opened.config()
    table = config.table()
    assert table["task"] == task
    assert "data" not in table
    assert "written" not in table
    found = data.load(data.find(config.task), config.task, Path(config.data or ""), None)
    assert sorted(row["text"] for rows in found.values() for _, row in rows) == sorted(row["text"] for row in rows)
    other = opened.config(changes={"steps": 9}, data=tmp_path / "mine")
    assert other.data == str(tmp_path / "mine") == other.table()["data"]
    assert (config.steps, other.steps) == (4, 9)


def test_a_run_that_starts_from_other_weights_is_refused(folder: Path) -> None:
    opened = Bundle.opened(folder)
    table = opened.config().table()
    assert opened.config({**table, "estimator": {"name": "lozo"}, "limit": 4}).estimator_name == "lozo"
    for name, value in (("seed", 1), ("base", "int8"), ("tune", {"name": "prefix"}), ("model", "other")):
        with pytest.raises(ZoplatError, match=f"(?s)holds another model, or other weights.*{name}"):
            opened.config({**table, name: value})


def test_a_folder_that_is_not_empty_is_refused_before_a_model_is_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve({"device": "onnx", "estimator": "mezo", "tune": "lora", "steps": 1, "limit": 16})
    with pytest.raises(ZoplatError, match="holds something already"):
        pack(config, folder)


def test_a_device_that_makes_no_bundles_names_one_that_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZoplatError, match="'reference' makes no bundles"):
        pack(resolve({"device": "reference", "estimator": "mezo", "steps": 1}), tmp_path / "bundle")


def test_a_run_inside_the_bundle_is_refused(folder: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(folder), "--out", str(folder / "runs")])
    assert done.exit_code == 2
    assert "inside the bundle" in done.stderr

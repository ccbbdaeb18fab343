"""The edge runner: from a bundle to a journal without torch, and from there to the same weights on any device."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay
from zoplat.training.train import train

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "devices" / "zoplat_devices" / "edge" / "edge-requirements.txt"
NEEDED = re.findall(r"^([a-z-]+)", REQUIREMENTS.read_text(), re.MULTILINE)
LIGHT = f"""
import sys
from importlib.machinery import PathFinder

ALLOWED = {{*sys.stdlib_module_names, "zoplat", "zoplat_devices", "zoplat_plugins", "zoplat_example"}}
ALLOWED |= {{name.replace("-", "_") for name in {NEEDED!r}}}


class Light(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, path, target) if name.partition(".")[0] in ALLOWED else None


sys.meta_path[:] = [Light if finder is PathFinder else finder for finder in sys.meta_path]
from zoplat_devices.edge.runner import main

main(prog_name="zoplat-edge")
"""
"""The runner in an interpreter that can import only what its requirements name."""

SETTINGS = {"estimator": "mezo", "tune": "lora", "lr": 1e-2, "steps": 8, "limit": 8, "batch_size": 4}
LONG = ("--steps", 400, "--evaluate-every", 100)


def test_the_requirements_are_those_of_the_distribution() -> None:
    known = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert f'"{line}"' in known or line.startswith("tokenizers>="), line
    assert not {"torch", "transformers", "datasets", "peft", "ziglang"} & {*NEEDED}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of graphs that all tests of this module share."""
    for name in ("onnx", "onnxruntime", "onnxscript", "torch"):
        pytest.importorskip(name)
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def folder(checkpoint: Make) -> Path:
    return checkpoint("llama", words=False)


@pytest.fixture
def packed(graphs: Path, folder: Path, place: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in the test's working directory; its model is taken from the cache."""
    from click.testing import CliRunner

    monkeypatch.setenv("ZOPLAT_CACHE", str(graphs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = "--estimator mezo --tune lora --lr 1e-2 --steps 8 --limit 8 --batch-size 4 -o device.threads=1 --to bundle"
    done = CliRunner().invoke(main, ["pack", "--model", str(folder), *flags.split()])
    assert done.exit_code == 0, done.output
    assert "zoplat-edge run bundle" in done.stdout
    return Path("bundle").absolute()


def start(*arguments: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", LIGHT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def edge(*arguments: Any, status: int = 0) -> str:
    process = start(*arguments)
    out, problem = process.communicate()
    assert process.returncode == status, out + problem
    return out if not status else problem


def edge_json(*arguments: Any) -> dict[str, Any]:
    return dict(json.loads(edge(*arguments, "--json")))


def run_on_host(folder: Path, device: str, out: str) -> dict[str, Any]:
    options = {"device.strategy": "sequential"} if device == "cpu" else {}
    settings = {"device": device, "model": str(folder), "dtype": "float32", "options": options, **SETTINGS}
    return train(resolve(settings), Path(out)).summary.to_json()


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[str], step: int, out: str = "run") -> None:
    """Wait until the journal of a run has a step of this number."""
    while process.poll() is None and count_lines(Path(out, "journal.jsonl")) <= step:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
class TestAcrossDevices:
    def test_a_run_on_the_edge_replays_on_pytorch_and_on_the_host_to_the_same_bits(self, packed: Path) -> None:
        summary = edge_json("run", packed, "--out", "run")
        assert (summary["status"], summary["steps"]) == ("done", 8)
        for device in (None, "cpu"):
            found = replay(RunDirectory.existing(Path("run")), None, device)
            assert (found["status"], found["weights_digest"]) == ("done", summary["weights_digest"])

    @pytest.mark.parametrize("device", ["cpu", "onnx"])
    def test_a_run_of_the_host_replays_on_the_edge_to_the_same_bits(
        self, packed: Path, folder: Path, device: str
    ) -> None:
        summary = run_on_host(folder, device, "host")
        found = edge_json("replay", packed, "host")
        assert (found["status"], found["weights_digest"]) == ("done", summary["weights_digest"])

    def test_the_edge_has_the_journal_of_the_host(self, packed: Path, folder: Path) -> None:
        edge_json("run", packed, "--out", "run")
        run_on_host(folder, "onnx", "host")
        steps = [Path(out, "journal.jsonl").read_text().splitlines()[1:] for out in ("run", "host")]
        answers = [np.array([json.loads(line)["answers"] for line in one]) for one in steps]
        np.testing.assert_allclose(*answers, atol=1e-6)

    def test_a_bundle_can_be_moved_and_needs_no_cache(self, packed: Path, graphs: Path, monkeypatch: Any) -> None:
        first = edge_json("run", packed, "--out", "run")
        monkeypatch.setenv("ZOPLAT_CACHE", str(Path("empty").absolute()))
        shutil.move(packed, "moved")
        second = edge_json("run", "moved", "--out", "again")
        assert second["weights_digest"] == first["weights_digest"]


@pytest.mark.slow
class TestInterrupted:
    def test_a_killed_and_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(self, packed: Path) -> None:
        expected = edge_json("run", packed, "--out", "whole", *LONG)
        for step in (20, 130, 250):
            process = start("run", packed, "--out", "run", "--resume", *LONG)
            wait_for(process, step)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        resumed = edge_json("run", packed, "--out", "run", "--resume")
        for name in ("weights_digest", "steps", "forward_passes", "dev_after", "test_after"):
            assert resumed[name] == expected[name], name
        journals = [Path(out, "journal.jsonl").read_bytes() for out in ("whole", "run")]
        assert journals[0] == journals[1]

    def test_a_signal_pauses_a_run_and_another_continues_it(self, packed: Path) -> None:
        process = start("run", packed, "--out", "run", *LONG)
        wait_for(process, 5)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        paused_at = count_lines(Path("run/journal.jsonl"))
        time.sleep(0.5)
        assert count_lines(Path("run/journal.jsonl")) == paused_at < 400
        process.send_signal(signal.SIGUSR2)
        out, problem = process.communicate()
        assert process.returncode == 0, problem
        assert problem.count("paused: a signal asked for it") == problem.count("going on") == 1
        assert "step 400/400" in out

    def test_a_run_that_is_terminated_during_a_pause_can_be_resumed(self, packed: Path) -> None:
        process = start("run", packed, "--out", "run", *LONG)
        wait_for(process, 5)
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, problem = process.communicate()
        assert process.returncode == 130
        assert "what was done is saved" in problem
        assert edge_json("run", packed, "--out", "run", "--resume")["steps"] == 400

    def test_a_run_above_its_memory_limit_stops_before_the_first_step(self, packed: Path) -> None:
        problem = edge("run", packed, "--out", "run", "--memory", "1MB", status=1)
        assert re.search(r"--memory 1 MiB: the run takes \d+ MiB and was stopped", problem)
        assert "--micro-batch-size below 4" in problem
        assert not Path("run").exists()
        assert edge_json("run", packed, "--out", "run", "--memory", "4GB", "--resume")["steps"] == 8


@pytest.mark.slow
class TestCommands:
    def test_progress_and_the_end_are_printed_as_plain_lines(self, packed: Path) -> None:
        out = edge("run", packed, "--out", "run", "--steps", 3, "--micro-batch-size", 2)
        assert re.search(r"^step 1/3  loss \d\.\d{4}  \S+ passes/s  \d+ MiB", out, re.MULTILINE)
        assert re.search(r"^step 3/3 ", out, re.MULTILINE)
        assert re.search(r"^journal \d+\.\d KiB, weights sha256:", out, re.MULTILINE)
        assert "step 0: test accuracy" in out

    def test_eval_scores_the_packed_model_and_the_result_of_a_run(self, packed: Path) -> None:
        summary = edge_json("run", packed, "--out", "run")
        assert edge_json("eval", packed)["score"] == summary["test_before"]
        assert edge_json("eval", packed, "--run", "run", "--split", "dev")["score"] == summary["dev_after"]

    def test_a_run_on_other_rows_names_them_in_its_settings(self, packed: Path) -> None:
        rows = [{"text": f"a day number {i} for a film", "label": i % 2} for i in range(40)]
        Path("mine").mkdir()
        first = json.loads((packed / "data" / "train.jsonl").read_text().splitlines()[0])
        text = next(name for name, value in first.items() if isinstance(value, str) and " " in value)
        for split in ("train", "dev", "test"):
            mine = [{**first, text: f"{row['text']} {split}", "label": row["label"]} for row in rows]
            Path("mine", f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
        own = edge_json("run", packed, "--out", "run", "--data", "mine")
        assert own["weights_digest"] != edge_json("run", packed, "--out", "other")["weights_digest"]
        assert resolve({"config": Path("run/config.toml")}).data == "mine"
        assert edge_json("run", packed, "--out", "run", "--resume")["status"] == "done"

    def test_an_exported_adapter_replaces_inputs_of_the_graph_in_onnxruntime(self, packed: Path) -> None:
        import onnxruntime
        from safetensors.numpy import load_file

        from zoplat_devices.onnx.facts import Facts
        from zoplat_devices.onnx.graph import PlainTokenizer, feeds
        from zoplat_devices.onnx.proof import EXAMPLE
        from zoplat_devices.text.encoding import Encoder

        summary = edge_json("run", packed, "--out", "run")
        found = edge_json("export", packed, "run", "--to", "adapter")
        assert found["weights_digest"] == summary["weights_digest"]
        arrays = load_file("adapter/weights.safetensors")
        read = onnxruntime.AdapterFormat.read_adapter("adapter/adapter.onnx_adapter").get_parameters()
        assert read.keys() == arrays.keys()
        for name, value in read.items():
            np.testing.assert_array_equal(value.numpy(), arrays[name][None])  # of one point
        facts = Facts.read(packed / "graph")
        encoder = Encoder(PlainTokenizer(packed / "graph", facts.bos), facts.limit)
        batch = feeds(encoder.encode([EXAMPLE]), True)
        graph = onnxruntime.InferenceSession(packed / "graph" / "graph.onnx", providers=["CPUExecutionProvider"])
        adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
        adapter.Load("adapter/adapter.onnx_adapter")
        options.add_active_adapter(adapter)
        given = {name: array[None] for name, array in arrays.items()}
        zeros = {name: np.zeros_like(array) for name, array in given.items()}
        expected, untrained = (graph.run(["tokens"], {**batch, **inputs})[0].item() for inputs in (given, zeros))
        assert graph.run(["tokens"], {**batch, **zeros}, options)[0].item() == expected
        assert expected != untrained


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment installed as the how-to describes."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("board")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=True)
    [wheel] = folder.glob("*.whl")
    pip = [str(folder / "env" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    flags = ["-c", str(ROOT / "constraints.txt"), "-r", str(REQUIREMENTS), str(wheel)]
    done = subprocess.run([*pip, *flags], capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr:
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stderr
    return folder / "env"


@pytest.mark.slow
def test_a_light_environment_is_small_and_trains_a_bundle(board: Path, packed: Path) -> None:
    [packages] = board.glob("lib/python*/site-packages")
    assert not {path.name for path in packages.iterdir()} & {"torch", "transformers", "peft", "datasets"}
    assert sum(path.lstat().st_size for path in packages.rglob("*") if path.is_file()) <= 250e6
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def output_of(program: str, *flags: Any) -> dict[str, Any]:
        command = [str(board / "bin" / program), *map(str, flags), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return dict(json.loads(done.stdout))

    summary = output_of("zoplat-edge", "run", packed, "--out", "run")
    assert replay(RunDirectory.existing(Path("run")), None, "cpu")["weights_digest"] == summary["weights_digest"]
    found = output_of("zoplat", "doctor")
    assert found["failed"] == []
    assert found["devices"]["onnx"] == "ready"
    assert "needs torch" in found["devices"]["cpu"]

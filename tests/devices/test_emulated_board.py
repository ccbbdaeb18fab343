"""A bundle on an emulated board trains under qemu-aarch64, is killed and resumed; its journal gives the same bits here.

docs/how-to/fine-tune-on-a-board.md says how the folder is made and what it takes.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.devices.emulated import ROOT, EmulatedBoard, named_folder
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay
from zoplat_devices.onnx.bundle_files import KERNELS

pytestmark = pytest.mark.slow

STEPS = 40
NUMBERS = """
import sys
import numpy as np
from zoplat_devices.kernels.native import built_for_this_machine, load_library
from zoplat_devices.kernels.noise import LAWS
from zoplat_devices.kernels.tables import TERMS
from pathlib import Path

path = built_for_this_machine(Path(sys.argv[1]))
library, made = load_library(path), 0
for law, definition in LAWS.items():
    for stream in [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x9E3779B9, 0x243F6A88)]:
        for first in [0, 1, 31, 255, 513, 100_000, 2**31 - 300, 2**32 - 700, 2**37 + 12345]:
            numbers = np.full(1500, np.nan, np.float32)
            library.zoplat_numbers(numbers.ctypes.data, TERMS[law], *stream, first, 1500)
            expected = definition(stream, first, 1500).astype(np.float32)
            assert numbers.tobytes() == expected.tobytes(), (law, stream, first)
            made += 1500
print(path.name, made)
"""
"""Compares the numbers of a bundle's kernels with those of the definition."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> EmulatedBoard:
    folder = named_folder()
    pytest.importorskip("build")
    work = tmp_path_factory.mktemp("board")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = work.glob("*.whl")
    return EmulatedBoard(folder, wheel, work)


@pytest.fixture(scope="module")
def bundle(board: EmulatedBoard, checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("onnx", "onnxruntime", "onnxscript", "peft", "ziglang"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("packed") / "bundle"
    flags = f"--estimator mezo --tune lora --base int8 --lr 1e-2 --steps {STEPS} --limit 16 --batch-size 4".split()
    flags += ["--evaluate-every", "20", "-o", "device.threads=1", "--to", str(folder)]
    model = str(checkpoint("mistral", words=False))
    run("zoplat", "pack", "--model", model, *flags, ZOPLAT_CACHE=str(tmp_path_factory.mktemp("graphs")))
    return folder


def run(program: str, *flags: object, **environment: str) -> str:
    """A program of this machine; returns what it prints."""
    module = {"zoplat": "zoplat", "zoplat-edge": "zoplat_devices.edge.runner"}[program]
    command = [sys.executable, "-m", module, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command prints with --json, once it has ended."""
    out, problem = process.communicate(timeout=1800)
    assert process.returncode == 0, out + problem
    return dict(json.loads(out))


def answers(folder: str) -> np.ndarray:
    """The losses in the journal of a run, (steps, 2)."""
    lines = Path(folder, "journal.jsonl").read_text().splitlines()[1:]
    return np.array([json.loads(line)["answers"] for line in lines])


def test_the_kernels_for_64_bit_arm_make_the_numbers_of_the_definition(board: EmulatedBoard, bundle: Path) -> None:
    process = board.start("-c", NUMBERS, bundle / KERNELS)
    out, problem = process.communicate(timeout=1800)
    assert process.returncode == 0, problem
    name, made = out.split()
    assert name == "aarch64.so"
    assert int(made) > 100_000


def test_a_killed_run_on_the_board_resumes_to_the_bits_that_its_journal_gives_here(
    board: EmulatedBoard, bundle: Path
) -> None:
    whole = finished(board.edge("run", bundle, "--out", "whole", "--json"))
    process = board.edge("run", bundle, "--out", "killed")
    journal = Path("killed", "journal.jsonl")
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > STEPS // 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = finished(board.edge("run", bundle, "--out", "killed", "--resume", "--json"))
    assert (whole["steps"], resumed["steps"]) == (STEPS, STEPS)
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert journal.read_bytes() == Path("whole", "journal.jsonl").read_bytes()
    environment = json.loads(Path("killed", "environment.json").read_text())
    assert "NativeKernels" in json.dumps(environment)
    here = json.loads(run("zoplat-edge", "replay", bundle, "killed", "--json"))
    assert here["weights_digest"] == whole["weights_digest"]
    run("zoplat-edge", "run", bundle, "--out", "here")
    np.testing.assert_allclose(answers("whole"), answers("here"), atol=1e-5)
    if importlib.util.find_spec("torchao"):
        found = replay(RunDirectory.existing(Path("killed")), None, "cpu")
        assert found["weights_digest"] == whole["weights_digest"]


def test_a_run_made_here_replays_on_the_board_to_the_same_bits(board: EmulatedBoard, bundle: Path) -> None:
    here = json.loads(run("zoplat-edge", "run", bundle, "--out", "made-here", "--json"))
    there = finished(board.edge("replay", bundle, "made-here", "--json"))
    assert there["weights_digest"] == here["weights_digest"]

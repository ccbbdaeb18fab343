"""docs/how-to/fine-tune-on-a-board.md: its commands, one after the other, with a tiny model and few steps."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zoplat_devices.onnx.stages import stage

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/how-to/fine-tune-on-a-board.md").read_text(encoding="utf-8")
PROGRAMS = {"zoplat": "zoplat", "zoplat-edge": "zoplat_devices.edge.runner"}
SMALLER = {"--steps": "4", "--batch-size": "4", "--temperature": "500", "--battery": "0", "--memory": "4GB"}
"""In the place of the guide's values; a laptop on its battery must not wait for a plug."""


def commands(heading: str) -> list[list[str]]:
    """The words of each command of zoplat below a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert section, heading
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [[Path(words[0]).name, *words[1:]] for words in lines if Path(words[0]).name in PROGRAMS]


def smaller(words: list[str]) -> list[str]:
    """A command with the values of `SMALLER`."""
    pairs = zip(["", *words], words, strict=False)
    return [SMALLER.get(before, word) for before, word in pairs]


def test_the_guide_names_the_extras_that_packing_needs() -> None:
    pack = GUIDE.index("zoplat pack")
    assert 'pip install -c constraints.txt -e ".[demo,onnx]"' in GUIDE[:pack]
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "onnx"} <= {*extras}


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

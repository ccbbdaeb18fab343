"""The code of docs/tutorial/not-only-text.md runs, and both models learn."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "not-only-text.md").read_text(encoding="utf-8")
ROWS, PLUGIN, SPEECH = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RUN, DERIVED = re.findall(r"^```sh\nzoplat (.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def zoplat(command: str) -> Any:
    words = shlex.split(command.replace("\\\n", " "))
    done = subprocess.run([sys.executable, "-m", "zoplat", *words, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def written() -> None:
    """The pictures and the plugin, in the working folder."""
    exec(compile(ROWS, "rows", "exec"), {"__name__": "page"})
    Path("shapes.py").write_text(PLUGIN, encoding="utf-8")


@pytest.mark.slow
def test_a_vision_transformer_learns_by_zoplat_run(written: None) -> None:
    summary = zoplat(RUN)
    assert summary["test_before"] < 0.45
    assert summary["test_after"] > 0.9
    assert zoplat("replay runs/shapes --plugin shapes.py")["weights_digest"] == summary["weights_digest"]
    assert zoplat(DERIVED)["test_after"] > summary["test_before"]
    adapter = RUN.replace("zo-adam", "lozo --tune lora -o 'tune.targets=q_proj|v_proj'").replace(
        "runs/shapes", "runs/lora"
    )
    assert zoplat(adapter.replace("--steps 300", "--steps 2"))["trainable_parameters"] == 2 * 2 * 8 * 16


@pytest.mark.slow
def test_a_speech_model_learns_in_a_loop_of_its_own() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(SPEECH, "speech", "exec"), names)
    assert names["before"] < 0.5
    assert names["after"] > 0.95

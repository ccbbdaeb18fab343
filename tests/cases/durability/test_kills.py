"""Runs that are killed or started twice at random moments."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from zoplat.training.journal import Journal

from .toy import TOY, run, start, steps_in, the_same, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.02, 0.2])
def test_a_second_signal_still_ends_with_130(gap: float) -> None:
    process = start("run", *TOY, "--steps", 100_000, "--out", "r", "--quiet")
    wait_for(lambda: steps_in("r") > 20)
    process.send_signal(signal.SIGINT)
    time.sleep(gap)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    Journal.read(Path("r/journal.jsonl"))


LONG = ("--steps", 300, "--evaluate-every", 20)


@pytest.mark.slow
def test_two_writers_at_once_fifty_times_end_in_the_same_bits() -> None:
    """Both may exit with 0, when the second comes after the end of the first; else the second is refused."""
    run(*LONG, "--out", "whole")
    whole, moments = Path("whole/journal.jsonl").read_bytes(), random.Random(14)
    refused = 0
    for number in range(50):
        processes = []
        for _ in range(2):
            processes.append(start("run", *TOY, *LONG, "--out", f"r{number}", "--resume", "--quiet"))
            time.sleep(moments.random() * 0.2)
        ends = [(process.communicate(timeout=600)[1], process.returncode) for process in processes]
        assert 0 in [status for _, status in ends], ends
        for errors, status in ends:
            assert status in (0, 2)
            assert status == 0 or "is in use" in errors
            refused += status == 2
        assert Path(f"r{number}/journal.jsonl").read_bytes() == whole
        shutil.rmtree(f"r{number}")
    assert refused > 10


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_change_no_bit() -> None:
    """In start-up, first scores, steps, checkpoints, evaluations and the end alike."""
    began = time.perf_counter()
    start("run", *TOY, *LONG, "--out", "whole", "--quiet").communicate()
    seconds, moments = time.perf_counter() - began, random.Random(200)
    whole = json.loads(Path("whole/summary.json").read_text())
    kills = 0
    while kills < 200:
        shutil.rmtree("r", ignore_errors=True)
        ended = False
        while not ended:
            process = start("run", *TOY, *LONG, "--out", "r", "--resume", "--quiet")
            try:
                process.wait(seconds * moments.uniform(0.3, 1.05))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            _, errors = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors
            ended = process.returncode == 0
        the_same(whole, run(*LONG, "--out", "r", "--resume"))
        assert Path("r/journal.jsonl").read_bytes() == Path("whole/journal.jsonl").read_bytes()

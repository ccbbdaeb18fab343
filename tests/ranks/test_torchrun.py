"""Ranks as processes under torchrun, connected by gloo."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .launching import answers, finished, started, summary

Command = Callable[..., list[str]]
MEZO = ("--estimator", "mezo", "--queries", "4", "--steps", "50")


@pytest.mark.slow
def test_four_ranks_of_one_query_end_in_the_bits_of_one_with_four(command: Command) -> None:
    finished(started(1, command("one", *MEZO, "-o", "device.restore=exact")))
    finished(started(4, command("four", *MEZO, "--parallel", "queries")))
    assert answers("four") == answers("one")
    assert summary("four")["weights_digest"] == summary("one")["weights_digest"]


@pytest.mark.slow
def test_two_ranks_that_share_rows_give_the_losses_of_the_whole_batch(command: Command) -> None:
    flags = ("--estimator", "mezo", "--steps", "20", "--evaluate-every", "10")
    finished(started(1, command("parts", *flags, "--micro-batch-size", "2")))
    finished(started(2, command("two", *flags)))
    assert summary("two")["weights_digest"] == summary("parts")["weights_digest"]
    finished(started(1, command("whole", *flags)))
    assert answers("two")[0] == pytest.approx(answers("whole")[0], rel=1e-5)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_ends_in_the_same_bits(command: Command) -> None:
    flags = ("--estimator", "mezo", "--queries", "2", "--steps", "300", "--evaluate-every", "100")
    flags += ("--parallel", "queries", "--resume")
    finished(started(1, command("undisturbed", *flags)))
    process = started(2, command("killed", *flags), "--max-restarts", "2")
    journal = Path("killed", "journal.jsonl")
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    [victim] = [one for one in workers if one.environ().get("RANK") == "1"]
    os.kill(victim.pid, signal.SIGKILL)
    finished(process)
    assert summary("killed")["weights_digest"] == summary("undisturbed")["weights_digest"]

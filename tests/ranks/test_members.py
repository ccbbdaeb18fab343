"""Members that join a run through its folder, come late, leave, and fall behind."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.training.callbacks import Callback
from zoplat.training.join import join
from zoplat.training.members import Host
from zoplat.training.train import train

from .launching import finished, started, summary


def config_of(**settings: Any) -> RunConfig:
    table: dict[str, Any] = {"estimator": "mezo", "queries": 3, "device": "reference", "batch_size": 8, "limit": 32}
    table |= {"steps": 60, "evaluate_every": 20, "parallel": "queries", "options": {"device.restore": "exact"}}
    return resolve({**table, **settings})


class Slow(Callback):
    """Time for a member to come."""

    def stepped(self, progress: Any, loss: float | None) -> None:
        time.sleep(0.05)


def lines(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def in_background(work: Any, *args: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work(*args))
        except Exception as problem:
            found.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_a_file_that_a_member_is_writing_is_no_member() -> None:
    host = Host(Path("run"))
    host.share()
    begun = Path("run/ranks/member-1x2.json.0a1b2c3d.new")
    begun.write_text("0")
    host.begin(1)
    assert (host.members, begun.exists()) == ([], True)
    begun.replace("run/ranks/member-1x2.json")
    host.begin(2)
    assert host.members == ["1x2"]


@pytest.mark.slow
def test_a_member_that_joins_at_half_time_computes_points_and_changes_no_bit() -> None:
    thread, found = in_background(train, config_of(steps=60), Path("helped"), False, Slow())
    while lines(Path("helped")) < 20:
        assert thread.is_alive(), found
        time.sleep(0.002)
    outcome = join(Path("helped"), 60)
    thread.join(120)
    assert outcome["points"] > 0
    assert outcome["weights_digest"] == found[0].summary.weights_digest
    whole = train(config_of(steps=60), Path("whole"))
    assert whole.summary.weights_digest == found[0].summary.weights_digest


@pytest.mark.slow
def test_the_run_and_its_members_may_be_killed_and_come_back(command: Callable[..., list[str]]) -> None:
    flags = ("--estimator", "mezo", "--queries", "2", "--steps", "150", "--evaluate-every", "40")
    flags += ("--parallel", "queries", "--resume")
    finished(started(1, command("undisturbed", *flags)))
    out, run = Path("helped"), started(1, command("helped", *flags))
    reaches(out, 20, run)
    first = joined_while_stopped(out, run)
    reaches(out, lines(out) + 10, run)
    first.kill()  # the run waits for it, drops it, and computes its points
    first.communicate()
    reaches(out, lines(out) + 10, run)
    second = joined_while_stopped(out, run)
    reaches(out, lines(out) + 10, run)
    run.kill()
    run.communicate()
    assert lines(out) < 150, "killed in the middle"
    finished(started(1, command("helped", *flags)))
    outcome = json.loads(finished(second).splitlines()[-1])
    assert outcome["points"] > 0
    assert outcome["weights_digest"] == summary("helped")["weights_digest"] == summary("undisturbed")["weights_digest"]


def reaches(out: Path, count: int, run: Any) -> None:
    """Wait until the journal has so many lines."""
    while lines(out) < count:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.01)


def joined_while_stopped(out: Path, run: Any) -> Any:
    """A member in a process of its own, which has come before the run makes another step."""
    run.send_signal(signal.SIGSTOP)
    before = set(out.glob("ranks/member-*"))
    member = started(1, ["join", str(out), "--json"])
    while set(out.glob("ranks/member-*")) == before:
        assert member.poll() is None, member.communicate()[0]
        time.sleep(0.05)
    run.send_signal(signal.SIGCONT)
    return member

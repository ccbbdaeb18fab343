"""Two writers of one run: the second is refused, and no bit changes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal

from .toy import TOY, digest_of_replay, run, start, steps_in, wait_for, zoplat


class TestTwoWriters:
    """Cases same-default-dir and double-resume."""

    @pytest.mark.slow
    def test_two_runs_started_together_get_directories_of_their_own(self) -> None:
        processes = [start("run", *TOY[:-1], lr, "--steps", 30, "--quiet") for lr in (1e-3, 1e-1)]
        for process in processes:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
        folders = sorted(os.listdir("runs"))
        assert folders == ["sentiment-mezo-0", "sentiment-mezo-0-2"]
        rates = {RunDirectory(Path("runs", name)).read_config().estimator.rule.lr for name in folders}
        assert rates == {1e-3, 1e-1}
        for name in folders:
            digest_of_replay(f"runs/{name}")

    @pytest.mark.slow
    def test_a_second_writer_is_refused_and_says_who_the_first_is(self) -> None:
        first = start("run", *TOY, "--steps", 100_000, "--evaluate-every", 100, "--out", "r", "--quiet")
        wait_for(lambda: steps_in("r") > 20)
        refused = zoplat("run", "--resume", "--out", "r")
        assert refused.exit_code == 2
        assert f"r is in use: process {first.pid} on " in refused.stderr
        assert " since 20" in refused.stderr
        assert zoplat("repair", "r").exit_code == 2
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
        assert first.returncode == 130
        Journal.read(Path("r/journal.jsonl"))

    @pytest.mark.slow
    def test_a_lock_of_a_killed_process_hinders_nobody(self) -> None:
        first = start("run", *TOY, "--steps", 100_000, "--out", "r", "--quiet")
        wait_for(lambda: steps_in("r") > 20)
        first.kill()
        first.communicate()
        assert Path("r/lock").exists()
        done = steps_in("r")
        assert run("--steps", done + 5, "--out", "r", "--resume")["steps"] == done + 5
        assert not Path("r/lock").exists()

    def test_a_run_that_never_began_leaves_no_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from zoplat_devices.reference import Reference

        def fail(*_: Any) -> None:
            raise ZoplatError("no such model")

        monkeypatch.setattr(Reference, "open", fail)
        assert zoplat("run", *TOY, "--steps", 2).exit_code == 2
        assert zoplat("run", *TOY, "--steps", 2, "--out", "some/where").exit_code == 2
        assert os.listdir() == []

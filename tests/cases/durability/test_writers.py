"""Two writers of one run: the second is refused, and no bit changes; several of one file: it is always whole."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from zoplat.core.errors import ZoplatError
from zoplat.paths import replace_bytes
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal

from .toy import TOY, digest_of_replay, run, start, steps_in, wait_for, zoplat


class TestOneFile:
    """What several processes write at once, such as a first score that the workers of a comparison keep."""

    def test_writers_and_readers_of_a_file_meet_whole_contents_only(self) -> None:
        path, contents, problems = Path("kept.json"), {bytes([65 + i]) * (5000 + i) for i in range(3)}, list[Any]()
        path.write_bytes(min(contents))

        def write(content: bytes) -> None:
            try:
                for _ in range(200):
                    replace_bytes(path, content)
            except OSError as problem:
                problems.append(problem)

        writers = [threading.Thread(target=write, args=(content,)) for content in contents]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert path.read_bytes() in contents
        assert problems == []
        assert os.listdir() == ["kept.json"]

    def test_content_that_lasts_is_on_the_disk_before_it_has_the_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done, rename = list[str](), Path.replace
        monkeypatch.setattr(os, "fsync", lambda file: done.append(f"{os.fstat(file).st_size} bytes"))
        monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("renamed"), rename(path, to))[1])
        replace_bytes(Path("newest"), b"step-5", lasts=True)
        assert done == ["6 bytes", "renamed"]


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

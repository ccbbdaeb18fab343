"""A journal on full disks, in vanished folders and after interrupts."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from zoplat.core.errors import RunFailed
from zoplat.training.journal import Journal, JournalWriter, StepRecord

from .toy import TOY, run, steps_in, the_same, zoplat


class TestJournal:
    """Cases short-write, disk-full and run-dir-deleted."""

    RECORD = StepRecord(0, [1.0, 2.0], 0.1, 1.5)

    def test_a_write_that_takes_a_part_is_completed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:7])))
        writer = JournalWriter(Path("j"), {"seed": 1})
        writer.append(self.RECORD)
        writer.close()
        assert Journal.read(Path("j")).steps == [self.RECORD]

    def test_a_disk_that_fills_within_a_line_leaves_the_journal_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = JournalWriter(Path("j"), {"seed": 1})
        writer.append(self.RECORD)
        whole, write = Path("j").read_bytes(), os.write

        def full(file: int, data: Any) -> int:
            if len(data) < 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, bytes(data[: len(data) - 10]))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(RunFailed, match=r"No space left on device.*--resume"):
                writer.append(StepRecord(1, [1.0], 0.1, 1.0))
        assert Path("j").read_bytes() == whole
        writer.append(StepRecord(1, [1.0], 0.1, 1.0))
        assert len(Journal.read(Path("j")).steps) == 2

    @pytest.mark.parametrize("file", ["state.json", "newest", "metrics.jsonl", "memory.jsonl"])
    def test_a_full_disk_ends_the_run_with_1_and_it_can_be_resumed(
        self, file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = run("--steps", 6, "--evaluate-every", 2, "--out", "whole")
        opening = Path.open

        def full(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if path.name.startswith(file) and set(mode) & {"w", "a"} and steps_in("r") >= 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return opening(path, mode, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            done = zoplat("run", *TOY, "--steps", 6, "--evaluate-every", 2, "--out", "r", "--quiet")
        assert done.exit_code == 1
        assert "No space left on device" in done.stderr
        assert "--resume --out r" in done.stderr
        the_same(whole, run("--steps", 6, "--evaluate-every", 2, "--out", "r", "--resume"))

    @pytest.mark.parametrize("how", ["deleted", "moved", "journal deleted"])
    def test_a_run_whose_directory_vanishes_ends_with_1(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        append = JournalWriter.append

        def vanish(self: JournalWriter, record: StepRecord) -> None:
            if record.step == 3:
                if how == "deleted":
                    shutil.rmtree("r")
                elif how == "moved":
                    Path("r").rename("moved")
                else:
                    Path("r/journal.jsonl").unlink()
            append(self, record)

        monkeypatch.setattr(JournalWriter, "append", vanish)
        done = zoplat("run", *TOY, "--steps", 6, "--out", "r", "--quiet")
        assert done.exit_code == 1
        assert "r/journal.jsonl is gone" in done.stderr
        assert not Path("r/summary.json").exists()
        assert Path("r").exists() == (how == "journal deleted")

    def test_the_journal_is_flushed_at_checkpoints_and_as_often_as_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flushed: list[int] = []
        sync = JournalWriter.sync

        def count(self: JournalWriter) -> None:
            flushed.append(steps_in("r"))
            sync(self)

        monkeypatch.setattr(JournalWriter, "sync", count)
        run("--steps", 6, "--evaluate-every", 4, "-o", "sync_every=3", "--out", "r")
        assert flushed == [3, 4, 6, 6, 6]  # set, checkpoint, set, the last checkpoint, closed

"""A run is never lost or mixed up: two writers, full disks, vanished folders, damaged files, more steps."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click.testing
import pytest

import zoplat as package
from zoplat.cli import main
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.training.directory import RunDirectory, find_runs
from zoplat.training.journal import Journal, JournalWriter, StepRecord, chained_checksum

TOY = ("--device", "reference", "--estimator", "mezo", "--limit", 16, "--batch-size", 4, "--lr", 1e-2)
FREE = {"seconds", "seconds_training", "overhead_ratio", "peak_bytes", "inference_peak_bytes", "run_dir"}
FREE |= {"step_peak_bytes", "forward_peak_bytes", "drift", "passes_over_weights"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of these tests alone; what is compiled stays in it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ZOPLAT_CACHE", str(cache))


def zoplat(*arguments: Any) -> click.testing.Result:
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    assert "Traceback" not in done.output
    return done


def run(*arguments: Any) -> dict[str, Any]:
    done = zoplat("run", *TOY, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def start(*arguments: Any) -> subprocess.Popen[str]:
    def handle_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "zoplat", *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=handle_interrupts,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_in(folder: str) -> int:
    journal = Path(folder, "journal.jsonl")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def digest_of_replay(folder: str) -> str:
    replayed = json.loads(zoplat("replay", folder, "--json").stdout)
    assert replayed["status"] == "done"
    return str(replayed["weights_digest"])


def the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert {k: v for k, v in one.items() if k not in FREE} == {k: v for k, v in other.items() if k not in FREE}


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

    @pytest.mark.parametrize("file", ["state.json.new", "newest.new", "metrics.jsonl", "memory.jsonl.new"])
    def test_a_full_disk_ends_the_run_with_1_and_it_can_be_resumed(
        self, file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = run("--steps", 6, "--evaluate-every", 2, "--out", "whole")
        opening = Path.open

        def full(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if path.name == file and set(mode) & {"w", "a"} and steps_in("r") >= 2:
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
                    Path("r").rename("elsewhere")
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


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights empty": lambda step: (step / "weights.safetensors").write_bytes(b""),
    "weights changed": lambda step: _flip(step / "weights.safetensors", -3),
    "state cut": lambda step: os.truncate(step / "state.json", 40),
    "state changed": lambda step: _flip(step / "state.json", 9),
    "state a list": lambda step: (step / "state.json").write_text("[]"),
    "newest empty": lambda step: (step.parent / "newest").write_bytes(b""),
    "newest elsewhere": lambda step: (step.parent / "newest").write_text("../../x"),
    "newest no text": lambda step: (step.parent / "newest").write_bytes(b"\xff\xfe\0"),
    "folder gone": lambda step: shutil.rmtree(step),
}


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


class TestDamage:
    """Case damaged-checkpoint, and `zoplat repair`."""

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_damaged_checkpoint_is_dropped_since_the_journal_has_everything(self, damage: str) -> None:
        flags = ("--steps", 12, "--evaluate-every", 5, "--out", "r")
        whole = run(*flags)
        Path("r/summary.json").unlink()
        DAMAGE[damage](Path("r/checkpoint/step-12"))
        done = zoplat("run", *TOY, *flags, "--resume")
        assert done.exit_code == 0, done.stderr
        assert "Warning: " in done.stdout
        assert "It is dropped, and its steps are rebuilt from the journal." in " ".join(done.stdout.split())
        the_same(whole, json.loads(Path("r/summary.json").read_text()))
        assert zoplat("export", "r", "--to", "weights").exit_code == 0

    def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_read(self) -> None:
        whole = run("--steps", 4, "--out", "r")
        Path("r/summary.json").unlink()
        state = Path("r/checkpoint/step-4/state.json")
        table = json.loads(state.read_text())
        del table["checksum"], table["weights_checksum"]
        state.write_text(json.dumps(table))
        the_same(whole, run("--steps", 4, "--out", "r", "--resume"))

    def test_damaged_scores_are_dropped_and_the_first_ones_found_again(self, cache: Path) -> None:
        whole = run("--steps", 4, "--out", "r")
        Path("r/summary.json").unlink()
        shutil.rmtree(cache / "baselines", ignore_errors=True)
        lines = Path("r/metrics.jsonl").read_text().splitlines(keepends=True)
        Path("r/metrics.jsonl").write_text("".join(['{"st"ep": 0}\n', *lines[1:]]))
        again = run("--steps", 4, "--out", "r", "--resume")
        assert (again["dev_before"], again["test_after"]) == (whole["dev_before"], whole["test_after"])
        assert again["weights_digest"] == whole["weights_digest"]

    @pytest.mark.parametrize("content", ["", "[]", '{"peak_bytes": 3}', "{"])
    def test_one_bad_run_does_not_hide_the_others(self, content: str) -> None:
        run("--steps", 2, "--out", "runs/good")
        run("--steps", 2, "--out", "runs/bad")
        Path("runs/bad/summary.json").write_text(content)
        assert len(find_runs(Path("runs"))) == 2
        listed = zoplat("list", "runs")
        assert listed.exit_code == 0
        assert "good" in listed.stdout
        assert "bad" in listed.stdout
        assert len(json.loads(zoplat("list", "runs", "--json").stdout)) == 2

    @pytest.mark.parametrize("section", ["estimator", "device", "tune"])
    def test_settings_without_the_name_of_a_part_open_no_default(self, section: str) -> None:
        run("--steps", 2, "--out", "r")
        whole = Path("r/config.toml").read_text()
        for text in ("", re.sub(rf"(?m)^\[{section}\]\nname = .*\n", f"[{section}]\n", whole)):
            Path("r/config.toml").write_text(text)
            for command in (
                ("run", "--resume", "--out", "r"),
                ("replay", "r"),
                ("eval", "r"),
                ("export", "r", "--to", "w"),
            ):
                refused = zoplat(*command)
                assert refused.exit_code == 2, command
                assert "r/config.toml is damaged: it has no [" in refused.stderr

    @pytest.mark.parametrize(
        ("key", "value"),
        [("versions", ["x"]), ("plugins", 1), ("settings", []), ("rows", {"dev": 1}), ("strategy", "x")],
    )
    def test_a_resigned_header_with_other_types_is_refused(self, key: str, value: Any) -> None:
        run("--steps", 2, "--out", "r")
        chain, lines = "", []
        for number, line in enumerate(Path("r/journal.jsonl").read_text().splitlines()):
            fields = json.loads(line)
            del fields["checksum"]
            body = json.dumps({**fields, key: value} if number == 0 else fields)
            chain = chained_checksum(chain, body)
            lines.append(f'{body[:-1]}, "checksum": "{chain}"}}\n')
        Path("r/journal.jsonl").write_text("".join(lines))
        for command in (("replay", "r"), ("eval", "r"), ("repair", "r")):
            refused = zoplat(*command)
            assert refused.exit_code == 2
            assert f"the header has {key} " in refused.stderr

    @pytest.mark.parametrize(
        "line",
        [
            '{"kind": "phase"}',
            "[]",
            '{"kind": "owner", "owner": 1, "bytes": 2}',
            '{"kind": "phase", "phase": "x", "seconds": "1", "calls": 1, "host_peak": 1}',
        ],
    )
    def test_damaged_lines_of_memory_are_left_out(self, line: str) -> None:
        run("--steps", 2, "--out", "r")
        before = RunDirectory(Path("r")).read_memory()
        assert {row["kind"] for row in before} - {"probe"} == {"phase", "owner"}
        Path("r/memory.jsonl").write_bytes(line.encode() + b"\n\xff\n" + Path("r/memory.jsonl").read_bytes())
        assert RunDirectory(Path("r")).read_memory() == before
        assert zoplat("run", "--resume", "--out", "r").exit_code == 0

    @pytest.mark.parametrize(
        ("key", "value"),
        [("peak_bytes", None), ("peak_bytes", 3), ("steps", "six"), ("seconds", 10**400), ("model", [])],
    )
    def test_a_summary_with_other_types_is_written_anew(self, key: str, value: Any) -> None:
        whole = run("--steps", 3, "--out", "r")
        Path("r/summary.json").write_text(json.dumps({**whole, key: value}))
        assert zoplat("list", "runs", "--in", ".").exit_code == 0
        the_same(whole, run("--steps", 3, "--out", "r", "--resume"))

    def test_a_resigned_state_with_other_types_is_dropped(self) -> None:
        flags = ("--estimator", "zo-adam", "--steps", 3, "--out", "r")
        whole = run(*flags)
        Path("r/summary.json").unlink()
        path = Path("r/checkpoint/step-3/state.json")
        state = json.loads(path.read_text())
        assert state["states"]["rule"]["state"]["fields"]["steps"] == 3
        state["states"]["rule"]["state"]["fields"]["steps"] = "three"
        del state["checksum"]
        path.write_text(
            json.dumps({**state, "checksum": blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()})
        )
        refused = zoplat("run", "--resume", "--out", "r")
        assert refused.exit_code == 1
        assert "whose steps is three" in refused.stderr
        the_same(whole, run(*flags, "--resume"))

    def test_a_damaged_summary_is_written_anew(self) -> None:
        whole = run("--steps", 3, "--out", "r")
        Path("r/summary.json").write_text("")
        the_same(whole, run("--steps", 3, "--out", "r", "--resume"))

    def test_repair_cuts_the_journal_back_and_says_what_was_lost(self) -> None:
        whole = run("--steps", 9, "--evaluate-every", 4, "--out", "r")
        lines = Path("r/journal.jsonl").read_bytes().splitlines(keepends=True)
        Path("r/journal.jsonl").write_bytes(b"".join([*lines[:6], b"\0" * 50 + lines[6][50:], *lines[7:]]))
        refused = zoplat("run", *TOY, "--steps", 9, "--evaluate-every", 4, "--out", "r", "--resume")
        assert "zoplat repair" in zoplat("replay", "r").stderr
        assert refused.exit_code in (0, 2)
        repaired = zoplat("repair", "r")
        assert repaired.exit_code == 0, repaired.stderr
        assert "line 7: the line does not match its checksum" in repaired.stdout
        assert "5 whole steps are left" in repaired.stdout
        assert Path("r/journal.damaged").read_bytes() == b"\0" * 50 + lines[6][50:] + b"".join(lines[7:])
        assert Path("r/journal.jsonl").read_bytes() == b"".join(lines[:6])
        the_same(whole, run("--steps", 9, "--evaluate-every", 4, "--out", "r", "--resume"))
        assert json.loads(zoplat("repair", "r", "--json").stdout) == {"status": "intact", "lost": []}

    def test_repair_without_anything_to_keep_is_refused(self) -> None:
        run("--steps", 2, "--out", "r")
        _flip(Path("r/journal.jsonl"), 5)
        assert zoplat("repair", "r").exit_code == 2
        assert zoplat("repair", "nothing").exit_code == 2
        assert not Path("nothing").exists()


class TestMore:
    """Case resume-longer; settings of a resumed run, and what it cost."""

    def test_a_run_is_made_longer_with_the_bits_of_one_long_run(self) -> None:
        long = run("--steps", 8, "--evaluate-every", 3, "--out", "long")
        run("--steps", 4, "--evaluate-every", 3, "--out", "r")  # ends where the long run is not settled
        done = zoplat("run", "--resume", "--out", "r", "--steps", 8, "--json")
        assert done.exit_code == 0, done.stderr
        the_same(long, {**json.loads(done.stdout), "evaluation_passes": long["evaluation_passes"]})
        extended, whole = (Journal.read(Path(folder, "journal.jsonl")).steps for folder in ("r", "long"))
        assert extended == whole, "their headers have another budget"
        assert digest_of_replay("r") == long["weights_digest"]
        assert RunDirectory(Path("r")).read_config().steps == 8

    def test_what_is_refused_lists_only_what_was_given(self) -> None:
        run("--steps", 4, "--out", "r")
        done = zoplat("run", "--resume", "--out", "r", "--lr", 0.5)
        assert done.exit_code == 2
        assert [line for line in done.stderr.splitlines() if "→" in line] == ["  estimator.rule.lr: 0.01 → 0.5"]
        done = zoplat("run", "--resume", "--out", "r", "--estimator", "lozo")
        assert [line for line in done.stderr.splitlines() if "→" in line] == ["  estimator.name: 'mezo' → 'lozo'"]
        done = zoplat("run", "--resume", "--out", "r", "--steps", 2)
        assert done.exit_code == 2
        assert "r made 4 steps already" in done.stderr

    def test_a_run_whose_steps_depend_on_its_length_is_not_made_longer(self) -> None:
        run("--steps", 4, "--step-rule", "cosine", "--out", "r")
        before = Path("r/summary.json").read_bytes()
        done = zoplat("run", "--resume", "--out", "r", "--steps", 8)
        assert done.exit_code == 2
        assert "steps: 4 → 8" in done.stderr
        assert Path("r/summary.json").read_bytes() == before

    def test_python_resumes_with_what_it_is_given_too(self) -> None:
        run("--steps", 4, "--out", "r")
        assert package.run(out="r", resume=True, steps=6).summary.steps == 6

    def test_seconds_and_passes_and_peaks_of_all_processes_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = run("--steps", 9, "--evaluate-every", 3, "--out", "whole")
        append = JournalWriter.append

        def interrupt(self: JournalWriter, record: StepRecord) -> None:
            append(self, record)
            if record.step == 4:
                time.sleep(0.3)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(JournalWriter, "append", interrupt)
            with pytest.raises(KeyboardInterrupt):
                package.run(**TABLE, steps=9, evaluate_every=3, out="r")
        costs = json.loads(Path("r/checkpoint/costs.json").read_text())
        resumed = run("--steps", 9, "--evaluate-every", 3, "--out", "r", "--resume")
        assert resumed["passes_over_weights"] == pytest.approx(whole["passes_over_weights"], abs=1.01)
        assert resumed["seconds"] > costs["seconds"] > 0.3
        assert resumed["seconds_training"] >= costs["seconds_training"]
        assert resumed["peak_bytes"]["host"] >= max(phase["host_peak"] for phase in costs["phases"].values())
        rows = [json.loads(line) for line in Path("r/memory.jsonl").read_text().splitlines()]
        assert next(row["calls"] for row in rows if row.get("phase") == "open") == 2

    def test_paths_of_task_and_data_are_recorded_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [
            json.dumps({"text": f"{word} {number}", "label": label})
            for number in range(8)
            for word, label in (("good", "yes"), ("bad", "no"))
        ]
        Path("rows").mkdir()
        for split, some in (("train", rows[:8]), ("dev", rows[8:12]), ("test", rows[12:])):
            Path("rows", f"{split}.jsonl").write_text("\n".join(some) + "\n")
        Path("own.toml").write_text(OWN_TASK)
        summary = run("--task", "own.toml", "--data", "rows", "--steps", 2, "--out", "r")
        config = RunDirectory(Path("r")).read_config()
        assert (config.task, config.data) == (os.path.abspath("own.toml"), os.path.abspath("rows"))
        folder = Path("r").absolute()
        Path("deeper").mkdir()
        monkeypatch.chdir("deeper")
        assert digest_of_replay(str(folder)) == summary["weights_digest"]
        assert zoplat("run", "--resume", "--out", folder, "--steps", 3).exit_code == 0


TABLE = {"device": "reference", "estimator": "mezo", "limit": 16, "batch_size": 4, "lr": 1e-2}
OWN_TASK = """
prompt = "{text} It was"

[options]
no = " bad"
yes = " good"
"""


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

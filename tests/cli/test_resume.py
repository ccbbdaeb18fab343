"""A run that was killed, interrupted or had skipped steps ends with the same bits."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import zoplat as package
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import JournalWriter, StepRecord
from zoplat.training.live_run import LiveRun
from zoplat.training.predicted import read_predictions

MOMENTUM = '''"""Momentum with bias correction: state is a buffer, a list of buffers, a number and a list of numbers."""

from dataclasses import dataclass, field

from zoplat import Buffer, StepRule, hookimpl


@dataclass
class State:
    m: Buffer
    more: list[Buffer]
    weight: float = 0.0
    seen: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Momentum(StepRule):
    """m ← βm + (1 − β)ĝ; θ ← θ − η m/(1 − βᵗ).

    Attributes:
        lr: η.
        beta: β.
    """

    lr: float = 0.02
    beta: float = 0.9

    def init(self, space):
        return State(space.buffer("momentum/m"), [space.buffer("momentum/sum", fill=1.0)])

    def apply(self, estimate, oracle, state):
        state.weight = self.beta * state.weight + (1 - self.beta)
        state.seen = [*state.seen, sum(estimate.losses)][-3:]

        def kernel(theta, g, m, total):
            m *= self.beta
            m += (1 - self.beta) * g
            total += m * m
            theta -= self.lr / state.weight * m / total**0.5

        oracle.space.sweep(kernel, estimate.direction, state.m, *state.more)


@hookimpl
def zoplat_step_rules():
    return {"own-momentum": Momentum()}
'''

FRAGILE = '''"""A central difference that steps on infinity now and then."""

from dataclasses import dataclass

from zoplat import ZERO, Estimate, Estimator, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass(frozen=True)
class Fragile(Estimator):
    """Every `every`-th step, and every one from `after` on, asks where no loss is finite.

    Attributes:
        every: a step in so many.
        after: none is finite from here.
        eps: ε.
    """

    every: int = 4
    after: int = 1_000_000
    eps: float = 0.01
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=0.02)

    def estimate(self, oracle, state):
        [z] = oracle.draw(self.sampler, 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        if (oracle.step + 1) % self.every == 0 or oracle.step >= self.after:
            oracle.losses(ZERO, 3e38 * z)
            raise AssertionError("this loss was to be infinite")
        yield Estimate((up - down) / (2 * self.eps) * z, [up, down], self.eps)


@hookimpl
def zoplat_estimators():
    return {"fragile": Fragile()}
'''

STATELESS = ("--lr", 0.02, "--eps", 0.01, "-o", "rule.decay=0.01")
STATEFUL = ("--step-rule", "own-momentum", "-o", "rule.beta=0.8")


def flags(zoplat: Any, *more: Any) -> tuple[Any, ...]:
    return (*zoplat.toy, "--steps", 300, "--evaluate-every", 9, "--seed", 3, *more)


def the_same(one: Path, other: Path) -> None:
    """Check that two runs have the same bits, journals and scores."""
    for name in ("journal.jsonl", "config.toml", "environment.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert _scores(one) == _scores(other)
    after = [max(read_predictions(path / "predictions.jsonl").items()) for path in (one, other)]
    assert after[0] == after[1]
    first, second = (json.loads((path / "summary.json").read_text()) for path in (one, other))
    free = {"seconds", "seconds_training", "overhead_ratio", "peak_bytes", "inference_peak_bytes", "run_dir"}
    free |= {"passes_over_weights", "drift", "step_peak_bytes", "forward_peak_bytes"}  # of the process, not of the run
    assert {k: v for k, v in first.items() if k not in free} == {k: v for k, v in second.items() if k not in free}


def _scores(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    free = {"seconds", "seconds_training", "changed", "drift"}  # of the process: what it saw since it opened the model
    return [{name: value for name, value in record.items() if name not in free} for record in records]


def kill_after(process: Any, seconds: float, how: signal.Signals) -> None:
    time.sleep(seconds)
    process.send_signal(how)
    process.communicate()


def steps_in(run: Path) -> int:
    journal = run / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [STATELESS, STATEFUL], ids=["without state", "with state"])
def test_a_run_killed_again_and_again_ends_in_the_same_bits(zoplat: Any, distribution: Any, more: Any) -> None:
    """Killed at random moments, at start-up, in steps, in evaluations and in writing checkpoints alike."""
    site = str(distribution("zoplat-momentum", MOMENTUM))
    began = time.perf_counter()
    zoplat.start("run", *flags(zoplat, *more), "--out", "whole", PYTHONPATH=site).communicate()
    whole, moments = time.perf_counter() - began, random.Random(20)
    reached = []
    for _ in range(12):
        process = zoplat.start("run", *flags(zoplat, *more), "--out", "torn", "--resume", PYTHONPATH=site)
        kill_after(process, whole * (0.6 + moments.random() * 0.6), signal.SIGKILL)
        reached.append(steps_in(Path("torn")))
    assert reached[-1] > 0, "killed too early each time"
    done = zoplat("run", *flags(zoplat, *more), "--out", "torn", "--resume", "--json")
    assert done.exit_code == 0, done.stderr
    the_same(Path("whole"), Path("torn"))
    assert json.loads(zoplat("replay", "torn", "--json").stdout)["status"] == "done"


def test_a_run_cut_off_before_any_of_its_writes_ends_in_the_same_bits(
    zoplat: Any, distribution: Any, monkeypatch: Any
) -> None:
    """As `kill -9` between two writes, at every place where the run directory changes."""
    distribution("zoplat-momentum", MOMENTUM)
    table = {"device": "reference", "limit": 4, "batch_size": 4, "step_rule": "own-momentum", "steps": 4}
    table["evaluate_every"] = 2
    from zoplat.training import checkpoint, directory
    from zoplat.training.checkpoint import Checkpoints
    from zoplat.training.directory import RunDirectory
    from zoplat.training.journal import JournalWriter

    class Killed(BaseException):
        pass

    def mortal(function: Any) -> Any:
        def write(*arguments: Any, **named: Any) -> Any:
            clock["left"] -= 1
            if clock["left"] < 0:
                raise Killed
            return function(*arguments, **named)

        return write

    places = [
        (JournalWriter, "append"),
        (Checkpoints, "save"),
        (RunDirectory, "add_metrics"),
        (directory, "replace_text"),
        (checkpoint, "replace_text"),
    ]
    clock = {"left": 1 << 30}
    for owner, name in places:
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    package.run(**table, out="whole")
    writes = (1 << 30) - clock["left"]
    for cut in range(writes):
        clock["left"] = cut
        with pytest.raises(Killed):
            package.run(**table, out=f"torn-{cut}")
        clock["left"] = 1 << 30
        package.run(**table, out=f"torn-{cut}", resume=True)
        the_same(Path("whole"), Path(f"torn-{cut}"))
    assert writes > 20


def test_a_journal_cut_anywhere_is_continued_from_there(zoplat: Any) -> None:
    """Also where a checkpoint and scores are ahead of it, as after a power cut."""
    arguments = ("--steps", 12, "--evaluate-every", 5, *STATELESS)
    zoplat.run(*arguments, "--out", "whole")
    lines = Path("whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    for whole, part in ((13, 0), (12, 1), (8, 0), (0, 50)):
        out = Path(f"cut-{whole}")
        shutil.copytree("whole", out)
        (out / "summary.json").unlink()
        (out / "journal.jsonl").write_bytes(b"".join(lines[:whole]) + b"".join(lines[whole:])[:part])
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "spl')
        zoplat.run(*arguments, "--out", out, "--resume")
        the_same(Path("whole"), out)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_exits_with_130_and_can_be_resumed(zoplat: Any, how: signal.Signals) -> None:
    arguments = ("--steps", 80, "--evaluate-every", 30, *STATELESS)
    process = zoplat.start("run", *zoplat.toy, *arguments, "--out", "torn")
    deadline = time.monotonic() + 20
    while steps_in(Path("torn")) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.startswith("Interrupted; what was done is saved.")
    assert errors.count("\n") == 1
    done = steps_in(Path("torn"))
    assert 10 <= done < 80
    assert (Path("torn") / "memory.jsonl").exists()
    resumed = zoplat("run", "--out", "torn", "--resume")
    assert f"resumed: {done} steps" in resumed.stdout
    zoplat.run(*arguments, "--out", "whole")
    the_same(Path("whole"), Path("torn"))


def test_resuming_a_finished_run_only_prints_its_summary(zoplat: Any, monkeypatch: Any) -> None:
    summary = zoplat.run("--steps", 3, "--out", "out")
    before = zoplat.files()
    from zoplat_devices.reference import Reference

    monkeypatch.setattr(Reference, "open", None)
    done = zoplat("run", "--out", "out", "--resume", "--json")
    assert json.loads(done.stdout) == summary
    assert "3 steps, 6 forward passes" in zoplat("run", "--out", "out", "--resume").stdout
    assert zoplat.files() == before


def test_resume_begins_a_run_where_there_is_none_and_says_so(zoplat: Any) -> None:
    done = zoplat("run", "--device", "reference", "--steps", 2, "--out", "runs/new", "--resume", "--json")
    assert json.loads(done.stdout)["steps"] == 2
    assert "runs/new has no run to go on with, so a new one begins there" in done.stderr


def test_resume_without_settings_of_a_folder_without_a_run_is_refused(zoplat: Any) -> None:
    zoplat.run("--steps", 2, "--out", "runs/mine")
    error = zoplat.refused("run", "--resume", "--out", "runs/mien")
    assert "there is no run to go on with. Did you mean runs/mine?" in error
    assert not Path("runs/mien").exists()


def test_costs_of_a_killed_process_are_kept_and_what_is_missing_is_said(zoplat: Any, monkeypatch: Any) -> None:
    """Steps after the costs were last written have neither seconds nor phases; what is rebuilt has its own phase."""
    append, write = JournalWriter.append, LiveRun._write_costs
    arguments = ("run", "--device", "reference", "--estimator", "zo-adam", "--steps", 12, "--out", "r")

    def killed(self: JournalWriter, record: StepRecord) -> None:
        append(self, record)
        if record.step == 7:
            patch.setattr(LiveRun, "_write_costs", lambda self: None)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoplat.training.live_run.COSTS_EVERY", -1.0)
        patch.setattr(JournalWriter, "append", killed)
        assert zoplat(*arguments).exit_code == 130
    assert LiveRun._write_costs is write
    done = zoplat(*arguments, "--resume", "--json")
    assert "of its last 1 steps neither seconds nor memory are on record" in " ".join(done.stderr.split())
    phases = {row["phase"]: row for row in RunDirectory(Path("r")).read_memory() if row["kind"] == "phase"}
    assert phases["forward"]["calls"] >= 11, "of 7 steps before and 4 after"
    assert phases["rebuild"]["calls"] == 1
    assert phases["rule"]["calls"] < 12 * 4, "what is rebuilt is not counted again"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
class TestNonFinite:
    """Losses that are not finite: skipped, counted, journaled, replayed."""

    TWELVE = ("--estimator", "fragile", "-o", "device.restore=exact", "--steps", 12)

    def test_steps_without_a_finite_loss_are_skipped_and_counted(self, zoplat: Any, distribution: Any) -> None:
        distribution("zoplat-fragile", FRAGILE)
        summary = zoplat.run(*self.TWELVE, "--out", "out")
        assert (summary["skipped_steps"], summary["steps"]) == (3, 12)
        assert summary["forward_passes"] == 12 * 2 + 3 * 2
        records = [json.loads(line) for line in Path("out/journal.jsonl").read_text().splitlines()[1:]]
        lost = [record["answers"][-1] for record in records if len(record["answers"]) == 4]
        assert len(lost) == 3
        assert set(lost) <= {"nan", "inf", "-inf"}
        json.loads(Path("out/summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))

    def test_a_run_with_skipped_steps_replays_and_resumes_to_the_same_bits(
        self, zoplat: Any, distribution: Any
    ) -> None:
        distribution("zoplat-fragile", FRAGILE)
        arguments = (*self.TWELVE, "--evaluate-every", 5)
        summary = zoplat.run(*arguments, "--out", "out")
        assert json.loads(zoplat("replay", "out", "--json").stdout)["weights_digest"] == summary["weights_digest"]
        zoplat.run(*arguments, "--out", "torn")
        Path("torn/summary.json").unlink()
        lines = Path("torn/journal.jsonl").read_bytes().splitlines(keepends=True)
        Path("torn/journal.jsonl").write_bytes(b"".join(lines[:10]))
        zoplat.run(*arguments, "--out", "torn", "--resume")
        the_same(Path("out"), Path("torn"))

    def test_twenty_in_a_row_end_the_run_with_exit_1_and_keep_the_journal(self, zoplat: Any, distribution: Any) -> None:
        distribution("zoplat-fragile", FRAGILE)
        arguments = (*zoplat.toy, *self.TWELVE[:-1], 100, "-o", "every=1000", "-o", "after=10")
        done = zoplat("run", *arguments, "--out", "out", "--quiet")
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)
        assert "20 steps in a row, up to step 29, could not be made. The last one: The loss at step 29" in done.stderr
        assert "kept in out" in done.stderr
        assert steps_in(Path("out")) == 30
        assert not Path("out/summary.json").exists()
        assert json.loads(zoplat("replay", "out", "--json").stdout)["steps"] == 30

    def test_a_radius_that_no_weight_can_hold_ends_with_exit_1(self, zoplat: Any) -> None:
        done = zoplat("run", *zoplat.toy, "--eps", 1e300, "--steps", 60, "--quiet")
        assert done.exit_code == 1
        assert "20 steps in a row, up to step 19, could not be made" in done.stderr


def test_a_killed_process_leaves_a_complete_checkpoint(zoplat: Any) -> None:
    """The newest checkpoint is complete at any time: `newest` is replaced after its folder was written."""
    zoplat.run("--steps", 6, "--evaluate-every", 2, "--out", "out")
    Path("out/summary.json").unlink()
    broken = Path("out/checkpoint/step-8")
    broken.mkdir()
    (broken / "weights.safetensors").write_bytes(b"torn")
    assert zoplat.run("--steps", 6, "--evaluate-every", 2, "--out", "out", "--resume")["steps"] == 6
    assert os.listdir("out/checkpoint").count("step-6") == 1


def test_a_finished_run_whose_journal_is_cut_or_gone_says_so_and_so_does_its_report(zoplat: Any) -> None:
    zoplat.run("--steps", 3, "--evaluate-every", 1, "--out", "out")
    journal = Path("out/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]))
    cut = "out/journal.jsonl ends after 1 step; the run made 3. `zoplat repair out` and `zoplat run --resume --out out`"
    assert cut in zoplat.refused("replay", "out")
    for command in (("run", "--resume", "--out", "out", "--quiet"), ("report", "out")):
        done = zoplat(*command)
        assert (done.exit_code, cut in done.stderr) == (0, True), done.stderr
    journal.unlink()
    for command in (("run", "--resume", "--out", "out", "--quiet"), ("report", "out")):
        done = zoplat(*command)
        assert (done.exit_code, "out/journal.jsonl is gone" in done.stderr) == (0, True), done.stderr
    journal.write_bytes(b"".join(lines))
    assert zoplat("run", "--resume", "--out", "out", "--quiet").stderr == ""


def test_the_command_that_helps_with_a_damaged_journal_has_the_name_of_the_run(zoplat: Any) -> None:
    zoplat.run("--steps", 2, "--out", "my run")
    journal = Path("my run/journal.jsonl")
    journal.write_bytes(journal.read_bytes().replace(b'"step": 1', b'"step": 7'))
    assert "`zoplat repair 'my run'` goes back to them" in zoplat.refused("replay", "my run")

"""Runs within a limit: what is chosen and refused, what enforces it, what is said when memory was not enough."""

import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from click.testing import CliRunner

from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import RunFailed, ZoplatError, bytes_asked, is_out_of_memory
from zoplat.core.memory import MemoryReading
from zoplat.planning.fixed import Share
from zoplat.planning.memory import Planned, Rehearsals
from zoplat.planning.within import chosen, train_within
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.limit import over_inference
from zoplat.training.profiler import Profiler
from zoplat.training.progress import Progress
from zoplat_devices.memory import data_within, trim

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
MIB = 1 << 20


@pytest.fixture
def given(small_model: Any, rows: Any, tmp_path: Path) -> dict[str, Any]:
    """Settings of a run whose forward passes take some MiB."""
    model = small_model(hidden_size=64, intermediate_size=2048)
    data = rows(tmp_path / "rows", varied=True, train=32)
    more = {"estimator": "mezo", "tune": "full", "dtype": "float32", "batch_size": 16, "lr": 1e-4, "steps": 4}
    return {"model": str(model), "data": str(data), "task": "sentiment", "device": "cpu", **more}


@pytest.fixture
def arrays_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans count arrays alone, so that limits do not depend on what libraries take here."""
    monkeypatch.setattr("zoplat.planning.memory.fixed_costs", lambda *_: ())


def limits(config: RunConfig, **smaller: Any) -> int:
    """Bytes at the peak of a run with these settings."""
    return Rehearsals().planned(replace(config, **smaller), is_limited=True).total.high


@pytest.mark.usefixtures("arrays_only")
def test_rows_a_pass_are_chosen_so_that_a_run_fits(given: dict[str, Any]) -> None:
    config = resolve({**given, "memory": "1GiB"})
    size = limits(config, micro_batch_size=4)
    found, limit = chosen(config, size, False, given)
    assert found.read_at_once in (4, 8)
    assert f"--micro-batch-size {found.read_at_once}" in limit.chosen
    assert limit.highest <= size < limits(config)
    assert "chosen to fit" in limit.text("RLIMIT_DATA")


@pytest.mark.parametrize(("factors", "is_moved"), [(60, True), (20, False)])
def test_weights_are_moved_where_factors_take_more_than_passes(
    given: dict[str, Any], factors: int, is_moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(self: Any, config: RunConfig, is_limited: bool) -> Planned:
        held = factors if config.device.side_terms else 0
        owners = {"factors": held, "activations": 2 * config.read_at_once, "logits": 1, "trainable weights": 10}
        shares = tuple(Share.counted(owner, size) for owner, size in owners.items())
        return Planned(shares, 0, 1, 0, None, None, {"strategy": "side-terms", "device": "cpu"}, (16, 20), 0)

    monkeypatch.setattr(Rehearsals, "planned", planned)
    config = resolve({**given, "memory": "1GiB"})
    found, limit = chosen(config, 55, False, given)
    assert found.device.side_terms != is_moved
    assert limit.chosen == ("-o device.side_terms=false" if is_moved else "--micro-batch-size 8")
    with pytest.raises(RunFailed):
        chosen(config, 50, True, given)


@pytest.mark.usefixtures("arrays_only")
def test_only_what_changes_no_bit_is_chosen_for_a_run_that_was_begun(given: dict[str, Any]) -> None:
    config = resolve({**given, "memory": "1GiB"})
    with pytest.raises(RunFailed, match="same bits with --resume --memory"):
        chosen(config, limits(config, micro_batch_size=4), True, given)


@pytest.mark.usefixtures("arrays_only")
def test_what_was_asked_for_is_not_changed(given: dict[str, Any]) -> None:
    config = resolve({**given, "memory": "1GiB", "micro_batch_size": 16, "eval_batch_size": 16})
    with pytest.raises(RunFailed, match="What would fit"):
        chosen(config, limits(config, micro_batch_size=4, eval_batch_size=4), False, given)


def test_a_run_that_cannot_fit_is_refused_before_weights_are_read(given: dict[str, Any]) -> None:
    (Path(given["model"]) / "model.safetensors").unlink()
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = CliRunner().invoke(main, ["run", *flags, "--memory", "64MiB", "--out", "run"])
    assert done.exit_code == 1
    assert "--memory 64MiB is 0.06 GiB" in done.stderr
    assert "What would fit:\n  --memory " in done.stderr
    assert "python, torch and transformers alone take" in done.stderr
    assert "`zoplat pack` makes a bundle that a runner without torch trains" in done.stderr
    assert "a smaller model" not in done.stderr
    assert not Path("run/config.toml").exists()


def test_a_limit_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ZoplatError, match="--memory takes a number of bytes"):
        train_within({**given, "memory": "lots"})


class Lowered(Callback):
    """Takes the room for growth away after some steps, so that the next allocation of some size fails."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def limited(self, text: str) -> None:
        self.lines.append(text)

    def stepped(self, progress: Progress, loss: float | None) -> None:
        import resource

        if progress.step == 2:
            gc.collect()
            trim()
            now = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) * 1024
            most = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (now + MIB, most))


@linux
@pytest.mark.slow
def test_a_run_that_runs_out_keeps_its_journal_and_goes_on_to_the_same_bits(given: dict[str, Any]) -> None:
    whole = train_within({**given}, Path("whole"))
    callback, limited = Lowered(), {**given, "memory": "64GiB"}
    with pytest.raises(RunFailed) as failed:
        train_within(limited, Path("run"), callback=callback)
    text = str(failed.value)
    assert callback.lines[0].startswith("memory 64GiB, enforced by RLIMIT_DATA")
    assert failed.value.exit_status == 1
    assert "Out of memory in the phase '" in text
    assert "all 2 steps" in text
    assert "To go on with it, to the same bits: --resume --out run and " in text
    journal = RunDirectory(Path("run")).read_journal()
    assert journal is not None
    assert len(journal.steps) == 2
    again = train_within({**limited, "memory": "80GiB", "eval_batch_size": 4}, Path("run"), resume=True)
    assert again.summary.weights_digest == whole.summary.weights_digest
    assert RunDirectory(Path("run")).read_config().memory == "80GiB"


def test_a_change_of_bits_is_refused_for_a_run_that_was_begun(given: dict[str, Any]) -> None:
    train_within({**given, "steps": 2}, Path("run"))
    with pytest.raises(ZoplatError, match="micro_batch_size: None → 4"):
        train_within({**given, "steps": 4, "micro_batch_size": 4}, Path("run"), resume=True)


@linux
def test_the_system_refuses_what_exceeds_a_limit() -> None:
    from zoplat_devices.memory import HostMemory

    size = 512 * MIB
    with data_within(HostMemory().now() + size // 2) as by:
        assert by == "RLIMIT_DATA"
        with pytest.raises(RuntimeError) as failed:
            torch.empty(size, dtype=torch.uint8)
        assert is_out_of_memory(failed.value)
        assert bytes_asked(failed.value) == size
    assert torch.empty(size, dtype=torch.uint8).nbytes == size


@pytest.mark.parametrize(
    ("problem", "size"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), 2 << 30),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            64,
        ),
        (MemoryError("Unable to allocate 1.50 MiB for an array"), 3 << 19),
        (MemoryError(), 0),
        (RuntimeError("can't start new thread"), 0),
    ],
)
def test_messages_of_allocators_are_understood(problem: Exception, size: int) -> None:
    assert is_out_of_memory(problem)
    assert bytes_asked(problem) == size
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


class Owners:
    """In place of a session: what its ledger says."""

    def ledger(self) -> dict[str, int]:
        return {"trainable weights": 500 * MIB, "momentum": 60 * MIB, "scratch": 5 * MIB}


def test_a_run_says_when_training_takes_more_than_inference() -> None:
    peak = [600 * MIB]
    profiler = Profiler(lambda: MemoryReading(0, peak[0]), lambda: None)
    with profiler.phase("inference"):
        pass
    peak[0] = 610 * MIB
    with profiler.phase("forward"):
        pass
    session: Any = Owners()
    assert over_inference(profiler, session) is None
    peak[0] = 700 * MIB
    with profiler.phase("forward"):
        pass
    text = over_inference(profiler, session)
    assert text is not None
    assert text.startswith(
        "training takes 700 MiB, 17 % more than inference: momentum 60 MiB, scratch 5 MiB, and 35 MiB"
    )


@linux
@pytest.mark.slow
def test_the_packaged_model_trains_within_a_gibibyte(rows: Any, tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", train=16, dev=4, test=4)
    flags = ["--task", "sst2", "--data", str(data), "--estimator", "mezo", "--tune", "full", "--dtype", "bfloat16"]
    flags += ["--steps", "2", "--batch-size", "8", "--seed", "1"]

    def zoplat(*arguments: str) -> Any:
        done = subprocess.run([sys.executable, "-m", "zoplat", *arguments, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    limited = zoplat("run", *flags, "--memory", "1GiB", "--out", "limited")
    plan = zoplat("plan", *flags, "--memory", "1GiB", "--alone")
    assert plan["verdict"] == "fits"
    free = zoplat("run", *flags, "--out", "free")
    assert limited["peak_bytes"]["host"] < 1 << 30 < free["peak_bytes"]["host"]
    assert limited["peak_bytes"]["host"] < plan["modes"][0]["bytes"]["high"]
    losses = [RunDirectory(Path(run)).read_journal() for run in ("limited", "free")]
    first, other = ([answer for step in found.steps for answer in step.answers] for found in losses if found)
    assert first == pytest.approx(other, rel=0.02)  # bfloat16 has 8 bits


def zoplat(*given: object, before: Any = None) -> Any:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "zoplat", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before)


def flags_of(given: dict[str, Any]) -> list[str]:
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.slow
@linux
def test_a_run_with_30_percent_too_little_goes_on_with_what_is_suggested(given: dict[str, Any]) -> None:
    flags = flags_of(given)
    assert zoplat("run", *flags, "--out", "whole").returncode == 0
    assert zoplat("run", *flags, "--steps", 2, "--out", "run").returncode == 0
    journal = RunDirectory(Path("run")).read_journal()
    plan = json.loads(zoplat("plan", *flags, "--alone", "--memory", "8GiB", "--json").stdout)
    little = f"{int(0.7 * plan['modes'][0]['bytes']['expected']) // MIB}MiB"
    failed = zoplat("run", *flags, "--resume", "--out", "run", "--memory", little)
    assert failed.returncode == 1, failed.stderr
    assert f"--memory {little} is" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert RunDirectory(Path("run")).read_journal() == journal
    suggested = failed.stderr.partition("--resume --memory ")[2].split()[0].strip(".")
    done = zoplat("run", *flags, "--resume", "--out", "run", "--memory", suggested)
    assert done.returncode == 0, done.stderr
    digests = [json.loads((Path(run) / "summary.json").read_text())["weights_digest"] for run in ("whole", "run")]
    assert digests[0] == digests[1]


@pytest.mark.slow
@linux
@pytest.mark.parametrize("mib", [300, 420])
def test_a_limit_of_the_system_below_that_of_the_run_ends_with_a_message(given: dict[str, Any], mib: int) -> None:
    import resource

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (mib * MIB, mib * MIB))

    wide = {**given, "batch_size": 32, "eval_batch_size": 32}
    failed = zoplat("run", *flags_of(wide), "--out", "run", "--memory", "4GiB", before=lower)
    assert failed.returncode == 1, failed.stderr
    assert "Out of memory in the phase" in failed.stderr
    assert f"{mib / 1024:.2f} GiB of private memory that the system allows" in failed.stderr
    assert "Traceback" not in failed.stderr

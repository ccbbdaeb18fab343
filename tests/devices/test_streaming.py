"""The streaming strategy: the bits of the sequential one, each layer brought in once for all points."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat import ZERO, Direction, Example, Key, ModelSpec, ZoplatError
from zoplat.cli import main
from zoplat.config.layers import build
from zoplat.core.losses import LossBackend
from zoplat.core.model_spec import Tuning
from zoplat.core.oracle import Oracle
from zoplat.training.callbacks import Callback
from zoplat.training.train import train
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.mapped import files, lies_in
from zoplat_devices.pytorch.strategies.relay import Relay
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
EXAMPLES = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
]
MEZO = ("--estimator", "mezo", "--lr", 1e-3, "-o", "rule.decay=0.1")
FZOO = ("--estimator", "fzoo", "--eps", 1e-2)
LOZO = ("--estimator", "lozo", "--lr", 1e-3)
ADAM = ("--estimator", "zo-adam", "--lr", 1e-3)
BFLOAT16 = ("--dtype", "bfloat16")
RUNS = [
    ("llama", {}, MEZO),
    ("llama", {"tied": False}, FZOO),
    ("llama", {"dtype": "bfloat16"}, (*LOZO, *BFLOAT16)),
    ("llama", {}, (*LOZO, "--tune", "lora")),
    ("llama", {}, (*MEZO, "--micro-batch-size", 2)),
    ("opt", {}, LOZO),
    ("opt", {"tied": False}, (*MEZO, "--tune", r"layers\.1|lm_head")),
    ("gpt2", {}, FZOO),
    ("gpt2", {"dtype": "bfloat16"}, (*MEZO, *BFLOAT16, "-o", "device.rounding=stochastic")),
    ("gemma", {"tied": False}, MEZO),
    ("gemma", {}, ADAM),
    ("t5", {}, FZOO),
    ("roberta", {}, MEZO),
    ("bert", {}, ("--estimator", "hizoo", "--lr", 1e-3)),
    ("llama", {}, ("--estimator", "forward-grad", "--lr", 1e-3)),
    ("llama", {}, ("--estimator", "mezo", "--eps", 0.3, "--lr", 1e-2, "--objective", "accuracy")),
]
QUICK = [RUNS[at] for at in (0, 2, 3, 7, 8, 12)]


def command(*arguments: Any) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


def run(folder: Path, strategy: str, *more: Any, restore: str = "exact") -> tuple[dict[str, Any], list[list[float]]]:
    """The summary of a few steps, and the answers of each."""
    arguments = ["--model", folder, "--steps", 4, "--limit", 8, "--batch-size", 4, "--evaluate-every", 3]
    arguments += ["--device", "cpu", "-o", f"device.strategy={strategy}", "-o", f"device.restore={restore}", "--quiet"]
    more = more if "--dtype" in more else (*more, "--dtype", "float32")
    summary = command("run", *arguments, *more)
    lines = Path(summary["run_dir"], "journal.jsonl").read_text().splitlines()
    return summary, [json.loads(line)["answers"] for line in lines[1:]]


def opened(folder: Path, tune: str = "full", dtype: str = "float32", **settings: Any) -> Any:
    """A session whose trial of padding is over, so that it is in no count."""
    device: Any = PyTorch(**{"strategy": "streaming", **settings})
    session = device.open(ModelSpec(str(folder), Tuning(tune), dtype, 0))
    assert not session.scorer.sees_padding
    if session.streaming:
        session.streaming.visits.clear()
    return session


def resident(unit: Any) -> int:
    """Resident KiB of the files that hold a unit's trained weights."""
    addresses, total, counts = [block.array.data_ptr() for block in unit.blocks], 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0].islower() or line[0].isdigit():
            start, stop = (int(end, 16) for end in line.split()[0].split("-"))
            counts = any(start <= address < stop for address in addresses)
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def losses_and_update(session: Any, step: int = 0) -> list[float]:
    """The losses at three points, after which an update is remembered."""
    z = session.space.draw(Gaussian(), Key(3, step, 0))
    losses = session.losses_at(session.encode(EXAMPLES), [0.02 * z, -0.02 * z, ZERO])
    session.space.settle()
    session.space.add(-0.1 * z)
    return list(losses)


@pytest.mark.parametrize(
    ("kind", "how", "more"),
    [run if run in QUICK else pytest.param(*run, marks=pytest.mark.slow) for run in RUNS],
    ids=lambda value: str(value),
)
def test_a_run_ends_with_the_bits_of_the_sequential_strategy(
    checkpoint: Make, kind: str, how: Any, more: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it writes low-rank updates too, as for models that can't be followed: side terms round otherwise."""
    monkeypatch.setattr("zoplat_devices.pytorch.session.SIDE_TERMS", {})
    folder = checkpoint(kind, **how)
    streamed, answers = run(folder, "streaming", *more)
    sequential, expected = run(folder, "sequential", *more)
    assert answers == expected
    same = ("weights_digest", "dev_after", "test_after", "forward_passes", "passes_over_weights", "drift")
    assert {name: streamed[name] for name in same} == {name: sequential[name] for name in same}
    assert streamed["weights_digest"] != streamed["start_digest"] == sequential["start_digest"]


def test_two_threads_give_the_bits_of_the_sequential_strategy_with_two(checkpoint: Make) -> None:
    runs = [run(checkpoint(), strategy, *FZOO, "-o", "device.threads=2") for strategy in ("streaming", "sequential")]
    assert runs[0][0]["weights_digest"] == runs[1][0]["weights_digest"]
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "bert"])
def test_each_unit_is_brought_in_once_for_all_points(checkpoint: Make, kind: str) -> None:
    session = opened(checkpoint(kind))
    for call in (1, 2, 3):
        losses_and_update(session, call)
        assert {*session.streaming.visits.values()} == {call}
    inside = {id(p) for unit in session.streaming.units for p in unit.module.parameters()}
    assert inside == {id(p) for p in session.model.parameters()}
    assert len([unit for unit in session.streaming.units if unit.name.endswith((".0", ".1"))]) == 2


def test_remembered_updates_are_performed_layer_by_layer_and_count_as_one_pass(checkpoint: Make) -> None:
    session = opened(checkpoint())
    losses_and_update(session)
    start, seen = session.digest(), []
    session.space.time_phases(lambda phase: seen.append(phase) or torch.no_grad())
    layer = session.model.model.layers[1]
    before = layer.mlp.up_proj.weight.clone()
    layer.register_forward_pre_hook(lambda *_: seen.append(bool((layer.mlp.up_proj.weight == before).all())))
    losses_and_update(session, 1)
    assert session.space.passes_over_weights == 1.0
    assert session.digest() != start
    assert seen.index(False) < len(seen) - 1 - seen[::-1].index("move"), (
        "layer 1 was updated before the layers after it"
    )
    assert True not in seen


@pytest.mark.parametrize("more", [ADAM, ("--estimator", "hizoo", "--lr", 1e-3)], ids=["zo-adam", "hizoo"])
def test_state_on_disk_equals_state_in_memory(checkpoint: Make, more: tuple[Any, ...]) -> None:
    memory, answers = run(checkpoint(), "sequential", *more, restore="in-place")
    disk, same = run(checkpoint(), "sequential", *more, "-o", "device.state=disk", restore="in-place")
    assert (disk["weights_digest"], same) == (memory["weights_digest"], answers)
    assert command("replay", disk["run_dir"])["weights_digest"] == disk["weights_digest"]
    session = opened(checkpoint(), strategy="sequential", state="disk")
    buffer = session.space.buffer("test/m")
    assert buffer.is_mapped
    assert all(lies_in(files(), array) for array in buffer.arrays.values())
    assert "trainable weights" in session.ledger(), "the weights themselves stay in memory"


@pytest.mark.parametrize("more", [MEZO, FZOO, ADAM], ids=["mezo", "fzoo", "zo-adam"])
def test_a_streamed_run_replays_without_a_model(checkpoint: Make, more: tuple[Any, ...]) -> None:
    summary, _ = run(checkpoint(), "streaming", *more)
    header = json.loads(Path(summary["run_dir"], "journal.jsonl").read_text().splitlines()[0])
    assert header["strategy"] == "streaming"
    assert command("replay", summary["run_dir"])["weights_digest"] == summary["weights_digest"]


def test_an_interrupted_streamed_run_resumes_with_the_same_bits(checkpoint: Make, tmp_path: Path) -> None:
    class Impatient(Callback):
        def stepped(self, state: Any, loss: float | None) -> None:
            if state.step == 5:
                raise KeyboardInterrupt

    table = {
        "model": str(checkpoint()),
        "estimator": {"name": "zo-adam"},
        "device": {"name": "cpu", "strategy": "streaming"},
    }
    table |= {"steps": 8, "limit": 8, "batch_size": 4, "evaluate_every": 3, "dtype": "float32"}
    config = build([table])
    whole = train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "torn", callback=Impatient())
    resumed = train(config, tmp_path / "torn", resume=True)
    assert resumed.summary.weights_digest == whole.summary.weights_digest


class TestErrors:
    def test_an_error_at_one_point_stops_all_and_is_raised_as_it_is(self, checkpoint: Make) -> None:
        session, other = opened(checkpoint()), opened(checkpoint())
        attention, calls = session.model.model.layers[1].self_attn, []

        def fails(module: Any, inputs: Any) -> None:
            calls.append(module)
            if len(calls) == 2:
                raise ValueError("the second point is bad")

        hook = attention.register_forward_pre_hook(fails)
        with pytest.raises(ValueError, match="the second point is bad"):
            losses_and_update(session)
        hook.remove()
        assert len(calls) == 2
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("point ")]
        assert losses_and_update(session) == losses_and_update(other)
        assert losses_and_update(session, 1) == losses_and_update(other, 1)

    def test_forward_passes_that_differ_between_points_are_refused(self, checkpoint: Make) -> None:
        session = opened(checkpoint())
        calls: list[Any] = []
        layers, norm = session.model.model.layers, session.model.model.norm
        layers[0].register_forward_hook(lambda *_: calls.append(1) or (norm(_[2]) if len(calls) == 2 else None))
        with pytest.raises(ZoplatError, match="differs from point to point: at the same time they reach model"):
            losses_and_update(session)

    def test_a_weight_that_no_layer_runs_with_is_refused(self, checkpoint: Make) -> None:
        session = opened(checkpoint())
        session.model.model.norm.forward, norm = None, session.model.model.norm
        session.model.model._modules["norm"] = torch.nn.Identity()
        assert norm.weight.requires_grad
        with pytest.raises(ZoplatError, match=r"model\.norm\.weight"):
            losses_and_update(session)

    def test_a_trained_weight_of_a_module_that_contains_the_layers_is_refused(self, checkpoint: Make) -> None:
        from zoplat_devices.pytorch.pieces import pieces

        model = opened(checkpoint()).model
        model.model.scale = torch.nn.Parameter(torch.ones(3))
        block = SimpleNamespace(name="model.scale")
        assert len([*pieces(model)]) == 5
        with pytest.raises(
            ZoplatError, match=r"model\.scale belongs to a module that contains them all.*device.strategy=sequential"
        ):
            [*pieces(model, {model.model.scale.data_ptr(): block})]  # type: ignore[dict-item]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"kind": "mps"}, "strategy=streaming is for --device cpu or cuda"),
            ({"kind": "cuda", "map": "auto"}, "strategy=streaming takes one GPU"),
            ({"restore": "in-place"}, "never writes a perturbation into the weights"),
            ({"rounding": "master"}, "rounding=stochastic"),
        ],
    )
    def test_conflicting_settings_are_refused(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ZoplatError, match=words):
            PyTorch(strategy="streaming", **settings)

    def test_another_precision_than_that_of_the_files_is_refused(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match=r"saved in bfloat16.*Use --dtype bfloat16"):
            opened(checkpoint(dtype="bfloat16"))
        with pytest.raises(ZoplatError, match="Leave --base int8 out"):
            PyTorch(strategy="streaming").open(ModelSpec(str(checkpoint()), Tuning("lora"), "float32", 0, base="int8"))

    def test_the_error_for_a_model_larger_than_memory_names_this_strategy_which_needs_less(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import psutil

        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16_000))
        with pytest.raises(ZoplatError, match=r"or -o device\.strategy=streaming, which leaves weights on disk"):
            opened(checkpoint(), strategy="sequential")
        losses_and_update(opened(checkpoint()))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
        with pytest.raises(ZoplatError, match="two copies of its largest layer take"):
            opened(checkpoint())


class TestRelay:
    def test_jobs_meet_at_every_station_and_never_run_together(self) -> None:
        relay, events = Relay(3, lambda number: events.append(f"turn {number}")), []

        def job(number: int) -> float:
            for station in ("a", "b"):
                relay.meet(station)
                events.append(f"{station}{number}")
            return float(number)

        assert relay.run([lambda number=n: job(number) for n in range(3)]) == [0.0, 1.0, 2.0]
        assert [event for event in events if "turn" not in event] == ["a0", "a1", "a2", "b0", "b1", "b2"]
        assert events[-2:] == ["turn 2", "b2"]

    def test_a_job_that_ends_early_is_an_error_and_no_deadlock(self) -> None:
        relay = Relay(2, lambda number: None)
        jobs: list[Callable[[], float]] = [lambda: 0.0, lambda: relay.meet("a") or 1.0]
        with pytest.raises(ZoplatError, match="reach a and the end"):
            relay.run(jobs)


class TestFiles:
    def test_an_evicted_tensor_takes_no_memory_and_keeps_its_values(self) -> None:
        from zoplat_devices.memory import HostMemory
        from zoplat_devices.pytorch.mapped import evict, mapped

        host, tensor = HostMemory(), mapped((1 << 23,), torch.float32)
        tensor.copy_(torch.arange(1 << 23))
        full = host.now()
        evict(tensor)
        assert full - host.now() > 31 << 20
        assert bool((tensor == torch.arange(1 << 23)).all())

    @pytest.mark.parametrize("large", [False, True])
    def test_weights_have_the_offset_in_a_cache_line_that_they_have_in_memory(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch, large: bool
    ) -> None:
        monkeypatch.setattr("zoplat_devices.pytorch.pages.LEAST", 0 if large else 1 << 30)
        streamed, resident_ones = (
            [*opened(checkpoint(), strategy=strategy).model.parameters()] for strategy in ("streaming", "sequential")
        )
        places = [p.data_ptr() % 64 for p in resident_ones]
        assert [p.data_ptr() % 64 for p in streamed] == places
        assert ({*places} == {0}) == large

    @pytest.mark.parametrize("tune", ["full", "lora"])
    def test_a_layer_is_evicted_before_the_next_but_one_is_brought_in(self, checkpoint: Make, tune: str) -> None:
        session = opened(checkpoint(), tune=tune)
        units = {unit.name.rpartition("model.")[2]: unit for unit in session.streaming.units}
        first, second, held = units["layers.0"], units["layers.1"], []
        second.module.register_forward_pre_hook(lambda *_: held.append([resident(first), resident(second)]))
        losses_and_update(session)
        session.scores(session.encode(EXAMPLES))
        assert len(held) == 4
        assert {before for before, _ in held} == {0}
        losses_and_update(session, 1)
        assert session.digest()
        assert {name: resident(unit) for name, unit in units.items()} == dict.fromkeys(units, 0)
        first.module.self_attn.q_proj(torch.ones(1, 1, 16))
        assert resident(first) > 0

    def test_a_full_disk_is_an_error_before_anything_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from zoplat_devices.pytorch.mapped import mapped

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        with pytest.raises(ZoplatError, match=r"No room for an array of 32 MiB.*ZOPLAT_CACHE"):
            mapped((1 << 23,), torch.float32)

    def test_frozen_weights_stay_in_the_checkpoints_files(self, checkpoint: Make) -> None:
        from zoplat_devices.pytorch.mapped import files, lies_in

        session = opened(checkpoint(), tune="lora")
        frozen = [p for p in session.model.parameters() if not p.requires_grad]
        assert sum(len(unit.frozen) for unit in session.streaming.units) >= len(frozen)
        assert all(lies_in(files(), p) for p in session.model.parameters())
        assert [owner for owner in session.ledger() if "streaming" in owner or "files" in owner] == [
            "trainable weights, in files",
            "frozen weights, in files",
            "window of the streaming strategy",
        ]


def test_a_single_direction_is_streamed_too(checkpoint: Make) -> None:
    session = opened(checkpoint())
    rows = session.encode(EXAMPLES)

    class SessionLosses(LossBackend):
        strategy = session.strategy

        def forward(self) -> float:
            raise AssertionError("evaluated sequentially")

        def losses_at(self, directions: Any) -> list[float]:
            return list(session.losses_at(rows, directions))

    z: Direction = session.space.draw(Gaussian(), Key(0, 0, 0))
    session.space.add(0.1 * z)
    Oracle(session.space, Key(0, 0, -1), None, SessionLosses()).losses(0.01 * z)
    assert {*session.streaming.visits.values()} == {1}
    assert session.space.passes_over_weights == 1.0


@pytest.mark.slow
def test_a_model_trains_in_two_fifths_of_its_bytes_to_the_same_weights(tmp_path: Path) -> None:
    """The limit is a memory cgroup's, for the process and its page cache together; see bench/streaming.py."""
    bench = Path(__file__).parents[2] / "bench" / "streaming.py"
    command = [sys.executable, str(bench), "--folder", str(tmp_path), "--steps", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "no memory cgroup can be made here" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model_bytes"] > 1 << 30
    assert result["bites"], "a process that exceeded the limit was not stopped"
    assert result["limited"]["group_peak"] <= result["limit_bytes"] == int(0.4 * result["model_bytes"])
    assert result["limited"]["digest"] == result["sequential"]["digest"]
    assert result["limited"]["answers"] == result["sequential"]["answers"]

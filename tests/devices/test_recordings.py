"""Recorded steps: a run whose steps are replayed ends in the digest of one whose steps are performed one by one."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import zoplat
from tests.devices.recorder import Played, StandInRecorder, recorded_by
from zoplat import Example, ModelSpec
from zoplat.config.layers import resolve
from zoplat.core.model_spec import Tuning
from zoplat.training.batches import Batches
from zoplat.training.directory import RunDirectory
from zoplat.training.profiler import Profiler
from zoplat.training.step import Learner
from zoplat_devices.kernels import gpu
from zoplat_devices.kernels.queue import Step
from zoplat_devices.pytorch import recordings
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.recordings import MOST, TRIED, Recordings
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.session import PyTorchSession

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
FEW = {"tune": "layers.0.(mlp.down|input)"}
"""A matrix and a vector, as the interpreter takes its time."""


@pytest.fixture
def run(checkpoint: Make, interpreted_kernels: Any) -> Callable[..., Any]:
    """Makes a short run; returns the digest of its weights, its answers and what it printed of recordings."""

    def made(name: str, recorder: Any, kind: str = "llama", **settings: Any) -> Any:
        notices: list[str] = []
        with recorded_by(recorder, interpreted_kernels, notices):
            common: dict[str, Any] = {"steps": 7, "limit": 8, "batch_size": 4, "evaluate_every": 7, "out": name}
            result = zoplat.run(**common | {"model": str(checkpoint(kind))} | FEW | settings)
        journal = RunDirectory(result.directory).read_journal()
        assert journal is not None
        return result.summary.weights_digest, [record.answers for record in journal.steps], notices

    return made


METHODS: dict[str, dict[str, Any]] = {
    "in place": {"estimator": "mezo"},
    "exact": {"estimator": "mezo", "dtype": "bfloat16"},
    "side terms": {"estimator": "lozo"},
    "master weights": {"estimator": "mezo", "dtype": "bfloat16", "device": {"name": "cpu", "rounding": "master"}},
    "many points": {"estimator": "fzoo"},
    "curvature": {"estimator": "hizoo"},
    "moments": {"estimator": "zo-adam"},
    "adapter, batched": {"estimator": "mezo", "tune": "lora"},
}
QUICK = ["exact"]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in QUICK)]
)
def test_replayed_steps_have_the_bits_of_steps_performed_one_by_one(
    run: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "side terms":  # so little would be formed otherwise
        monkeypatch.setattr("zoplat_devices.pytorch.strategies.branch_weights.FORMED", 64)
    recorder = StandInRecorder()
    plain, replayed = run("plain", None, **METHODS[name]), run("replayed", recorder, **METHODS[name])
    assert replayed == plain
    assert replayed[2] == [], "nothing is said, as all was recorded"
    assert recorder.replays >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "gemma", "roberta", "t5"])
def test_forward_passes_of_these_families_can_be_recorded(run: Callable[..., Any], kind: str) -> None:
    recorder = StandInRecorder()
    settings = {"estimator": "mezo", "kind": kind, "tune": "0.*[nN]orm"}
    assert run("plain", None, **settings) == run("replayed", recorder, **settings)
    assert recorder.replays >= 3


@pytest.mark.slow
def test_a_model_that_reads_numbers_on_the_host_is_trained_all_the_same_and_it_is_said_once(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is read says nothing of the model, so the results are those of other runs."""
    from transformers.models.llama.modeling_llama import LlamaModel

    forward = LlamaModel.forward

    def reading(self: Any, *given: Any, **named: Any) -> Any:
        result = forward(self, *given, **named)
        assert bool(result.last_hidden_state.isfinite().all())
        return result

    plain = run("plain", None, estimator="mezo")
    monkeypatch.setattr(LlamaModel, "forward", reading)
    recorder = StandInRecorder()
    replayed = run("replayed", recorder, estimator="mezo")
    assert replayed[:2] == plain[:2]
    assert recorder.replays == 0
    assert len(replayed[2]) == 1
    assert "steps are not recorded" in replayed[2][0]


def test_the_host_does_few_things_for_a_recorded_step(
    checkpoint: Make, interpreted_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies, launches and waits of the host, all operations on tensors among them; a replay is one launch."""
    recorder, host = StandInRecorder(), HostWork()
    with recorded_by(recorder, interpreted_kernels, []):
        session = PyTorch("cpu").open(ModelSpec(str(checkpoint()), Tuning("layers.0.mlp.down"), "float32", 7))
    record, send = StandInRecorder.record, gpu.Link.send

    def recorded(self: StandInRecorder, compute: Any) -> Any:
        losses, graph = record(self, compute)
        return losses, Played(host.counted("launch", graph.replay))

    monkeypatch.setattr(StandInRecorder, "record", recorded)
    monkeypatch.setattr(gpu.Link, "send", host.counted("copy", send))
    monkeypatch.setattr(gpu._Launch, "start", host.counted("launch", gpu._Launch.start))
    monkeypatch.setattr(torch.Tensor, "tolist", host.counted("wait", torch.Tensor.tolist))
    monkeypatch.setattr(Scorer, "packed", host.counted("", Scorer.packed))  # arrays of the host, as the next
    monkeypatch.setattr(recordings, "_fill", host.counted("", recordings._fill))
    learner = Learner(resolve({"estimator": "mezo", "steps": 6, "evaluate_every": 6}), session)
    rows = session.encode([Example("the film was great . It was", (" terrible", " great"), 1)] * 4)
    profiler = Profiler(session.memory, session.reset_peak)
    for _ in range(5):
        with host:
            learner.advance(Batches(rows, 4, 0), profiler)
    assert recorder.replays == 3
    assert host.seen.count("wait") == 1, "for the losses"
    assert [name for name in host.seen if name] == ["copy_", "launch", "wait"]


class HostWork(TorchDispatchMode):  # type: ignore[misc]  # torch has no types here
    """Counts what the host does inside the context.

    Attributes:
        seen: names of operations that launch or copy, and "launch", "copy" and "wait".
    """

    VIEWS = ("view", "slice", "select", "detach", "reshape", "unsqueeze", "expand", "alias", "empty", "split")

    def __enter__(self) -> Any:
        self.seen, self._is_inside = list[str](), False
        return super().__enter__()

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as one piece of work with all that it does; of the host's own if the name is empty."""

        def once(*given: Any, **named: Any) -> Any:
            if not self._is_inside:
                self.seen.append(name)
            before, self._is_inside = self._is_inside, True
            try:
                return function(*given, **named)
            finally:
                self._is_inside = before

        return once

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = str(function).split(".")[1]
        if not self._is_inside and name not in self.VIEWS:
            self.seen.append("wait" if name == "_local_scalar_dense" else name)
        return function(*given, **(named or {}))


def plain_steps(count: int) -> list[Step]:
    """Steps whose losses are their words."""
    return [Step(("work", count), np.full(2, number), lambda words: words.double()) for number in range(count)]


class Remembering:
    """A recorder that runs the work again on the words that it then has."""

    bytes = 0

    def __init__(self) -> None:
        self.recorded = self.replays = self.releases = 0

    def record(self, run: Callable[[], Any]) -> tuple[Any, Played]:
        losses = run()
        self.bytes += 10
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            losses.copy_(run())

        return losses, Played(replay)

    def release(self) -> None:
        self.releases, self.bytes = self.releases + 1, 0


def test_work_is_performed_then_recorded_then_replayed_with_the_words_of_each_time() -> None:
    recorder = Remembering()
    kept = Recordings(recorder, torch.device("cpu"), pytest.fail)
    assert (kept.count, kept.bytes) == (0, 0)
    for turn in range(4):
        steps = [step._replace(words=step.words + 10 * turn) for step in plain_steps(2)]
        assert kept.perform(steps).tolist() == [10 * turn, 10 * turn, 10 * turn + 1, 10 * turn + 1]
        assert kept.count == min(turn, 1)
    assert kept.bytes == 10 + 4 * 8, "of the recorder, and four words"


def test_recordings_are_few_and_go_before_the_model_runs_otherwise() -> None:
    recorder = Remembering()
    kept, counts = Recordings(recorder, torch.device("cpu"), pytest.fail), list[int]()
    for _ in range(2):
        for count in range(1, MOST + 3):
            kept.perform(plain_steps(count))
            counts.append(kept.count)
    assert max(counts) == MOST
    assert recorder.recorded == MOST + 2
    kept.release()
    assert (kept.count, kept.bytes) == (0, 0)
    kept.perform(plain_steps(1))
    assert kept.count == 1, "made again at once, as the work is known"


def test_the_recording_that_was_not_used_for_longest_goes_first_and_the_others_are_replayed() -> None:
    recorder = Remembering()
    kept = Recordings(recorder, torch.device("cpu"), pytest.fail)
    for _ in range(2):
        for count in range(1, MOST + 2):
            kept.perform(plain_steps(count))  # the last one evicts that of one step
    for count in range(2, MOST + 2):
        kept.perform(plain_steps(count))
    assert recorder.recorded == MOST + 1
    kept.perform(plain_steps(1))
    kept.perform(plain_steps(3))
    assert recorder.recorded == MOST + 2, "in place of that of two steps"
    assert recorder.replays == 2 * (MOST + 1) + 1, "each once where it was made"


@pytest.mark.parametrize(("names", "is_worth_it"), [(27, True), (MOST, True), (MOST + 1, False)])
def test_work_in_turn_is_recorded_where_all_of_it_fits(names: int, is_worth_it: bool) -> None:
    """27 are the parts that block-zo has on OPT-1.3B: layers, embeddings and a norm."""
    recorder, said = Remembering(), list[str]()
    kept = Recordings(recorder, torch.device("cpu"), said.append)
    for _ in range(20):
        for count in range(1, names + 1):
            assert kept.perform(plain_steps(count)).tolist() == [float(n) for n in range(count) for _ in range(2)]
    if is_worth_it:
        assert (recorder.recorded, said) == (names, [])
    else:
        assert recorder.recorded == TRIED
        assert [f"{names} so far" in line for line in said] == [True]
        assert kept.count == 0


def test_where_a_recording_fails_and_memory_can_t_be_given_back_work_is_performed() -> None:
    """As versions of PyTorch do after a recording that failed."""
    recorder, said, record = Remembering(), list[str](), Remembering.record

    def failing(run: Callable[[], Any]) -> tuple[Any, Played]:
        if recorder.recorded:
            raise RuntimeError("operation not permitted when stream is capturing")
        return record(recorder, run)

    def stuck() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    recorder.record = failing  # type: ignore[method-assign]
    kept = Recordings(recorder, torch.device("cpu"), said.append)
    kept.perform(plain_steps(1))
    kept.perform(plain_steps(1))
    kept._seen.add(tuple(step.name for step in plain_steps(2)))
    recorder.release = stuck  # type: ignore[method-assign]
    for _ in range(2):
        assert kept.perform(plain_steps(2)).tolist() == [0, 0, 1, 1]
    assert [line.endswith("stream is capturing") for line in said] == [True]


def test_work_with_an_obstacle_is_performed_and_nothing_is_recorded_from_then_on() -> None:
    said: list[str] = []
    kept = Recordings(Remembering(), torch.device("cpu"), said.append)
    for obstacle in ("", "", "a reason", "", ""):
        assert kept.perform(plain_steps(1), obstacle).tolist() == [0, 0]
    assert kept.count == 0
    assert len(said) == 1
    assert said[0].endswith("a reason")


@pytest.mark.slow
def test_the_model_of_a_recorded_run_is_freed_when_it_returns(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    begin = PyTorchSession.__init__

    def noted(self: Any, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        models.append(weakref.ref(self.model))

    monkeypatch.setattr(PyTorchSession, "__init__", noted)
    gc.disable()
    try:
        for number, settings in enumerate([METHODS["in place"], METHODS["exact"], METHODS["side terms"]]):
            recorder = StandInRecorder()
            run(f"run {number}", recorder, **settings)
            assert recorder.replays
            del recorder  # which has the tensors of what it replays
        assert [model() for model in models] == [None] * 3
    finally:
        gc.enable()

"""Streaming to a GPU, which is a stand-in: the weights of one processor, and copies in an order that is safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat import Example, Key, ModelSpec
from zoplat.core.model_spec import Tuning
from zoplat.errors import ZoplatError

torch = pytest.importorskip("torch")

from tests.devices.cards import Cards, OfCard, cards  # noqa: E402
from zoplat_devices.pytorch import backends  # noqa: E402
from zoplat_devices.pytorch.device import PyTorch  # noqa: E402
from zoplat_devices.pytorch.session import PyTorchSession  # noqa: E402
from zoplat_devices.pytorch.strategies import relay, window  # noqa: E402
from zoplat_plugins.gaussian import Gaussian  # noqa: E402

EXAMPLE = Example("the film was great . It was", (" terrible", " great"), 1)
TOY: dict[str, Any] = {"steps": 3, "batch_size": 4, "limit": 8, "evaluate_every": 2, "dtype": "float32"}
LOG: list[Any] = []
"""What was done on streams, in order."""


class Stream:
    """A stream of a GPU whose work is done at once; what waits for what is noted."""

    def __init__(self, device: Any = None, name: str = "copies") -> None:
        self.name = name

    def wait_stream(self, other: Stream) -> None:
        """Note that what comes waits for all that the other one has been given."""
        LOG.append((self.name, "waits for", other.name))


@contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    LOG.append((stream.name, "begins"))
    yield


class Thread(threading.Thread):
    """A thread in which there seem to be cards too."""

    def run(self) -> None:
        """Do its work."""
        with Cards():
            super().run()


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes contexts with a card; the kernels of the processor stand in for its own, and reach pinned memory."""
    for_cpu = backends.kernels_for

    class Kernels(OfCard):
        """That read and write the memory of the host too, where it is pinned."""

        def run(self, jobs: Any, sums: Any, *more: Any, **options: Any) -> None:
            self.launches += 1
            self._kernels.run(jobs, sums, *more, **options)

    def enter() -> Any:
        LOG.clear()
        monkeypatch.setattr(PyTorch, "missing", lambda device: None)
        monkeypatch.setattr(backends, "kernels_for", lambda kind: Kernels(for_cpu("cpu"), kind))
        monkeypatch.setattr(backends, "_pinned", lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype)))
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(name="work"))
        monkeypatch.setattr(torch.cuda, "stream", on_stream)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(relay.threading, "Thread", Thread)
        monkeypatch.setattr(PyTorchSession, "strategy_for", lambda session, *_: session.strategy)
        return cards(monkeypatch)

    return enter


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "mezo": ("llama", {"lr": 1e-2}),
    "fzoo": ("opt", {"lr": 1e-2}),
    "zo-adam": ("llama", {"lr": 1e-2}),
    "hizoo": ("gpt2", {"lr": 1e-2}),
    "lozo": ("t5", {"lr": 1e-2}),
    "sparse-zo": ("roberta", {"lr": 1e-2}),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16", "lr": 1e-2},
    "lora": {"tune": "lora", "lr": 1e-1},
    "one layer": {"tune": r"layers\.1", "lr": 1e-2},
    "micro-batches": {"micro_batch_size": 2, "lr": 1e-2},
}


def digest(folder: Path, place: Any, device: PyTorch, **settings: Any) -> tuple[str, Any]:
    with place:
        result = zoplat.run(out=folder, device=device, progress=False, **{**TOY, **settings})
    return str(result.summary.weights_digest), result.summary.dev_after


def same(tmp_path: Path, on_gpu: Any, **settings: Any) -> None:
    alone = digest(tmp_path / "one", nullcontext(), PyTorch("cpu", strategy="sequential", restore="exact"), **settings)
    assert digest(tmp_path / "two", on_gpu(), PyTorch("cuda", strategy="streaming"), **settings) == alone


@pytest.mark.parametrize(
    "method", [name if name == "mezo" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_a_streamed_run_ends_in_the_weights_of_one_place(
    method: str, tmp_path: Path, checkpoint: Callable[..., Path], on_gpu: Callable[[], Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("zoplat_devices.pytorch.session.SIDE_TERMS", {})
    kind, more = RUNS[method]
    same(tmp_path, on_gpu, estimator=method, model=checkpoint(kind), **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_so_does_one_of_another_kind(
    name: str, tmp_path: Path, checkpoint: Callable[..., Path], on_gpu: Callable[[], Any]
) -> None:
    same(tmp_path, on_gpu, estimator="mezo", model=checkpoint(), **VARIANTS[name])


def opened(checkpoint: Callable[..., Path], **more: Any) -> Any:
    return PyTorch("cuda", strategy="streaming").open(spec(checkpoint, **more))


def spec(checkpoint: Callable[..., Path], **more: Any) -> ModelSpec:
    return ModelSpec(str(checkpoint(**more)), Tuning("full"), "float32", 0)


def test_each_copy_waits_for_what_came_before_and_is_waited_for(
    checkpoint: Callable[..., Path], on_gpu: Callable[[], Any], monkeypatch: Any
) -> None:
    for name in ("fetch", "enter", "leave"):
        whole = getattr(window.Window, name)

        def noted(self: Any, number: int, *more: Any, _name: str = name, _whole: Any = whole, **named: Any) -> None:
            LOG.append((_name, number))
            _whole(self, number, *more, **named)

        monkeypatch.setattr(window.Window, name, noted)
    with on_gpu():
        session = opened(checkpoint, tied=False)
        rows = session.encode([EXAMPLE])
        z = session.space.draw(Gaussian(), Key(3, 0, 0))
        for _ in range(2):
            LOG.clear()
            session.losses_at(rows, [0.01 * z, -0.01 * z])
            session.space.add(-0.1 * z)
    names = [unit.name for unit in session.streaming.units]
    assert names == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    waits = [("copies", "waits for", "work"), ("copies", "begins")]
    used = ("work", "waits for", "copies")
    expected = [("enter", 0), ("fetch", 0), *waits, used, ("fetch", 1), *waits, ("leave", 0)]
    for number in (1, 2, 3):
        expected += [("enter", number), used, ("fetch", number + 1), *waits, ("leave", number)]
    assert [*LOG] == [*expected, ("enter", 4), used, ("leave", 4)]


def test_a_copy_is_of_the_weights_as_they_are_when_a_pass_begins(
    checkpoint: Callable[..., Path], on_gpu: Callable[[], Any]
) -> None:
    with on_gpu():
        session = opened(checkpoint, tied=False)
        rows = session.encode([EXAMPLE])
        before = session.forward(rows)
        for block in session.space.blocks:
            block.array.mul_(1.5)
        session.space.reset()
        after = session.forward(rows)
    assert before != after
    there = PyTorch("cpu", strategy="sequential", restore="exact").open(spec(checkpoint, tied=False))
    for block in there.space.blocks:
        block.array.mul_(1.5)
    assert there.forward(there.encode([EXAMPLE])) == after


def test_only_a_window_is_on_the_gpu_and_the_ledger_says_so(
    checkpoint: Callable[..., Path], on_gpu: Callable[[], Any]
) -> None:
    with on_gpu():
        session = opened(checkpoint, tied=False)
        ledger = session.ledger()
    assert all(block.array.device.type == "cpu" for block in session.space.blocks)
    trained = sum(block.array.nbytes for block in session.space.blocks)
    assert ledger["trainable weights, in host memory"] == trained
    sizes = [sum(-(-p.nbytes // 256) * 256 for p in unit.module.parameters()) for unit in session.streaming.units]
    assert ledger["window of the streaming strategy"] == max(sizes[::2]) + max(sizes[1::2]) < trained


def test_derivatives_are_refused(checkpoint: Callable[..., Path], on_gpu: Callable[[], Any]) -> None:
    with on_gpu():
        session = opened(checkpoint)
        with pytest.raises(ZoplatError, match="Derivatives need all weights on the GPU"):
            session.jvp(session.encode([EXAMPLE]), session.space.draw(Gaussian(), Key(3, 0, 0)))


@pytest.mark.parametrize("tune", ["prefix", "prompt"])
def test_virtual_tokens_are_refused(tune: str, checkpoint: Callable[..., Path], on_gpu: Callable[[], Any]) -> None:
    given = ModelSpec(str(checkpoint()), Tuning(tune), "float32", 0)
    with on_gpu(), pytest.raises(ZoplatError, match=f"--tune {tune} adds virtual tokens.*--tune lora"):
        PyTorch("cuda", strategy="streaming").open(given)

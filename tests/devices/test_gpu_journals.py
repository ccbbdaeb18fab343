"""Journals between a GPU and the processor: replayed on the other one, they end in the same digest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zoplat
from tests.devices.recorder import StandInRecorder, recorded_by
from zoplat.registry import catalogue
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay

pytest.importorskip("torch")
pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("place")

OWN = [entry for entry in catalogue() if entry.kind == "estimator" and entry.distribution == "zoplat"]
METHODS = sorted(entry.name for entry in OWN if "gradient" not in entry.value.asks)
"""Those whose steps ask for numbers alone."""

Other = Callable[[], Any]


@pytest.fixture(
    params=[pytest.param("interpreter", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def other(request: pytest.FixtureRequest) -> tuple[str, Other]:
    """The device to compare with the processor, and a context in which it is opened."""
    if request.param == "gpu":
        request.getfixturevalue("gpu_kernels")
        return "cuda", _as_it_is
    kernels = request.getfixturevalue("interpreted_kernels")
    return "cpu", lambda: recorded_by(StandInRecorder(), kernels, [])


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@pytest.mark.parametrize("method", METHODS)
def test_a_journal_ends_in_the_same_digest_on_the_other_device(
    checkpoint: Callable[..., Path], other: tuple[str, Other], method: str
) -> None:
    device, opened = other
    settings: dict[str, Any] = {"model": str(checkpoint()), "estimator": method, "tune": "layers.0.(self_attn.q|input)"}
    settings |= {"steps": 5, "limit": 8, "batch_size": 4, "evaluate_every": 5}
    with opened():
        zoplat.run(**settings, device=device, out="there")
    assert replay(RunDirectory(Path("there")), None, "cpu")["status"] == "done"
    zoplat.run(**settings, device="cpu", out="here")
    with opened():
        assert replay(RunDirectory(Path("here")), None, device)["status"] == "done"

"""When a run is over, its model is gone: nothing waits for the garbage collector."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zoplat

pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Any]]]:
    """References to the model of every session that is opened, while the collector is off."""
    from zoplat_devices.pytorch.session import PyTorchSession

    opened: list[weakref.ref[Any]] = []
    begin = PyTorchSession.__init__

    def noted(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        opened.append(weakref.ref(self.model))

    monkeypatch.setattr(PyTorchSession, "__init__", noted)
    gc.collect()
    gc.disable()
    yield opened
    gc.enable()


@pytest.mark.parametrize(
    ("estimator", "tune"),
    [
        ("lozo", "full"),
        ("fzoo", "lora"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("mezo", "full"), ("hizoo", "full"), ("adamw", "lora"), ("zo-adam", "prefix")]
        ),
    ],
)
def test_the_model_of_a_run_is_freed_when_it_returns(
    estimator: str, tune: str, checkpoint: Callable[..., Path], sessions: list[weakref.ref[Any]]
) -> None:
    for number in range(2):  # transformers may import something at the first
        result = zoplat.run(
            model=str(checkpoint()), estimator=estimator, tune=tune, steps=2, limit=16, batch_size=4, out=f"r{number}"
        )
        assert result.summary.steps == 2
    assert len(sessions) == 2
    assert sessions[1]() is None


def test_a_stand_in_hides_no_attribute_of_a_tensor() -> None:
    """As `names` once did: writing an attribute that torch has as well calls `__torch_function__`."""
    import torch

    from zoplat_devices.pytorch.strategies.stand_ins import StandIn

    own = {*StandIn.__annotations__}
    assert own
    assert not own & {*dir(torch.Tensor)}

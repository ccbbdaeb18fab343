"""A frozen base quantised to int8 under float adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

Make = Callable[..., Path]
ROWS = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
]


def opened(folder: Path, tune: str = "lora", base: Any = "int8", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning(tune), "float32", 0, base=base))


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
def test_adapters_are_trained_over_an_int8_base_that_does_not_change(checkpoint: Make, strategy: Any) -> None:
    session, plain = opened(checkpoint("llama"), strategy=strategy), opened(checkpoint("llama"), base="plain")
    rows = session.encode(ROWS)
    assert session.scores(rows)[0] == pytest.approx(plain.scores(plain.encode(ROWS))[0], abs=0.05)
    assert session.scores(rows) != plain.scores(plain.encode(ROWS)), "or nothing was quantised"
    assert session.facts["model_bytes"] < 0.8 * plain.facts["model_bytes"]
    assert {block.dtype for block in session.space.blocks} == {"float32"}
    before, frozen = session.digest(), [p.data for n, p in session.model.named_parameters() if "lora" not in n]
    copies = [
        p.dequantize().clone() if hasattr(p, "dequantize") and type(p) is not torch.Tensor else p.clone()
        for p in frozen
    ]
    z = session.space.draw(Gaussian(), Key(0, 0, 0))
    base, moved = session.forward(rows), 0.0
    if strategy == "batched":
        _, moved = session.losses_at(rows, [0.0 * z, 0.3 * z])
    else:
        session.space.at(0.3 * z)
        moved = session.forward(rows)
        session.space.settle()
    assert moved != base
    assert session.forward(rows) == pytest.approx(base, abs=1e-6)
    session.space.add(0.1 * z)
    session.space.settle()
    assert session.digest() != before
    for held, copy in zip(frozen, copies, strict=True):
        now = held.dequantize() if type(held) is not torch.Tensor else held
        assert torch.equal(now, copy)


@pytest.mark.parametrize("tune", ["full", "q_proj"])
def test_quantised_weights_can_not_be_trained(checkpoint: Make, tune: str) -> None:
    with pytest.raises(ZoplatError, match=r"packed as Int8Tensor and can't move by small steps. Use an adapter"):
        opened(checkpoint("llama"), tune)


def test_float_weights_of_an_int8_base_can_be_trained(checkpoint: Make) -> None:
    assert {block.dtype for block in opened(checkpoint("llama"), "norms").space.blocks} == {"float32"}

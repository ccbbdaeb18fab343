"""Forward passes that are compiled: the losses of eager ones, also after weights were updated in place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat import ZERO, Example, Key, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch import opening
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")

Make = Callable[..., Path]
OPTIONS = (" terrible", " great")
EXAMPLES = [Example("the film was great . It was", OPTIONS, 1), Example("the food was terrible . It was", OPTIONS, 0)]
ALIKE = [Example("the food was bad . It was", OPTIONS, 1), Example("the movie was good . It was", OPTIONS, 1)]
OTHERS = [Example("a good day . It was", OPTIONS, 1), Example("a bad movie . It was", OPTIONS, 0)]


def opened(folder: Path, kind: str = "cpu", tune: str = "full", dtype: str = "float32", **device: Any) -> Any:
    return PyTorch(kind, **device).open(ModelSpec(str(folder), Tuning(tune), dtype, 7))


def losses(session: Any) -> list[float]:
    """At three points near θ, for batches of two shapes, each of them more than once."""
    found = []
    batches = [session.encode(examples) for examples in (EXAMPLES, OTHERS, ALIKE, EXAMPLES[:1])]
    z = 0.1 * session.space.draw(Gaussian(), Key(0, 0, 0))
    for direction in (ZERO, z, -z):
        session.space.at(direction)
        found += [float(session.forward(rows)) for rows in batches]
    session.space.settle()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "roberta"])
def test_a_compiled_pass_sees_weights_that_are_updated_in_place(
    checkpoint: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that traces and does not compile; what is traced matters here."""
    monkeypatch.setattr(opening, "COMPILER", "aot_eager")
    plain, compiled = opened(checkpoint(kind)), opened(checkpoint(kind), compile=True)
    assert compiled.facts["compile"]
    torch._dynamo.utils.counters.clear()
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len({round(loss, 4) for loss in losses(plain)[::4]}) == 3, "the three points differ"


@pytest.mark.slow
def test_a_compiled_adapter_is_evaluated_sequentially_and_its_hooks_run(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "COMPILER", "aot_eager")
    plain, compiled = opened(checkpoint(), tune="lora"), opened(checkpoint(), tune="lora", compile=True)
    assert (plain.strategy, compiled.strategy) == ("batched", "sequential")
    rows, same = plain.encode(EXAMPLES), compiled.encode(EXAMPLES)
    assert compiled.forward(same) == pytest.approx(plain.forward(rows), abs=1e-5)
    assert compiled.input_norms(same) == plain.input_norms(rows)
    z = compiled.space.draw(Gaussian(), Key(0, 0, 0))
    assert compiled.jvp(same, z) == plain.jvp(rows, z)


REFUSED = [
    ({"compile": True, "restore": "exact"}, "float32", "compile=true can't see .*-o device.restore=in-place"),
    ({"compile": True}, "bfloat16", "usual for bfloat16 weights. Use -o device.restore=in-place"),
    (
        {"compile": True, "strategy": "batched"},
        "float32",
        "compile=true can.t follow strategy=batched.*-o device.strategy=sequential",
    ),
]


@pytest.mark.parametrize(("device", "dtype", "message"), REFUSED)
def test_conflicting_settings_are_refused_with_what_to_do(
    checkpoint: Make, device: dict[str, Any], dtype: str, message: str
) -> None:
    with pytest.raises(ZoplatError, match=message):
        opened(checkpoint(dtype=dtype), dtype=dtype, **device)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "roberta", "t5"])
def test_compiled_passes_on_a_gpu_have_the_losses_of_eager_ones(checkpoint: Make, gpu_kernels: Any, kind: str) -> None:
    plain, other = opened(checkpoint(kind), "cuda"), opened(checkpoint(kind), "cuda", compile=True)
    assert losses(other) == pytest.approx(losses(plain), abs=1e-4)

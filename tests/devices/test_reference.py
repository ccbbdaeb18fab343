"""The numpy device, compared with the formula of its network."""

import gc
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.reference import SHAPES, Reference
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank

EXAMPLES = [
    Example("A fine film, It was", (" terrible", " great"), 1),
    Example("No. It was", (" terrible", " great"), 0),
    Example("!", (" terrible", " great"), 0),
]


def opened(tune: str = "full", dtype: str = "auto", seed: int = 0, **device: Any) -> Any:
    return Reference(**device).open(ModelSpec(None, Tuning(tune), dtype, seed))


def scores(weights: dict[str, Any], example: Example) -> list[float]:
    """options · tanh(hidden · mean of words + bias)."""

    def number(word: str) -> int:
        return zlib.crc32(word.strip().lower().encode()) % 512

    words = [number(word) for word in re.findall(r"\w+", example.prompt)] or [0]
    bag = np.mean([weights["words"][word].astype(float) for word in words], axis=0)
    hidden = np.tanh(weights["hidden"] @ bag + weights["hidden_bias"])
    return [float(weights["options"][number(option)] @ hidden) for option in example.options]


def test_the_loss_is_the_mean_cross_entropy_of_the_network() -> None:
    session = opened()
    rows = session.encode(EXAMPLES)
    found = [scores(session.weights, example) for example in EXAMPLES]
    losses = [math.log(sum(map(math.exp, s))) - s[e.label] for s, e in zip(found, EXAMPLES, strict=True)]
    assert session.forward(rows) == pytest.approx(sum(losses) / 3, rel=1e-12)
    np.testing.assert_allclose(session.scores(rows), found, rtol=1e-12)


@pytest.mark.parametrize("sampler", [Gaussian(), LowRank()])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_a_forward_pass_sees_the_perturbation(sampler: Any, restore: str) -> None:
    session = opened(restore=restore)
    rows, space = session.encode(EXAMPLES), session.space
    z = 0.1 * space.draw(sampler, Key(0, 0, 0))
    perturbed = {}
    for block in space.blocks:
        [tile] = block.tiles()
        perturbed[block.name] = session.weights[block.name] + space.entries(z, tile)
    start, before = session.digest(), session.forward(rows)
    space.at(z)
    found = [scores(perturbed, example) for example in EXAMPLES]
    losses = [math.log(sum(map(math.exp, s))) - s[e.label] for s, e in zip(found, EXAMPLES, strict=True)]
    assert session.forward(rows) == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert session.forward(rows) != before
    assert (session.digest() == start) == (restore == "exact")
    space.settle()
    assert session.forward(rows) == pytest.approx(before, rel=1e-5)


def test_the_seed_determines_the_initial_weights() -> None:
    assert opened(seed=1).digest() == opened(seed=1).digest() != opened(seed=2).digest()


def test_a_regular_expression_chooses_blocks() -> None:
    session = opened("^hidden")
    assert [block.name for block in session.space.blocks] == ["hidden", "hidden_bias"]
    assert session.facts["trainable_parameters"] == 24 * 24 + 24
    assert session.facts["model_bytes"] == 4 * sum(map(math.prod, SHAPES.values()))


def test_matrices_decay_and_vectors_do_not() -> None:
    decays = {block.name: block.decays for block in opened().space.blocks}
    assert decays == {"words": True, "hidden": True, "hidden_bias": False, "options": True}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_survive_a_round_trip_to_disk(tmp_path: Path, dtype: str) -> None:
    session, other = opened(dtype=dtype, seed=1), opened(dtype=dtype, seed=2)
    session.write(tmp_path / "w.safetensors", session.arrays())
    other.read(tmp_path / "w.safetensors", other.arrays())
    assert other.digest() == session.digest()
    assert {str(array.dtype) for array in other.weights.values()} == {dtype}


def test_export_writes_all_weights_at_theta(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    session = opened("hidden")
    session.space.add(0.1 * session.space.draw(Gaussian(), Key(0, 0, 0)))
    session.space.settle()
    session.export(tmp_path / "export")
    found = load_file(tmp_path / "export" / "model.safetensors")
    assert found.keys() == SHAPES.keys()
    assert all(np.array_equal(found[name], session.weights[name]) for name in SHAPES)


def test_memory_is_read_from_the_process() -> None:
    gc.collect()
    session = opened()
    reading = session.memory()
    assert 0 < reading.host <= reading.host_peak
    assert reading.device is None
    ballast = np.ones(8_000_000)
    assert session.memory().host_peak >= reading.host + ballast.nbytes // 2
    del ballast
    session.reset_peak()
    assert session.memory().host_peak < reading.host_peak + 32_000_000


@pytest.mark.parametrize(
    ("tune", "dtype", "words"),
    [("nothing", "auto", "finds no weight"), ("(", "auto", "regular expression"), ("full", "bfloat16", "no bfloat16")],
)
def test_unsupported_settings_are_refused_with_a_reason(tune: str, dtype: str, words: str) -> None:
    with pytest.raises(ZoplatError, match=words):
        opened(tune, dtype)

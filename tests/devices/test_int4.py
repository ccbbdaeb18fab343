"""Weights packed in 4 bits: how they are stored, adapters over them, and their scales trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")

Make = Callable[..., Path]
ROWS = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
]


def opened(folder: Path, tune: str = "lora", base: Any = "int4", dtype: str = "float32", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning(tune), dtype, 0, base=base))


def packed(weight: Any, group: int, dtype: Any = None) -> Any:
    from zoplat_devices.pytorch.packed import PackedLinear

    like = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer = PackedLinear(like, group, dtype or torch.float32)
    layer.pack(weight)
    return layer


class TestALayer:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_every_weight_is_within_half_a_step_of_its_group(self, dtype: str) -> None:
        torch.manual_seed(0)
        weight = torch.randn(10, 96) * torch.rand(10, 1)
        layer = packed(weight, 32, getattr(torch, dtype))
        off = (layer.weight.float() - weight).view(10, 3, 32).abs().amax(-1)
        slack = {"float32": 0.5, "bfloat16": 0.6}[dtype]  # steps of 8 bits fall short of the range
        assert (off <= slack * layer.scales.float() + 1e-6).all()
        assert layer.codes.nbytes == weight.numel() // 2

    def test_its_product_is_that_of_its_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from zoplat_devices.pytorch import packed as module

        torch.manual_seed(0)
        layer, x = packed(torch.randn(12, 64), 32), torch.randn(3, 5, 64)
        whole = layer(x)
        assert torch.allclose(whole, x @ layer.weight.T, atol=1e-5)
        monkeypatch.setattr(module, "ENTRIES", 5 * 64)
        assert torch.allclose(layer(x), whole, atol=1e-6)
        with torch.inference_mode():
            assert torch.equal(layer(x), layer(x))

    def test_scales_can_be_differentiated(self) -> None:
        torch.manual_seed(0)
        layer, x = packed(torch.randn(6, 64), 32), torch.randn(4, 64)
        layer.scales.requires_grad_(True)
        (slope,) = torch.autograd.grad(layer(x).square().sum(), [layer.scales])
        with torch.no_grad():
            layer.scales[2, 1] += 1e-3
            up = layer(x).square().sum()
            layer.scales[2, 1] -= 2e-3
            down = layer(x).square().sum()
        assert float(slope[2, 1]) == pytest.approx(float(up - down) / 2e-3, rel=1e-2)

    def test_a_scale_below_zero_counts_as_zero(self) -> None:
        torch.manual_seed(0)
        layer = packed(torch.randn(6, 64), 32)
        layer.scales.data[1, 0] = -0.5
        assert (layer.weight[1, :32] == 0).all()


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
def test_adapters_are_trained_over_a_packed_base_that_does_not_change(checkpoint: Make, strategy: Any) -> None:
    folder = checkpoint("mistral")
    session, plain = opened(folder, strategy=strategy), opened(folder, base="plain")
    rows = session.encode(ROWS)
    assert session.facts["model_bytes"] < 0.8 * plain.facts["model_bytes"]
    assert session.scores(rows) != plain.scores(plain.encode(ROWS)), "or nothing was packed"
    assert {block.dtype for block in session.space.blocks} == {"float32"}
    before = {name: p.clone() for name, p in session.model.named_parameters() if "lora" not in name}
    start, z = session.digest(), session.space.draw(Gaussian(), Key(0, 0, 0))
    base = session.forward(rows)
    if strategy == "batched":
        _, moved = session.losses_at(rows, [0.0 * z, 0.3 * z])
    else:
        session.space.at(0.3 * z)
        moved = session.forward(rows)
        session.space.settle()
    assert moved != base
    session.space.add(0.1 * z)
    session.space.settle()
    assert session.digest() != start
    for name, parameter in session.model.named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, before[name])


class TestScales:
    def test_they_are_all_that_is_trained(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"), "scales")
        assert {block.name.rpartition(".")[2] for block in session.space.blocks} == {"scales"}
        assert {block.dtype for block in session.space.blocks} == {"float32"}
        assert session.space.size == 2 * (32 + 16 + 16 + 32 + 40 + 40)  # one group of 32 columns in each row

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_probe_is_seen_and_taken_back(self, checkpoint: Make, dtype: str) -> None:
        session = opened(checkpoint("mistral"), "scales", dtype=dtype)
        assert session.facts["trainable_dtype"] == "float32"
        rows, z = session.encode(ROWS), session.space.draw(Gaussian(), Key(0, 0, 0))
        base = session.forward(rows)
        session.space.at(0.05 * z)
        moved = abs(session.forward(rows) - base)
        session.space.at(0.0 * z)
        left = abs(session.forward(rows) - base)
        assert moved > 0.01
        assert left < {"float32": 1e-5, "bfloat16": 0.1 * moved}[dtype], (
            "products of 8 bits see the last bit of a scale"
        )

    def test_gradients_agree_with_losses(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"), "scales")
        rows, z = session.encode(ROWS), session.space.draw(Gaussian(), Key(0, 0, 0))
        losses = []
        for eps in (1e-3, -1e-3):
            session.space.at(eps * z)
            losses.append(float(session.forward(rows)))
        session.space.settle()
        _, slope = session.jvp(rows, z)
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=0.02, abs=1e-3)

    def test_one_pass_over_several_points_gives_the_same_losses(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"), "scales", strategy="batched")
        rows, z = session.encode(ROWS), session.space.draw(Gaussian(), Key(0, 0, 0))
        points, losses = [0.1 * z, 0.0 * z], []
        together = session.losses_at(rows, points)
        for point in points:
            session.space.at(point)
            losses.append(float(session.forward(rows)))
        assert together == pytest.approx(losses, abs=1e-5)

    def test_they_are_exported_as_plain_weights(self, checkpoint: Make, tmp_path: Path) -> None:
        session = opened(checkpoint("mistral"), "scales")
        session.space.add(0.05 * session.space.draw(Gaussian(), Key(0, 0, 0)))
        session.space.settle()
        session.export(tmp_path / "out")
        plain = opened(tmp_path / "out", "norms", base="plain")
        rows = session.encode(ROWS)
        assert plain.forward(plain.encode(ROWS)) == pytest.approx(float(session.forward(rows)), abs=1e-5)

    def test_a_plain_model_has_none(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="has no packed weights, which --base int4 makes"):
            opened(checkpoint("mistral"), "scales", base="plain")

    @pytest.mark.parametrize("tune", ["full", "q_proj"])
    def test_other_ways_of_tuning_packed_weights_are_refused(self, checkpoint: Make, tune: str) -> None:
        with pytest.raises(ZoplatError, match="packed as uint8 and can't move by small steps"):
            opened(checkpoint("mistral"), tune)

    def test_a_model_without_a_layer_to_pack_is_refused(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="no linear layer whose columns are a multiple of 32"):
            opened(checkpoint("llama"))

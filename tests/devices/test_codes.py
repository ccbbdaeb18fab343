"""Codes of 4 bits that train: probes of whole numbers, updates whose rest is carried, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Array, Direction, Example, Key, ModelSpec, Noise, Sampler, Tile, ZoplatError
from zoplat.core.codes import CodesBlock, paired, unpaired
from zoplat.core.model_spec import Tuning
from zoplat.space.backend import Backend
from zoplat.space.packed import RESIDUAL
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.pytorch.backends import backend_for
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.rounded import Rounded

torch = pytest.importorskip("torch")

Make = Callable[..., Path]
ROWS = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
]


class TestASpace:
    def space(self, rows: int = 40, columns: int = 32) -> tuple[ParameterSpace, Any]:
        codes = np.random.default_rng(0).integers(0, 16, (rows, columns), np.uint8)
        block = CodesBlock("w.codes", paired(codes))
        backend = Backend(ReferenceNoise(), lambda shape, dtype: np.empty(shape, dtype))
        return ParameterSpace([block], backend, "exact", "stochastic", 7), codes

    def codes_of(self, space: ParameterSpace, array: Any = None) -> Any:
        block = space.blocks[0]
        out = np.empty(block.shape, np.int64)
        unpaired(block.array if array is None else array, out)
        return out

    def theta_of(self, space: ParameterSpace) -> Any:
        found = np.empty(space.blocks[0].shape)
        copy = space.buffer("copy")
        space.copy_to(copy)
        found[:] = copy.arrays["w.codes"]
        return found

    def test_pairs_hold_the_same_numbers(self) -> None:
        space, codes = self.space()
        assert space.blocks[0].shape == (40, 32)
        assert (self.codes_of(space) == codes).all()

    def test_a_probe_adds_whole_numbers_and_stops_at_the_border(self) -> None:
        space, codes = self.space()
        z = space.draw(Rounded(sigma=0.7), Key(0, 0, 0))
        tile = next(iter(space.blocks[0].tiles()))
        entries = np.array(space.entries(z, tile))
        for sign in (1, -1):
            target = np.empty_like(space.blocks[0].array)
            space.form(space.blocks[0], sign * z, target)
            assert (self.codes_of(space, target) == (codes + sign * entries).clip(0, 15)).all()
        assert (self.codes_of(space) == codes).all()

    def test_updates_add_up_although_each_is_far_below_a_code(self) -> None:
        space, codes = self.space()
        z = Direction.of(Rademacher(), Key(0, 0, 0))
        inside = (codes > 1) & (codes < 14)
        tile = next(iter(space.blocks[0].tiles()))
        signs = np.array(space.entries(z, tile))
        for _ in range(200):
            space.add(0.003 * z)
            space.settle()
        moved = self.theta_of(space) - codes
        assert abs((moved * signs)[inside].mean() - 0.6) < 0.005
        assert (np.abs(moved * signs - 0.6)[inside] < 0.15).all(), "rounding to 1/256 adds some hundredths"
        assert (self.codes_of(space) - codes == signs)[inside].mean() > 0.9

    def test_codes_stay_within_four_bits(self) -> None:
        space, _ = self.space()
        for _ in range(3):
            space.add(9.0 * Direction.of(Rademacher(), Key(0, 0, 0)))
            space.settle()
        theta = self.theta_of(space)
        assert theta.min() == -0.5
        assert theta.max() == 15 + 127 / 256
        assert set(np.unique(self.codes_of(space))) == {0, 15}

    def test_a_probe_of_floats_is_refused_by_the_name_of_its_law(self) -> None:
        space, _ = self.space()
        with pytest.raises(ZoplatError, match=r"Gaussian draws floats, .* Use --sampler rounded"):
            space.at(1.0 * space.draw(Gaussian(), Key(0, 0, 0)))
        with pytest.raises(ZoplatError, match="Use --eps 1"):
            space.at(0.5 * space.draw(Rounded(), Key(0, 0, 0)))

    def test_other_ways_to_restore_or_round_are_refused(self) -> None:
        block = self.space()[0].blocks[0]
        backend = Backend(ReferenceNoise(), lambda shape, dtype: np.empty(shape, dtype))
        with pytest.raises(ZoplatError, match=r"Leave -o device\.restore out"):
            ParameterSpace([block], backend, "in-place", "nearest")
        with pytest.raises(ZoplatError, match=r"rounding=master is for floats"):
            ParameterSpace([block], backend, "exact", "master")


@dataclass(frozen=True)
class EveryOtherColumn(Rounded):
    """A law of whole numbers that no kernel can draw, as it looks at positions."""

    def fill(self, out: Array, tile: Tile, key: Key, noise: Noise) -> None:
        super().fill(out, tile, key, noise)
        out[:, ::2] = 0


class TestKernels:
    SHAPES = ((3, 32), (40, 576), (700, 1504))
    """The last has more entries than one job, and no row is a whole number of groups."""

    def spaces(self) -> tuple[ParameterSpace, ParameterSpace]:
        """The definition in numpy, and what codes are moved by on a processor."""
        rng = np.random.default_rng(1)
        arrays = {f"w{i}.codes": paired(rng.integers(0, 16, shape, np.uint8)) for i, shape in enumerate(self.SHAPES)}
        plain = [CodesBlock(name, array.copy()) for name, array in arrays.items()]
        kept = [CodesBlock(name, torch.from_numpy(array)) for name, array in arrays.items()]
        reference = Backend(ReferenceNoise(), lambda shape, dtype: np.empty(shape, dtype))
        return tuple(
            ParameterSpace(blocks, backend, "exact", "stochastic", 7)
            for blocks, backend in ((plain, reference), (kept, backend_for(kept, "cpu")))
        )  # type: ignore[return-value]  # two of them

    @pytest.mark.parametrize("law", [Rounded(0.01), Rounded(3.0), EveryOtherColumn(3.0)], ids=repr)
    def test_probes_are_those_of_the_definition(self, law: Rounded) -> None:
        one, other = self.spaces()
        assert isinstance(other._backend, FusedBackend)
        for signs in ((1,), (-1,), (2, -1)):
            direction = sum((c * Direction.of(law, Key(0, i, 0)) for i, c in enumerate(signs)), start=ZERO)
            for here, there in zip(one.blocks, other.blocks, strict=True):
                expected, made = np.empty_like(here.array), torch.empty_like(there.array)
                one.form(here, direction, expected)
                other.form(there, direction, made)
                assert (made.numpy() == expected).all(), (here.name, signs)

    @pytest.mark.parametrize(
        "law", [Rounded(3.0), EveryOtherColumn(3.0), Rademacher(), LowRank(rank=2)], ids=lambda law: type(law).__name__
    )
    def test_updates_are_those_of_the_definition_to_the_last_bit_of_the_rest(self, law: Sampler) -> None:
        one, other = self.spaces()
        for step in range(3):
            for space in (one, other):
                space.add(0.37 * Direction.of(law, Key(0, step, 0)) - 1.3 * Direction.of(Rounded(0.5), Key(0, step, 1)))
                space.settle()
        for here, there in zip(one.blocks, other.blocks, strict=True):
            assert (there.array.numpy() == here.array).all()
            rests = [next(b for b in space.buffers if b.owner == RESIDUAL).arrays for space in (one, other)]
            assert (rests[1][here.name].numpy() == rests[0][here.name]).all()

    def test_a_law_of_the_platform_is_drawn_by_the_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, space = self.spaces()
        on_arrays: list[Any] = []
        fill = Rounded.fill
        monkeypatch.setattr(Rounded, "fill", lambda law, out, *of: on_arrays.append(out) or fill(law, out, *of))
        space.add(0.5 * space.draw(Rounded(), Key(0, 0, 0)))
        space.settle()
        assert on_arrays
        assert not any(isinstance(out, torch.Tensor) for out in on_arrays)


def opened(folder: Path, dtype: str = "float32", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning("codes"), dtype, 0, base="int4"))


class TestASession:
    def test_a_probe_is_seen_and_leaves_no_trace(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"))
        rows, start = session.encode(ROWS), session.digest()
        base, z = session.forward(rows), session.space.draw(Rounded(sigma=0.3), Key(0, 0, 0))
        session.space.at(z)
        assert session.forward(rows) != base
        session.space.at(0 * z)
        assert session.forward(rows) == base
        assert session.digest() == start
        assert session.facts["trainable_dtype"] == "uint4"
        assert session.facts["trainable_parameters"] == 2 * 32 * (32 + 16 + 16 + 32 + 40 + 40)

    def test_only_the_residual_is_kept_beside_the_codes_and_it_is_in_files(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"))
        residual = next(buffer for buffer in session.space.buffers if buffer.owner == RESIDUAL)
        assert residual.is_mapped
        assert residual.bytes == session.space.size

    def test_it_moves_as_the_reference_does(self, checkpoint: Make) -> None:
        session, update = opened(checkpoint("mistral")), 0.4 * Direction.of(Rounded(sigma=1.0), Key(0, 3, 0))
        block = session.space.blocks[0]
        backend = Backend(ReferenceNoise(), lambda shape, dtype: np.empty(shape, dtype))
        twin = ParameterSpace([CodesBlock(block.name, block.array.numpy().copy())], backend, "exact", "stochastic", 0)
        for space in (session.space, twin):
            for _ in range(3):
                space.add(update)
                space.settle()
        assert (block.array.numpy() == twin.blocks[0].array).all()

    def test_what_needs_floats_is_refused(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"), strategy="batched")
        rows, z = session.encode(ROWS), session.space.draw(Rounded(sigma=0.3), Key(0, 0, 0))
        with pytest.raises(ZoplatError, match="have no derivatives"):
            session.jvp(rows, z)
        with pytest.raises(ZoplatError, match="have no derivatives"):
            session.gradient(rows, session.space.everything, False)
        with pytest.raises(ZoplatError, match=r"Use -o device\.strategy=sequential"):
            session.losses_at(rows, [z, -1 * z])

    def test_a_classification_head_can_not_be_beside_codes(self, checkpoint: Make) -> None:
        spec = ModelSpec(str(checkpoint("bert")), Tuning("codes"), "float32", 0, "classifier", 2, "int4")
        with pytest.raises(ZoplatError, match="Use --tune scales or lora"):
            PyTorch().open(spec)

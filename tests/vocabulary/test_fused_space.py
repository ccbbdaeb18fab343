"""Fused kernels compared with their definition: the same bits for every law, dtype, decay and merged update."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from zoplat import ZERO, Block, Direction, Key, Noise, ParameterSpace, Sampler, Tile
from zoplat.space.backend import Backend
from zoplat.space.drift import DriftMeter
from zoplat.space.rounding import RoundingName
from zoplat_devices.kernels import plans
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.laws import traced_fill
from zoplat_devices.kernels.noise import FusedNoise, ReferenceNoise
from zoplat_devices.kernels.tables import Kernels
from zoplat_devices.kernels.traced import traced
from zoplat_plugins.eggroll import OuterProducts
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.rounded import Rounded
from zoplat_plugins.sphere import Sphere
from zoplat_plugins.subzero import Subspace
from zoplat_plugins.uniform import Uniform

LAWS = [Gaussian(), Rademacher(), Uniform(), Sphere(), LowRank(rank=1), LowRank(rank=3, interval=2)]
SHAPES = [(37, 29), (1, 700), (130, 5), (1025,), (3,), (512,)]


class TorchNoise(Noise):
    """The reference numbers as tensors."""

    def numbers(self, law: str, stream: tuple[int, int], first: int, shape: tuple[int, ...]) -> Any:
        return torch.from_numpy(ReferenceNoise().numbers(law, stream, first, shape).copy())


def blocks(dtype: str, runtime: str, device: str = "cpu") -> list[Block]:
    """New blocks with the same entries every time."""
    rng = np.random.default_rng(4)
    made = []
    for index, shape in enumerate(SHAPES):
        array: Any = torch.from_numpy(rng.normal(size=shape) * 0.05).to(device, getattr(torch, dtype))
        array = array if runtime == "torch" else array.numpy()
        made.append(Block(f"block{index}", array, dtype, decays=len(shape) == 2))
    return made


def empty_of(runtime: str, device: str = "cpu") -> Any:
    """(shape, dtype) → a new array."""
    if runtime == "numpy":
        return np.empty
    return lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype), device=device)


def pair(kernels: Kernels, dtype: str, runtime: str) -> tuple[ParameterSpace, ParameterSpace]:
    """Two spaces of equal weights: the definition, on the host, and the fused backend."""
    noise = TorchNoise() if runtime == "torch" else ReferenceNoise()
    device = device_of(kernels)
    return (
        ParameterSpace(blocks(dtype, runtime), Backend(noise, empty_of(runtime))),
        ParameterSpace(blocks(dtype, runtime, device), FusedBackend(kernels, empty_of(runtime, device)), "in-place"),
    )


def exact() -> ParameterSpace:
    """The definition for float32 weights in numpy."""
    return ParameterSpace(blocks("float32", "numpy"), Backend(ReferenceNoise(), np.empty))


def device_of(kernels: Kernels) -> str:
    """Device of the arrays that kernels update."""
    return str(getattr(kernels, "device", "cpu"))


def bits(space: ParameterSpace) -> dict[str, bytes]:
    """What the arrays hold, to the bit."""
    return {
        block.name: block.array.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        if isinstance(block.array, torch.Tensor)
        else block.array.tobytes()
        for block in space.blocks
    }


def differing(one: ParameterSpace, other: ParameterSpace) -> list[str]:
    """Names of the blocks whose bits are not the same."""
    there = bits(other)
    return [name for name, held in bits(one).items() if held != there[name]]


KINDS = [("float32", "numpy"), ("float16", "numpy"), ("float32", "torch"), ("bfloat16", "torch"), ("float16", "torch")]


@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_steps_of_one_law_leave_the_same_bits(kernels: Kernels, law: Sampler, dtype: str, runtime: str) -> None:
    one, other = pair(kernels, dtype, runtime)
    for step in range(3):
        for space in (one, other):
            z = space.draw(law, Key(2, step, 0))
            space.at(1e-3 * z)
            space.at(-1e-3 * z)
            space.add(-0.0123 * z, decay=0.01)
        assert differing(one, other) == [], f"after the probes of step {step}"
    one.settle()
    other.settle()
    assert differing(one, other) == []


@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
@pytest.mark.parametrize("law", [LowRank(rank=3, interval=2), Subspace(rank=2)], ids=repr)
def test_updates_that_are_added_up_in_factors_leave_the_same_bits(
    kernels: Kernels, law: Sampler, dtype: str, runtime: str
) -> None:
    one, other = pair(kernels, dtype, runtime)
    for step in range(3):
        for space in (one, other):
            z = space.draw(law, Key(2, step, 0))
            assert space.low_rank_points([1e-3 * z, -1e-3 * z]) is not None
            space.add(-0.0123 * z)
        assert differing(one, other) == [], f"at the question of step {step}"
    one.settle()
    other.settle()
    assert differing(one, other) == []


@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_merged_terms_of_all_laws_with_decay_leave_the_same_bits(kernels: Kernels, dtype: str, runtime: str) -> None:
    one, other = pair(kernels, dtype, runtime)
    for space in (one, other):
        for step in range(2):
            total = ZERO
            for index, law in enumerate(LAWS):
                total += (-1) ** index * 0.01 * (index + 1) * space.draw(law, Key(2, step, index))
            space.at(0.1 * total)
            space.add(total, decay=0.05)
            space.at(0.3 * space.draw(Gaussian(), Key(9, step, 0)))
    assert differing(one, other) == []
    one.settle()
    other.settle()
    assert differing(one, other) == []


def adam(theta: Any, g: Any, m: Any, v: Any) -> None:
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    theta -= 0.01 * (m / 0.3) / ((v / 0.7) ** 0.5 + 1e-8)


def curvature(theta: Any, g: Any, m: Any, h: Any) -> None:
    h += 0.3 * h * (2.0 * (g * g - 1.0) - 1)
    h[:] = h.clip(0.1, 0.9)
    if m is not None:
        m[:] = 1 - abs(m) * (h >= 0.5) / (2 - g**2)


def signs(theta: Any, g: Any, m: Any, v: Any) -> None:
    g[:] = (g > 0) * 1.0 - (g < 0) * 1.0
    theta -= 0.02 * g
    theta *= 1.5 - (v <= 0.5) * 0.25
    v /= 3.0


def by_reduction(theta: Any, g: Any, m: Any, v: Any) -> None:
    if float(abs(g).max()) > 0:
        theta += (g * g).sum() * 1e-6


RULES = {adam: True, curvature: True, signs: True, by_reduction: False}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_rules_leave_the_same_bits_whether_they_are_traced_or_run_on_arrays(
    kernels: Kernels, dtype: str, runtime: str, rule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DriftMeter, "ENTRIES", 64)
    one, other = pair(kernels, dtype, runtime)
    if dtype == "float32" and kernels.runs_rules and RULES[rule]:  # roots of PyTorch are not always rounded right
        one = exact()
    done: list[int] = []
    run = type(kernels).rule
    monkeypatch.setattr(type(kernels), "rule", lambda self, *given: done.append(1) or run(self, *given))
    held = []
    for space in (one, other):
        some = space.part(lambda block: block.name != "block1") if rule is curvature else None
        m, v = space.buffer("test/m", fill=0.25, on=some), space.buffer("test/v", fill=0.5)
        for step in range(3):
            z = space.draw((Gaussian(), Rademacher(), LowRank(rank=3))[step], Key(2, step, 0))
            space.at(1e-3 * z)
            space.add(0.01 * space.draw(Rademacher(), Key(2, step, 1)), decay=0.1)
            space.sweep(rule, 0.7 * z - 0.1 * space.draw(Gaussian(), Key(3, 0, 0)), m, v)
        arrays = {f"{buffer.owner}/{name}": array for buffer in (m, v) for name, array in buffer.arrays.items()}
        held.append(
            {name: array.cpu().numpy() if isinstance(array, torch.Tensor) else array for name, array in arrays.items()}
        )
        assert dtype != "float32" or space.drift < 1e-6
    assert differing(one, other) == []
    for name, array in held[0].items():
        np.testing.assert_array_equal(held[1][name], array, err_msg=name)
    assert bool(done) == RULES[rule]


ONE_CALL = {LowRank(rank=3): True, OuterProducts(rank=2): True, Subspace(rank=2): False}


@pytest.mark.parametrize("law", ONE_CALL, ids=repr)
def test_factors_of_all_matrices_are_drawn_in_one_call_where_calls_are_dear(
    kernels: Kernels, law: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair(kernels, "float32", "torch")
    calls, run = [], type(kernels).numbers
    monkeypatch.setattr(type(kernels), "numbers", lambda self, *given: calls.append(1) or run(self, *given))
    for space in (one, other):
        space.at(Direction.of(law, Key(2, 5, 1)))
    close = 0 if ONE_CALL[law] else 1e-5
    for block, same in zip(one.blocks, other.blocks, strict=True):
        np.testing.assert_allclose(block.array.cpu(), same.array.cpu(), rtol=close, atol=close)
    assert bool(calls) != (ONE_CALL[law] and kernels.prefers_few_calls)


ROUNDED = [("bfloat16", "stochastic"), ("float16", "stochastic"), ("bfloat16", "master"), ("float16", "master")]


@pytest.mark.parametrize(("dtype", "rounding"), ROUNDED)
def test_rules_on_16_bit_weights_leave_the_same_bits_however_these_are_rounded(
    kernels: Kernels, dtype: str, rounding: RoundingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DriftMeter, "ENTRIES", 64)
    device, spaces = device_of(kernels), []
    for place, backend in (
        ("cpu", Backend(TorchNoise(), empty_of("torch"))),
        (device, FusedBackend(kernels, empty_of("torch", device))),
    ):
        spaces.append(ParameterSpace(blocks(dtype, "torch", place), backend, "exact", rounding=rounding, seed=5))
    done: list[int] = []
    run = type(kernels).rule
    monkeypatch.setattr(type(kernels), "rule", lambda self, *given: done.append(1) or run(self, *given))
    drifts = []
    for space in spaces:
        m, v = space.buffer("test/m", fill=0.25), space.buffer("test/v", fill=0.5)
        for step in range(2):
            space.add(0.01 * space.draw(Rademacher(), Key(2, step, 1)), decay=0.1)
            z = space.draw((Uniform(), LowRank(rank=3))[step], Key(2, step, 0))
            space.sweep(curvature, 0.7 * z - 0.1 * space.draw(Gaussian(), Key(3, 0, 0)), m, v)
            space.sweep(signs, z, m, v)
        drifts.append(space.drift)
    assert differing(*spaces) == []
    assert done
    assert drifts[1] == pytest.approx(drifts[0], rel=1e-6)


def test_a_rule_is_traced_if_it_treats_every_entry_alike_and_only_then() -> None:
    program = traced(adam, 4)
    assert program is not None
    assert program.written == {0, 2, 3}
    assert max(step[1] for step in program.steps) < 8, "registers are reused"
    assert traced(by_reduction, 4) is None
    for untraceable in (
        lambda t, g: t.__iadd__(np.array(g)),
        lambda t, g: t.__iadd__(g**3),
        lambda t, g: t.__setitem__(0, g),
        lambda t, g: t.__iadd__(g.mean()),
        lambda t, g: t.__iadd__(np.sign(g)),
        lambda t, g: t.__iadd__(1.0 if g == 0 else 2.0),
        lambda t, g: t.__iadd__(g % 2),
    ):
        assert traced(untraceable, 2) is None


@pytest.mark.parametrize("power", [1.0, -0.5, -1.0])
@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_scaled_terms_of_all_laws_leave_the_same_bits(kernels: Kernels, dtype: str, runtime: str, power: float) -> None:
    one, other = pair(kernels, dtype, runtime)
    has_exact_roots = power != -0.5 or dtype != "float32" or runtime == "numpy"
    if not has_exact_roots:  # PyTorch's are not always rounded right
        one = exact()
    for space in (one, other):
        scale = space.buffer("test/scale")
        for block in space.blocks:
            numbers = np.random.default_rng(block.size).uniform(0.1, 7, block.shape).astype(np.float32)
            array = scale.arrays[block.name]
            array[:] = torch.from_numpy(numbers) if isinstance(array, torch.Tensor) else numbers
        total = space.draw(Gaussian(), Key(2, 0, 99))
        for index, law in enumerate(LAWS):
            total += (-1) ** index * 0.01 * (index + 1) * space.draw(law, Key(2, 0, index)).scaled(scale, power)
        space.at(total)
        space.add(0.3 * total, decay=0.05)
        for array in scale.arrays.values():
            array *= 1.5
        if has_exact_roots:  # two scales are applied to arrays
            space.at(0.5 * space.draw(Gaussian(), Key(2, 0, 0)).scaled(scale, power).scaled(scale, power))
    assert differing(one, other) == []


@pytest.mark.parametrize(("power", "is_fused"), [(1.0, True), (-0.5, True), (-1.0, False), (2.0, False)])
def test_scales_of_power_1_and_minus_half_are_applied_in_registers(
    processor_kernels: Kernels, power: float, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfused, entries = [], Backend.entries
    monkeypatch.setattr(Backend, "entries", lambda self, *given: unfused.append(given) or entries(self, *given))
    space = pair(processor_kernels, "float32", "numpy")[1]
    scale, [tile] = space.buffer("test/scale", fill=0.5), space.blocks[0].tiles()
    for law in (Gaussian(), Rademacher(), Sphere(), LowRank(rank=3)):
        unfused.clear()
        space.entries(space.draw(law, Key(0, 0, 0)).scaled(scale, power), tile)
        assert (not unfused) == is_fused, law


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_not_finite_or_overflows_is_what_the_definition_makes_of_it(kernels: Kernels, dtype: str) -> None:
    """A NaN stays one; which bits it has differs from runtime to runtime."""
    kind = getattr(torch, dtype)
    odd = [math.nan, -math.nan, math.inf, -math.inf, torch.finfo(kind).max, torch.finfo(kind).min, 0.0, -0.0, 1e-40]
    device, held = device_of(kernels), []
    for place in ("cpu", device):
        array = torch.tensor(odd * 300, dtype=torch.float64).to(kind).to(place)
        backend: Any = FusedBackend(kernels, empty_of("torch", device))
        if not held:
            backend = Backend(TorchNoise(), empty_of("torch"))
        space = ParameterSpace([Block("w", array, dtype)], backend, "in-place")
        space.at(float(torch.finfo(kind).max) * 2**-8 * space.draw(Rademacher(), Key(0, 0, 0)))
        held.append(array.cpu().float().numpy())
    np.testing.assert_array_equal(*held)
    assert np.isnan(held[1]).sum() == 600
    assert np.isinf(held[1]).sum() >= 600


def test_blocks_cut_into_several_jobs_leave_the_same_bits(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "ENTRIES", 1024)
    one, other = pair(kernels, "float32", "torch")
    assert sum(-(-math.prod(shape) // 1024) for shape in SHAPES) > len(SHAPES)
    for space in (one, other):
        space.at(0.1 * space.draw(Gaussian(), Key(0, 0, 0)) + 0.2 * space.draw(LowRank(), Key(0, 0, 1)))
    assert differing(one, other) == []


@pytest.mark.parametrize("law", [Gaussian(), Uniform(), LowRank()], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_form_writes_theta_plus_direction_to_another_array_and_leaves_theta(
    kernels: Kernels, law: Sampler, dtype: str
) -> None:
    reference, space = pair(kernels, dtype, "torch")
    before = bits(space)
    direction = 0.1 * space.draw(law, Key(0, 0, 0)) - 0.2 * space.draw(Gaussian(), Key(0, 0, 1))
    targets = [torch.empty_like(block.array) for block in space.blocks]
    for block, target in zip(space.blocks, targets, strict=True):
        space.form(block, direction, target)
    assert bits(space) == before
    reference.at(direction)
    for block, target in zip(reference.blocks, targets, strict=True):
        assert torch.equal(block.array.cpu(), target.cpu())
    for block, target in zip(space.blocks, targets, strict=True):
        space.form(block, ZERO, target)
        assert torch.equal(block.array.cpu(), target.cpu())


@pytest.mark.parametrize("piece", [300, plans.PIECE])
@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_points_are_written_side_by_side_with_the_bits_of_their_definition(
    kernels: Kernels, dtype: str, runtime: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PIECE", piece)
    one, other = pair(kernels, dtype, runtime)
    before = bits(other)
    written = []
    for space in (one, other):
        laws = [0.1 * space.draw(law, Key(0, 0, index)) for index, law in enumerate([*LAWS, SameRow()])]
        on_part = laws[0].on(space.part(lambda block: len(block.shape) == 2)) + laws[1]
        scale = space.buffer("test/scale", fill=0.5)
        directions = [*laws, ZERO, laws[0] - 2 * laws[4], on_part, laws[2].scaled(scale)]
        points, chosen = space.points(directions), [*range(len(directions))][::-1]
        tiles = [Tile(block, 0, block.shape[0]) for block in space.blocks]
        tiles += [Tile(space.blocks[0], row, row + 1) for row in (3, 4, 30)] + [Tile(space.blocks[2], 7, 9)]
        device = device_of(kernels) if space is other else "cpu"
        lines = empty_of(runtime, device)((len(chosen), sum(tile.size for tile in tiles)), dtype)
        points.write(tiles, chosen, lines)
        written.append(lines if runtime == "numpy" else lines.float().cpu().numpy())
    np.testing.assert_array_equal(written[0], written[1])
    assert bits(other) == before


def test_sweeps_norms_and_drift_agree_to_the_bit(kernels: Kernels) -> None:
    one, other = pair(kernels, "float32", "torch")
    drifts, norms = [], []
    for space in (one, other):
        m = space.buffer("test/m")

        def kernel(theta: Any, g: Any, m: Any) -> None:
            m += g
            theta -= 0.01 * m

        z = space.draw(Gaussian(), Key(0, 0, 0))
        space.at(1e-3 * z)
        space.sweep(kernel, z, m)
        norms.append(space.norm(z))
        drifts.append(space.drift)
    assert differing(one, other) == []
    assert norms[0] == norms[1]
    assert drifts[0] == pytest.approx(drifts[1], rel=1e-12), "sums of float64, in whatever order"


@dataclass(frozen=True)
class SameRow(Sampler):
    """One random row, written to every row: draws as many numbers as there are columns."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape[1:] or (1,), key, tile.block.name)


@dataclass(frozen=True)
class Shifted(Sampler):
    """Adds a constant to its random numbers."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)
        out += 1.0


@dataclass(frozen=True)
class Product(Sampler):
    """The product of two draws."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)
        out[:] *= noise.sign(tile.shape, key, tile, "signs")


@dataclass(frozen=True)
class Summed(Sampler):
    """What README shows: the sum of two draws."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        a, b = (noise.uniform(tile.shape, key, tile, name) for name in ("a", "b"))
        out[:] = (a + b - 1) * 6**0.5


@dataclass(frozen=True)
class Laplace(Sampler):
    """Everything that a law may compute: roots, quotients, absolute values and limits of three draws."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.coarse(tile.shape, key, tile)
        out /= 3 - abs(noise.normal(tile.shape, key, tile, "b")).clip(0.5, 2.5)
        out -= (noise.uniform(tile.shape, key, tile, "c") + 0.1) ** 0.5


@dataclass(frozen=True)
class Steps(Sampler):
    """A law of truth values, whose products are float64 in numpy."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = (noise.uniform(tile.shape, key, tile) > 0.25) * 0.1


COMPUTING = dict.fromkeys((Uniform(), Shifted(), Product(), Summed(), Laplace(), Rounded(sigma=3.0)), True)
COMPUTING |= {SameRow(): False, Steps(): False}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("law", COMPUTING, ids=repr)
def test_laws_that_compute_with_their_draws_leave_the_same_bits(
    kernels: Kernels, law: Sampler, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair(kernels, dtype, "torch")
    if dtype == "float32":
        one = exact()
    on_tiles, fill = [], type(law).fill
    monkeypatch.setattr(type(law), "fill", lambda self, out, *of: on_tiles.append(out) or fill(self, out, *of))
    for space in (one, other):
        on_tiles.clear()
        z = Direction.of(law, Key(0, 0, 0))
        space.at(0.1 * z)
        space.at(0.3 * z - 0.2 * Direction.of(law, Key(0, 0, 1)) + 0.1 * Direction.of(Summed(), Key(0, 0, 2)))
        space.at(0.1 * Direction.of(Gaussian(), Key(0, 0, 3)) - 0.4 * z)
    assert differing(one, other) == []
    assert any(isinstance(out, torch.Tensor) for out in on_tiles) != COMPUTING[law], "filled on arrays, if not fused"


def test_a_law_is_traced_if_float32_and_its_definition_are_the_same() -> None:
    tile = Tile(blocks("float32", "numpy")[0], 0, SHAPES[0][0])

    def kind(fill: Any) -> str | None:
        made = type("Made", (Sampler,), {"fill": lambda self, out, tile, key, noise: fill(out, noise)})()
        found = traced_fill(made, tile, Key(0, 0, 0))
        return found and found.kind

    def normal(noise: Noise, name: str = "w", shape: tuple[int, ...] = SHAPES[0]) -> Any:
        return noise.normal(shape, Key(0, 0, 0), name)

    assert kind(lambda out, noise: out.__setitem__(slice(None), normal(noise))) == "normal"
    assert kind(lambda out, noise: out.__setitem__(slice(None), normal(noise) * 2)) == "computed"
    for other in (
        lambda out, noise: normal(noise),
        lambda out, noise: out.__iadd__(normal(noise)),
        lambda out, noise: out.__setitem__(0, normal(noise)),
        lambda out, noise: out.__setitem__(slice(None), normal(noise, shape=SHAPES[0][1:])),
        lambda out, noise: out.__setitem__(slice(None), normal(noise) * np.float64(0.1)),
        lambda out, noise: out.__setitem__(slice(None), normal(noise) * np.ones(3, np.float32)),
        lambda out, noise: out.__setitem__(slice(None), (normal(noise) > 0) * 0.1),
        lambda out, noise: out.__setitem__(slice(None), sum(normal(noise, str(i)) for i in range(5))),
    ):
        assert kind(other) is None


def test_fused_noise_fills_arrays_of_any_shape_and_runtime(kernels: Kernels) -> None:
    expected = ReferenceNoise().normal((5, 300), Key(1, 2, 3), "w")
    for runtime in ("torch",) if hasattr(kernels, "device") else ("numpy", "torch"):
        made = FusedNoise(kernels, empty_of(runtime, device_of(kernels))).normal((5, 300), Key(1, 2, 3), "w")
        assert (np.asarray(made.cpu() if runtime == "torch" else made) == expected).all()

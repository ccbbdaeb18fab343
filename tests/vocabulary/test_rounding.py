"""16-bit weights that keep small updates: stochastic rounding, and float32 master weights."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoplat as package
from zoplat import ZERO, Block, Key, Noise, ParameterSpace, Sampler, Tile, ZoplatError
from zoplat.space.backend import Backend
from zoplat.space.rounding import NARROW, RoundingName, round_stochastically
from zoplat.testing import Plain, Toy, linear, train, two_layers
from zoplat.testing.runs import Sweeping
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import JournalWriter, StepRecord
from zoplat.training.replay import replay
from zoplat.training.step import Learner
from zoplat_devices.kernels import plans
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_devices.kernels.tables import Kernels
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rademacher import Rademacher

GAPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # between 1 and the next number
COPIES = 1 << 20
CAREFUL: tuple[RoundingName, ...] = ("stochastic", "master")
KINDS = [("float16", "numpy"), ("float16", "torch"), ("bfloat16", "torch")]
SHAPES = [(37, 29), (1, 700), (130, 5), (1025,), (3,), (512,)]


@dataclass(frozen=True)
class Ones(Sampler):
    """Every entry is one."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = 1.0


@dataclass(frozen=True)
class SameRow(Sampler):
    """One random row, written to every row: a law that is not fused."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape[1:] or (1,), key, tile.block.name)


class TorchNoise(Noise):
    """The reference numbers as tensors."""

    def numbers(self, law: str, stream: tuple[int, int], first: int, shape: tuple[int, ...]) -> Any:
        return torch.from_numpy(ReferenceNoise().numbers(law, stream, first, shape).copy())


def space_of(
    arrays: list[Any], dtype: str, runtime: str, rounding: RoundingName, kernels: Kernels | None = None, seed: int = 0
) -> ParameterSpace:
    """A space over copies of float64 arrays, on the device of the kernels."""
    device, blocks, empty = str(getattr(kernels, "device", "cpu")), [], empty_of(runtime, kernels)
    for index, numbers in enumerate(arrays):
        array: Any = torch.tensor(numbers).to(device, getattr(torch, dtype))
        array = array if runtime == "torch" else array.numpy()
        blocks.append(Block(f"block{index}", array, dtype, decays=len(array.shape) == 2))
    if kernels:
        return ParameterSpace(blocks, FusedBackend(kernels, empty), "exact", rounding=rounding, seed=seed)
    noise = TorchNoise() if runtime == "torch" else ReferenceNoise()
    return ParameterSpace(blocks, Backend(noise, empty), "exact", rounding=rounding, seed=seed)


def empty_of(runtime: str, kernels: Kernels | None) -> Any:
    """(shape, dtype) → a new array on the device of the kernels."""
    if runtime == "numpy":
        return np.empty
    device = str(getattr(kernels, "device", "cpu"))
    return lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype), device=device)


def some(scale: float = 0.05) -> list[Any]:
    """Random entries for blocks of all kinds of shape."""
    rng = np.random.default_rng(4)
    return [rng.normal(size=shape) * scale for shape in SHAPES]


def held(space: ParameterSpace) -> Any:
    """What the arrays hold, float64, all blocks one after the other."""
    return torch.cat([torch.as_tensor(block.array).double().cpu().reshape(-1) for block in space.blocks]).numpy()


def bits(space: ParameterSpace) -> bytes:
    """What the arrays and the buffers hold, to the bit."""
    arrays = [*(b.array for b in space.blocks), *(a for b in space.buffers for a in b.arrays.values())]
    return b"".join(torch.as_tensor(a).cpu().contiguous().view(torch.uint8).numpy().tobytes() for a in arrays)


def rounded(values: Any, dtype: str, step: int = 0) -> Any:
    """Numbers rounded stochastically, as float64."""
    theta = np.array(values, np.float32)
    round_stochastically(theta, ReferenceNoise().coarse(theta.shape, Key(0, step, -1), "w"), dtype, np.dtype("int32"))
    stored = torch.from_numpy(theta).to(getattr(torch, dtype))
    assert torch.equal(stored.float(), torch.from_numpy(theta)), "the conversion to the dtype rounds nothing more"
    return theta.astype(np.float64)


def neighbours(x: float, dtype: str) -> tuple[float, float]:
    """The two neighbouring numbers of a dtype, the one nearer to zero first."""
    kind = getattr(torch, dtype)
    near = torch.tensor(x, dtype=torch.float64).to(kind)
    beyond = abs(float(near)) > abs(x)
    other = torch.nextafter(near, torch.tensor(0.0 if beyond else math.copysign(math.inf, x), dtype=kind))
    return (float(other), float(near)) if beyond else (float(near), float(other))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("base", [1.0, -0.02, 1.9995, -3e-5, 2.0**-14, 3e-7, -700.0, 1e-38])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.999])
def test_the_mean_of_many_roundings_is_the_number_itself(dtype: str, base: float, share: float) -> None:
    if dtype == "float16" and base == 1e-38:
        base = 0.0
    low, high = neighbours(float(torch.tensor(base).to(getattr(torch, dtype))) + math.copysign(1e-42, base), dtype)
    x = float(np.float32(low + share * (high - low)))
    f = (x - low) / (high - low)
    made = rounded(np.full(COPIES, x), dtype)
    assert set(np.unique(made)) == {low, high}
    error = abs(high - low) * math.sqrt(f * (1 - f) / COPIES)
    assert abs(made.mean() - x) <= 4 * error
    if share == 0.001:
        assert float(torch.tensor(x).to(getattr(torch, dtype))) == low, "to nearest, all of it is lost"


@pytest.mark.parametrize("dtype", NARROW)
def test_numbers_of_the_dtype_stay_and_nothing_finite_becomes_infinite(dtype: str) -> None:
    kind = getattr(torch, dtype)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind).float().numpy()
    every = every[~np.isnan(every)]
    np.testing.assert_array_equal(rounded(every, dtype), every)
    largest = torch.finfo(kind).max
    with np.errstate(over="ignore"):
        beyond = np.array([largest * (1 + 1e-6), -largest * 1.003, 3.4e38, -3.4e38, 65520.0, 1e30], np.float32)
    made = np.array([rounded(beyond, dtype, step) for step in range(50)])
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[:, [0, 2]], largest)
    np.testing.assert_array_equal(made[:, [1, 3]], -largest)
    theta = np.array([np.inf, -np.inf, np.nan, -np.nan], np.float32)
    round_stochastically(theta, np.full(4, 1 - 2.0**-17, np.float32), dtype, np.dtype("int32"))
    np.testing.assert_array_equal(theta, [np.inf, -np.inf, np.nan, np.nan])


@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_updates_of_a_thousandth_of_a_gap_add_up_stochastically_and_are_lost_to_nearest(
    processor_kernels: Kernels, dtype: str, runtime: str, compiled: bool
) -> None:
    start, steps, share = [np.ones((300, 700))], 24, 1 / 1024
    ends = {}
    for rounding in ("nearest", "stochastic", "master"):
        space = space_of(start, dtype, runtime, rounding, processor_kernels if compiled else None)  # type: ignore[arg-type]
        for step in range(steps):
            space.add(share * GAPS[dtype] * space.draw(Ones(), Key(0, step, 0)))
            space.settle()
        ends[rounding] = (held(space) - 1.0) / GAPS[dtype]
    assert (ends["nearest"] == 0).all()
    assert (ends["master"] == 0).all(), "a thirtieth of a gap is still nearest to 1, and not lost: see below"
    made = ends["stochastic"]
    assert abs(made.mean() - steps * share) <= 4 * math.sqrt(steps * share * (1 - share) / made.size)


@pytest.mark.parametrize("dtype", NARROW)
def test_200_small_updates_compared_with_those_of_float32(processor_kernels: Kernels, dtype: str) -> None:
    """Steps of up to 0.4 of a gap in one direction: rounded to nearest, all of them are lost."""
    start = [torch.tensor(array).to(getattr(torch, dtype)).double().numpy() + 0.0 for array in some(0.0)]
    start = [array + 1.5 for array in start]
    ends: dict[str, Any] = {}
    for name, kind, rounding in [("float32", "float32", "nearest"), *((r, dtype, r) for r in ("nearest", *CAREFUL))]:
        space = space_of(start, kind, "torch", rounding, processor_kernels)  # type: ignore[arg-type]
        along = space.draw(Rademacher(), Key(7, 0, 0))
        for step in range(200):
            space.at(1e-3 * space.draw(Gaussian(), Key(0, step, 0)))
            space.add(0.4 * step / 200 * GAPS[dtype] * along)
        space.settle()
        ends[name] = held(space)
    exact = ends.pop("float32")
    errors = {name: float(np.linalg.norm(end - exact) / np.linalg.norm(exact - 1.5)) for name, end in ends.items()}
    np.testing.assert_array_equal(ends["master"], torch.tensor(exact).to(getattr(torch, dtype)).double().numpy())
    assert errors["nearest"] == 1.0
    assert errors["stochastic"] < 0.2 * errors["nearest"]
    assert errors["master"] < 0.1 * errors["stochastic"]
    along_the_way = float((ends["stochastic"] - 1.5) @ (exact - 1.5)) / float((exact - 1.5) @ (exact - 1.5))
    assert along_the_way == pytest.approx(1.0, abs=4 * errors["stochastic"] / math.sqrt(exact.size))


def test_random_numbers_of_rounding_depend_on_seed_pass_and_block_alone() -> None:
    start = [np.ones((50, 40)), np.ones((50, 40))]

    def after(writes: int, seed: int = 0, dtype: str = "float16") -> Any:
        space = space_of(start, dtype, "numpy", "stochastic", seed=seed)
        for write in range(writes):
            space.add((2.0**-11 if write else 0.0) * space.draw(Ones(), Key(0, write, 0)))
            space.sweep(lambda theta, g: None) if not write else space.settle()
        return held(space)

    np.testing.assert_array_equal(after(2), after(2))
    once, other, later = after(2), after(2, seed=1), after(3) - after(2)
    halves = (once - 1.0).reshape(2, -1)
    for one, two in ((once, other), (once - 1.0, later), (halves[0], halves[1])):
        same = float((one == two).mean())
        assert 0.45 < same < 0.55, "two fair coins agree every other time"


@pytest.mark.parametrize("rounding", CAREFUL)
@pytest.mark.parametrize("rule", [Plain(lr=0.02, decay=0.1), Sweeping(lr=0.02)], ids=["deferred", "swept"])
def test_tiles_and_visiting_order_change_no_bit(rounding: RoundingName, rule: Any) -> None:
    ends = set()
    for changes in ({}, {"grid": 1}, {"grid": 1000}, {"backwards": True}):
        toy = linear(dtype="float16", restore="exact").anew(rounding=rounding, **changes)
        train(toy, MeZO(eps=1e-2, rule=rule), steps=20)
        ends.add(toy.bits)
    assert len(ends) == 1


@pytest.mark.parametrize("rounding", CAREFUL)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("rule", [Plain(lr=0.02, decay=0.1), Sweeping(lr=0.02)], ids=["deferred", "swept"])
def test_a_run_is_replayed_from_its_answers_bit_for_bit(rounding: RoundingName, dtype: str, rule: Any) -> None:
    pytest.importorskip("ml_dtypes")

    def anew() -> Toy:
        return two_layers(dtype=dtype, restore="exact").anew(rounding=rounding)

    run, again, nearest = anew(), anew(), anew().anew(rounding="nearest")
    answers = train(run, MeZO(rule=rule), steps=60)
    train(again, MeZO(rule=rule), steps=60, answers=answers)
    train(nearest, MeZO(rule=rule), steps=60, answers=answers)
    assert again.bits == run.bits
    assert bits_of_buffers(again) == bits_of_buffers(run)
    assert nearest.bits != run.bits


def bits_of_buffers(toy: Toy) -> list[bytes]:
    return [array.tobytes() for buffer in toy.space.buffers for array in buffer.arrays.values()]


@pytest.mark.parametrize("rounding", ["nearest", *CAREFUL])
@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_the_kernels_leave_the_bits_of_the_definition(
    kernels: Kernels, dtype: str, runtime: str, rounding: RoundingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "ENTRIES", 700)
    spaces = [space_of(some(), dtype, runtime, rounding, made, seed=5) for made in (None, kernels)]
    for step, law in enumerate([Gaussian(), Rademacher(), LowRank(rank=3), SameRow(), Gaussian()]):
        for space in spaces:
            z, m = space.draw(law, Key(2, step, 0)), space.draw(Gaussian(), Key(2, step, 1))
            space.at(1e-3 * z)
            on_part = z.on(space.part(lambda block: len(block.shape) == 2))
            space.add(-1e-4 * z + 3e-5 * m - 1e-4 * on_part, decay=0.01 * (step % 2))
            space.settle()
        assert bits(spaces[0]) == bits(spaces[1]), f"after step {step}, {law}"
        for space in spaces:
            space.sweep(lambda theta, g: theta.__isub__(1e-4 * g), space.draw(law, Key(3, step, 0)))
        assert bits(spaces[0]) == bits(spaces[1]), f"after the sweep of step {step}, {law}"


@pytest.mark.parametrize("rounding", CAREFUL)
@pytest.mark.parametrize(("dtype", "runtime"), KINDS)
def test_perturbed_weights_are_theta_plus_perturbation_rounded_to_nearest(
    kernels: Kernels, dtype: str, runtime: str, rounding: RoundingName
) -> None:
    written = []
    for made in (None, kernels):
        space = space_of(some(), dtype, runtime, rounding, made)
        space.add(1e-4 * space.draw(Gaussian(), Key(0, 0, 0)))
        space.settle()
        theta, empty = space.buffer("test/theta"), empty_of(runtime, made)
        space.copy_to(theta)
        before = bits(space)
        probes = [0.1 * space.draw(law, Key(1, 0, 0)) for law in (Gaussian(), LowRank(), SameRow())]
        tiles = [Tile(block, 0, block.shape[0]) for block in space.blocks]
        lines = empty((len(probes), space.size), dtype)
        space.points(probes).write(tiles, range(len(probes)), lines)
        begin = 0
        for block in space.blocks:
            for probe, line in zip(probes, lines, strict=True):
                target = empty(block.shape, dtype)
                space.form(block, probe, target)
                assert bool((target.reshape(-1) == line[begin : begin + block.size]).all())
                sums = torch.as_tensor(theta.arrays[block.name]) + torch.as_tensor(
                    space.entries(probe, Tile(block, 0, block.shape[0]))
                )
                assert torch.equal(torch.as_tensor(target), sums.to(getattr(torch, dtype)))
            begin += block.size
        written.append(torch.as_tensor(lines).float().cpu())
        assert bits(space) == before
    assert torch.equal(*written)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_kernels_round_any_sum_as_the_definition_does(kernels: Kernels, dtype: str) -> None:
    """Every finite number of the dtype plus noise of any size, from nothing to beyond its range."""
    kind = getattr(torch, dtype)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
    every = every[every.isfinite()].double().numpy()
    for scale in (1e-45, 1e-41, 1e-9, 1e-6, 1e-3, 1.0, 1e4, 1e30, 3e37):
        spaces = [space_of([every], dtype, "torch", "stochastic", made) for made in (None, kernels)]
        z = spaces[0].draw(Gaussian(), Key(0, 0, 0))
        for space in spaces:
            space.add(scale * z)
            space.settle()
        ends = [held(space) for space in spaces]
        np.testing.assert_array_equal(*ends, err_msg=str(scale))
        with np.errstate(over="ignore"):
            sums = (
                every.astype(np.float32)
                + spaces[0].entries(scale * z, Tile(spaces[0].blocks[0], 0, len(every))).numpy()
            )
        np.testing.assert_array_equal(np.isfinite(ends[0]), np.isfinite(sums), err_msg=str(scale))


@pytest.mark.parametrize("rounding", CAREFUL)
@pytest.mark.parametrize("dtype", NARROW)
def test_in_place_restore_is_refused_with_a_hint(rounding: RoundingName, dtype: str) -> None:
    with pytest.raises(ZoplatError, match=rf"rounding={rounding} writes {dtype} weights .*device\.restore=exact"):
        ParameterSpace(
            [Block("w", np.zeros(3), dtype)], Backend(ReferenceNoise(), np.empty), "in-place", rounding=rounding
        )


@pytest.mark.parametrize("rounding", CAREFUL)
def test_the_setting_has_no_effect_on_float32_weights(rounding: RoundingName) -> None:
    ends = []
    for chosen in ("nearest", rounding):
        toy = two_layers(dtype="float32").anew(rounding=chosen)
        train(toy, MeZO(rule=Plain(lr=0.02)), steps=20)
        assert toy.space.buffers == []
        ends.append(toy.bits)
    assert ends[0] == ends[1]


def test_master_weights_are_in_the_ledger_and_weights_from_outside_become_theta() -> None:
    toy = linear(dtype="float16", restore="exact").anew(rounding="master")
    [masters] = toy.space.buffers
    assert (masters.owner, masters.bytes) == ("master weights", 4 * toy.space.size)
    toy.space.add(1e-6 * toy.space.draw(Gaussian(), Key(0, 0, 0)))
    toy.space.settle()
    kept = {name: array.copy() for name, array in masters.arrays.items()}
    toy.space.reset()
    assert all((array == kept[name]).all() for name, array in masters.arrays.items())
    first = toy.blocks[0]
    first.array[1] = 2.0
    toy.space.reset()
    expected = {**kept, first.name: np.where(np.arange(len(first.array))[:, None] == 1, 2.0, kept[first.name])}
    assert all((array == expected[name]).all() for name, array in masters.arrays.items())
    copy = toy.space.snapshot("test/anchor")
    assert all((array == expected[name]).all() for name, array in copy.arrays.items())


def test_drift_shows_lost_updates_in_deferred_updates_and_in_sweeps() -> None:
    for rule in (Plain(lr=1e-6), Sweeping(lr=1e-6)):
        drifts = {}
        for rounding in ("nearest", *CAREFUL):
            toy = linear(dtype="float16", restore="exact").anew(rounding=rounding)
            start = toy.held
            train(toy, MeZO(eps=1e-2, rule=rule), steps=40)
            drifts[rounding] = toy.space.drift
        moved = np.linalg.norm(toy.theta - start) / np.linalg.norm(start)
        assert drifts["nearest"] > 0.5 * moved, rule
        assert drifts["stochastic"] > 1e-5, "the noise of stochastic rounding"
        assert drifts["master"] < 1e-6


def test_changed_is_the_share_of_entries_that_differ_since_the_mark() -> None:
    toy = Toy(np.ones(400), {"w": (20, 20)}, lambda theta: 0.0, dtype="float16", restore="exact", grid=400)
    assert toy.space.changed == 0.0
    toy.blocks[0].array[0, :5] = 2.0
    assert toy.space.changed == 5 / 400
    toy.space.mark_changes()
    assert toy.space.changed == 0.0
    toy.blocks[0].array[3] = 3.0
    assert toy.space.changed == 20 / 400
    toy.space.reset()
    assert toy.space.changed == 0.0


@pytest.mark.parametrize(("rounding", "least", "most"), [("nearest", 0.0, 0.0), ("stochastic", 0.03, 0.08)])
def test_changed_shows_what_small_updates_do(rounding: RoundingName, least: float, most: float) -> None:
    toy = Toy(np.ones(2000), {"w": (40, 50)}, lambda theta: 0.0, dtype="float16", restore="exact", grid=2000)
    space = toy.anew(rounding=rounding).space
    for step in range(50):
        space.add(GAPS["float16"] / 1024 * space.draw(Ones(), Key(0, step, 0)))
        space.settle()
    assert least <= space.changed <= most, "50 of 1024"


def test_a_run_marks_the_weights_where_they_were_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before: list[float] = []
    mark = ParameterSpace.mark_changes

    def noted(space: ParameterSpace) -> None:
        before.append(space.changed)
        mark(space)
        assert space.changed == 0.0

    monkeypatch.setattr(ParameterSpace, "mark_changes", noted)
    package.run(device="reference", limit=16, batch_size=4, steps=12, evaluate_every=5, lr=1e-2, out="out")
    assert before == [0.0, 1.0, 1.0], "at steps 0, 5 and 10: float32 weights all move"


@pytest.mark.parametrize("rounding", CAREFUL)
@pytest.mark.parametrize("rule", [pytest.param("constant", marks=pytest.mark.slow), "adam"])
def test_runs_resume_and_replay_to_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: str, rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table: dict[str, Any] = {"device": "reference", "dtype": "float16", "limit": 16, "batch_size": 4, "steps": 23}
    table |= {"estimator": "mezo", "step_rule": rule, "lr": 1e-3, "evaluate_every": 5, "seed": 3}
    options = {"device.restore": "exact", "device.rounding": rounding}
    whole = package.run(**table, options=options, out="whole").summary
    for kept in (2, 17):
        run = tmp_path / f"cut-{kept}"
        shutil.copytree("whole", run)
        (run / "summary.json").unlink()
        lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (run / "journal.jsonl").write_bytes(b"".join(lines[: kept + 1]))
        newest = run / "checkpoint" / "newest"
        assert newest.read_text() == "step-23", "a checkpoint ahead of the journal is dropped"
        assert (
            package.run(**table, options=options, out=run, resume=True).summary.weights_digest == whole.weights_digest
        )
    assert replay(RunDirectory(Path("whole")), None)["status"] == "done"
    nearest = package.run(**table, options={"device.restore": "exact"}, out="nearest").summary
    assert nearest.weights_digest != whole.weights_digest
    if rounding == "master":
        rows = [json.loads(line) for line in Path("whole/memory.jsonl").read_text().splitlines()]
        assert {row["owner"]: row["bytes"] for row in rows if row["kind"] == "owner"}["master weights"] == (
            4 * whole.trainable_parameters
        )


@pytest.mark.parametrize("rounding", CAREFUL)
def test_a_checkpoint_has_master_weights_and_the_state_of_stochastic_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: RoundingName
) -> None:
    """A run that stopped after step 11 goes on from the checkpoint of step 10, two recorded steps and nothing else."""
    monkeypatch.chdir(tmp_path)
    table: dict[str, Any] = {"device": "reference", "dtype": "float16", "limit": 16, "batch_size": 4, "steps": 20}
    table |= {"estimator": "mezo", "lr": 1e-3, "evaluate_every": 10}
    table["options"] = {"device.restore": "exact", "device.rounding": rounding}
    whole = package.run(**table, out="whole").summary
    write, again, replayed = JournalWriter.append, Learner.replay, []

    class Stop(BaseException):
        pass

    def stop(self: JournalWriter, record: StepRecord) -> None:
        if record.step == 12:
            raise Stop
        write(self, record)

    def note(self: Learner, record: StepRecord) -> None:
        replayed.append(record.step)
        again(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "append", stop)
        with pytest.raises(Stop):
            package.run(**table, out="torn")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "replay", note)
        resumed = package.run(**table, out="torn", resume=True).summary
    assert replayed == [10, 11]
    assert resumed.weights_digest == whole.weights_digest


def test_passes_without_an_update_change_no_bit() -> None:
    toy = linear(dtype="float16", restore="exact").anew(rounding="stochastic")
    start = toy.bits
    for step in range(5):
        toy.space.at(1e-2 * toy.space.draw(Gaussian(), Key(0, step, 0)))
        toy.space.at(ZERO)
        toy.space.sweep(lambda theta, g: None)
    assert toy.bits == start

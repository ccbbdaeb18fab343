"""What the host does for a pass on a GPU: launches, copies and waits of a device that only counts them."""

import math
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from zoplat import Block, Direction, Key, ParameterSpace, Sampler
from zoplat.core.blocks import TILE
from zoplat.space.rounding import RoundingName
from zoplat_devices.kernels import gpu, gpu_tables
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.native import NativeKernels
from zoplat_devices.kernels.tables import JOB, TERM, Sums, term
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher
from zoplat_plugins.uniform import Uniform

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.6")

SHAPES = [(700, 40), (3000,), (64, 128), (5,), (1, 4096)] * 8


class Device:
    """Stands in for the kernels' programs and for the link to a device.

    Attributes:
        launches: addresses of the tables of each launch.
        sent: for each copy, the address that it went to.
        waits: reads of numbers from the device.
    """

    def __init__(self) -> None:
        self.launches: list[tuple[int, ...]] = []
        self.sent: list[int] = []
        self.waits = 0

    def clear(self) -> None:
        self.launches, self.sent, self.waits = [], [], 0


class Program:
    """A program that counts its launches and does nothing."""

    def __init__(self, device: Device, fn: Any = None, **options: Any) -> None:
        self.device = device

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*given: Any, **constants: Any) -> None:
            assert grid[0] > 0
            self.device.launches.append(tuple(x.data_ptr() for x in given if isinstance(x, torch.Tensor)))

        return launch


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The stand-in; `tolist` and conversions of a tensor to a number are waits."""
    made = Device()
    send = gpu.Link.send

    def counted(self: gpu.Link, words: np.ndarray, room: Any) -> None:
        made.sent.append(room.data_ptr())
        send(self, words, room)

    monkeypatch.setattr(gpu.Link, "send", counted)

    class Waits(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            made.waits += "_local_scalar_dense" in str(function)
            return function(*given, **(named or {}))

    with Waits():
        yield made


def space_on(device: Device, dtype: str, rounding: RoundingName = "nearest") -> ParameterSpace:
    """A space of many blocks whose passes are counted."""
    programs: Any = ModuleType("programs")
    programs.move = programs.move_factors = programs.numbers = Program(device)
    kernels = gpu.TritonKernels("cpu", programs)
    blocks = [
        Block(f"w{k}", torch.zeros(shape, dtype=getattr(torch, dtype)), dtype, decays=len(shape) > 1)
        for k, shape in enumerate(SHAPES)
    ]
    backend = FusedBackend(kernels, lambda shape, dtype: torch.zeros(shape, dtype=getattr(torch, dtype)))
    return ParameterSpace(blocks, backend, "in-place" if rounding == "nearest" else "exact", rounding=rounding)


def step(space: ParameterSpace, law: Sampler, number: int) -> None:
    """Probe, probe, update; the last of which is merged with the first probe of the next step."""
    z = space.draw(law, Key(0, number, 0))
    space.at(1e-3 * z)
    space.at(-1e-3 * z)
    space.add((0.1 + number) * z)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("law", [Gaussian(), Rademacher(), Uniform()], ids=repr)
def test_a_pass_takes_one_copy_and_few_launches_and_waits_for_nothing(
    device: Device, law: Sampler, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.Sources, "move", lambda self, laws: Program(device))
    space, seen, held = space_on(device, dtype), [], []
    for number in range(5):
        device.clear()
        step(space, law, number)
        held.append(space.scratch_bytes)
        seen.append((len(device.launches), device.sent, device.launches))
        assert device.waits == 0
    moves, drift = 2, 1
    assert seen[3][0] == 2 * moves + drift, "whole tiles and the rest; the first probe is merged with the update"
    assert len(seen[3][1]) == moves + drift, "the numbers of terms"
    assert seen[3][1:] == seen[4][1:], "at the same addresses in every step"
    assert 0 < held[2] == held[4], "tables are scratch memory, and do not grow"


def test_a_reduction_waits_once_for_each_block_however_many_tiles_it_has(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.TritonKernels.reads_at_once > TILE == NativeKernels.reads_at_once
    monkeypatch.setattr(gpu.TritonKernels, "reads_at_once", 256)
    space = space_on(device, "float32")
    space.norm(space.draw(Gaussian(), Key(0, 0, 0)))
    tiles = sum(1 for block in space.blocks for _ in block.tiles(256))
    assert device.waits == len(space.blocks) < tiles
    assert len(device.launches) >= tiles


def test_terms_in_factors_are_moved_apart_from_those_of_vectors(device: Device) -> None:
    space = space_on(device, "bfloat16")
    z = space.draw(LowRank(rank=4), Key(0, 0, 0))
    space.at(z)
    device.clear()
    space.at(-z)
    assert len(device.launches) <= 4, (
        "matrices with whole rows of eight and others, vectors with whole tiles and others"
    )
    assert (len(device.sent), device.waits) == (1, 0), "the numbers of terms, where tables are there already"
    for number in range(1, 3):
        device.clear()
        space.at(space.draw(LowRank(rank=4), Key(0, number, 0)))
    assert len(device.launches) <= 4 + 4, "the factors of all matrices are drawn at once"
    assert (len(device.sent), device.waits) == (2, 0)


def test_a_rule_runs_on_all_blocks_at_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Sources, "rule", lambda self, program, buffers, laws: Program(device))
    monkeypatch.setattr("zoplat.space.drift.DriftMeter.BLOCKS", 1)
    space, seen = space_on(device, "float32"), []
    m = space.buffer("test/m")

    def momentum(lr: float) -> Any:
        def kernel(theta: Any, g: Any, m: Any) -> None:
            m += 0.1 * (g - m)
            theta -= lr * m

        return kernel

    for number in range(4):
        z = space.draw(Gaussian(), Key(0, number, 0))
        space.at(1e-3 * z)
        space.at(-1e-3 * z)
        device.clear()
        space.sweep(momentum(0.1 + number), 2.0 * z, m)
        seen.append((len(device.launches), len(device.sent)))
        assert device.waits == 0
    assert seen[3] == (2 * 2 + 1, 2 * 3 + 2), "blocks that decay and others, whole and rest; one block is sampled"


def test_stochastic_rounding_does_not_read_its_count_of_passes_back_in_every_pass(device: Device) -> None:
    space = space_on(device, "bfloat16", "stochastic")
    for _ in range(2):
        space.reset()
        device.clear()
        for number in range(3):
            space.add(0.1 * space.draw(Gaussian(), Key(0, number, 0)))
            space.settle()
        assert device.waits == 1, "once, what a checkpoint may have written"


def test_pieces_cover_every_entry_of_the_jobs_once_and_programs_their_pieces() -> None:
    rng = np.random.default_rng(1)
    jobs = np.zeros(200, JOB)
    jobs["line"] = rng.integers(0, 6, 200)
    jobs["source"] = jobs["target"] = 4096 * np.arange(200) * 4096 + 2 * rng.integers(0, 2, 200)
    jobs["start"] = 48 * rng.integers(0, 300, 200)
    jobs["stop"] = jobs["start"] + 48 * rng.integers(1, 3000, 200)
    jobs["dtype"] = rng.integers(0, 2, 200)
    jobs = np.concatenate([jobs, jobs[-1:]])
    jobs[-1]["start"], jobs[-1]["stop"] = jobs[-2]["stop"], jobs[-2]["stop"] + 4800
    sums = Sums(6, 3)
    sums.add([0, 1, 2], term("normal", [(1, 2)]), True, 0.1)
    sums.add([1, 2], term("sign", [(1, 2)]), True, 0.2)
    sums.add([3, 4], term("low-rank", rank=4, columns=48), True, 0.3)
    sums.add([4], term("low-rank", rank=4, columns=48, v=16), True, 0.3)
    lines, laws = gpu_tables.lines_of(sums)
    assert lines["kind"].tolist() == [0, -1, -1, 3, 3, 0]
    assert lines["count"].tolist() == [1, 2, 2, 1, 2, 0]
    assert laws == ()
    found: dict[int, list[tuple[int, int]]] = {}
    for batch in gpu_tables.batches(jobs, lines, True, 0):
        assert len(batch.owners) == batch.pieces["dtype"][-1] + (batch.owners == len(batch.pieces) - 1).sum()
        for number, piece in enumerate(batch.pieces):
            programs = int((batch.owners == number).sum())
            assert batch.owners[piece["dtype"]] == number
            size = piece["stop"] - piece["start"]
            if batch.in_factors:
                assert programs == math.ceil(size / 48 / gpu_tables.DOWN)
            elif batch.is_whole:
                assert piece["start"] % gpu_tables.GROUP == size % gpu_tables.TILE == piece["source"] % 16 == 0
            found.setdefault(int(piece["source"]), []).append((int(piece["start"]), int(piece["stop"])))
    for job in jobs[:-2]:
        pieces = sorted(found[int(job["source"])])
        assert (pieces[0][0], pieces[-1][1]) == (job["start"], job["stop"])
        assert all(a[1] == b[0] for a, b in pairwise(pieces))


def test_the_table_of_sums_has_number_and_factor_before_the_terms_of_a_line() -> None:
    sums = Sums(2, 2)
    sums.add([1], term("normal", [(1, 2)]), True, 0.5)
    words = gpu_tables.words_of(sums, 0.75).reshape(2, -1)
    heads = words[:, 0].copy().view([("count", np.int32), ("factor", np.float32)])
    assert heads["count"].tolist() == [0, 1]
    assert heads["factor"].tolist() == [0.75, 0.75]
    assert words[:, 1:].tobytes() == sums.terms.tobytes()
    assert words.shape[1] == 1 + 2 * TERM.itemsize // 8


def test_sums_of_one_structure_take_turns_in_its_room(device: Device) -> None:
    space = space_on(device, "float32")
    z = [space.draw(Gaussian(), Key(0, number, 0)) for number in range(2)]
    block, target = space.blocks[0], torch.zeros(SHAPES[0])
    directions = [Direction() + each for each in z]
    for direction in directions:
        space.form(block, direction, target)
    device.clear()
    for direction in (directions[1], directions[1], directions[0], directions[0]):
        space.form(block, direction, target)
    assert len(device.sent) == 1, "only when others were there"

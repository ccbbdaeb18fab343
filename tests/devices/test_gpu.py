"""Triton's kernels: their compiled code, which needs no GPU; and runs on a GPU, where there is one."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu_code
from zoplat import Block, Key, ModelSpec, Tile
from zoplat.core.model_spec import Tuning
from zoplat.core.oracle import Oracle
from zoplat.testing import Plain
from zoplat_devices.kernels import gpu, native
from zoplat_devices.kernels.gpu_source import Sources
from zoplat_devices.kernels.laws import traced_fill
from zoplat_devices.kernels.tables import DTYPES, TERMS
from zoplat_devices.kernels.traced import traced
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.uniform import Uniform

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", minversion="3.6")
gpu_kernels = pytest.importorskip("zoplat_devices.kernels.gpu_kernels")

Make = Callable[..., Path]
WEIGHTS = 16  # that a thread moves in a turn of its main loop, half of them one member of a pair of normals
NUMBERS = dict.fromkeys(("out", "key0", "key1", "first", "count"), "i64")


def floats(made: Any) -> Counter[str]:
    """Number of float instructions of each kind in a compiled program."""
    return Counter(re.findall(r"^\s+(?:@%p\d+ )?([a-z]\S*\.f32\S*)\s", made.asm["ptx"], re.M))


def move(**constants: Any) -> Any:
    """The program `move`, compiled."""
    usual = {"kind": TERMS["normal"], "count": 1, "has_scales": False, "is_stochastic": False, "is_whole": True}
    return gpu_code.compiled("move", usual | constants)


def unpinned(found: Counter[str]) -> set[str]:
    """Instructions whose rounding IEEE 754 does not define, or that flush subnormal numbers."""
    pinned = r"(add|sub|mul|fma|div|sqrt)\.rn\.f32|(neg|setp|selp|mov|abs)\..*|cvt\..*"
    return {name for name in found if not re.fullmatch(pinned, name) or "ftz" in name}


def test_normals_fuse_what_the_definition_fuses_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_code, "ARGUMENTS", NUMBERS)
    found = floats(gpu_code.compiled("numbers", {"law": TERMS["normal"]}))
    assert not unpinned(found)
    assert found["fma.rn.f32"] == 11 * WEIGHTS / 2
    assert found["sqrt.rn.f32"] == WEIGHTS / 2
    fused = floats(gpu_code.compiled("numbers", {"law": TERMS["normal"], "enable_fp_fusion": True}))
    assert unpinned(fused) or fused["fma.rn.f32"] > 11 * WEIGHTS / 2, "the launch option is what prevents it"


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float32", "float16"))]
)
def test_updates_of_mixed_and_scaled_terms_fuse_nothing_more(dtype: str) -> None:
    narrow = dtype != "float32"
    found = floats(move(kind=-1, count=-1, has_scales=True, dtype=DTYPES[dtype], is_stochastic=narrow))
    assert not unpinned(found)
    assert found["fma.rn.f32"] == 2 * 11 * WEIGHTS / 2, "the first term, and any other one"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_to_nearest_two_at_a_time_by_the_instruction_for_it(dtype: str) -> None:
    ptx = move(kind=TERMS["sign"], dtype=DTYPES[dtype]).asm["ptx"]
    name = {"bfloat16": "bf16", "float16": "f16"}[dtype]
    assert Counter(re.findall(rf"cvt\.\S*{name}\S*\.f32", ptx)) == {f"cvt.rn.{name}x2.f32": WEIGHTS // 2}


def adam(theta: Any, g: Any, m: Any, v: Any) -> None:
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    theta -= 0.01 * (m / 0.3) / ((v / 0.7) ** 0.5 + 1e-8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rule_is_one_program_of_operations_that_round_as_the_definition_does(dtype: str) -> None:
    program = traced(adam, 4)
    assert program
    function = Sources(gpu_kernels).rule(program, (True, True), ())
    constants: dict[str, Any] = dict.fromkeys(gpu.RULE_CONSTANTS, 0) | {"count": 1, "other_count": 1}
    constants |= {"kind": TERMS["sign"], "other_kind": TERMS["sign"], "dtype": DTYPES[dtype]}
    made = gpu_code.compiled(function, {**constants, "is_stochastic": False, "is_whole": True})
    found = floats(made)
    assert not unpinned(found)
    assert (found["div.rn.f32"], found["sqrt.rn.f32"], found["fma.rn.f32"]) == (3 * WEIGHTS, WEIGHTS, 0)
    assert Sources(gpu_kernels).rule(traced(adam, 4) or program, (True, True), ()).src == function.src


def test_laws_that_compute_have_programs_of_their_own() -> None:
    fill = traced_fill(Uniform(), Tile(Block("w", np.zeros((2, 3), np.float32)), 0, 2), Key(0, 0, 0))
    assert fill
    assert fill.law
    function = Sources(gpu_kernels).move([fill.law.number])
    constants = {"kind": TERMS["computed"], "count": 1, "has_scales": False, "dtype": DTYPES["bfloat16"]}
    made = gpu_code.compiled(function, {**constants, "is_stochastic": False, "is_whole": True})
    assert not unpinned(floats(made))


BARS = {"sign": 14, "normal": 45, "low-rank": 16}
"""Kind of a term → the most instructions that a weight may take."""


@pytest.mark.parametrize("architecture", [90, *(pytest.param(a, marks=pytest.mark.slow) for a in (80, 100))])
@pytest.mark.parametrize("law", BARS)
def test_a_weight_takes_few_instructions_and_is_loaded_and_stored_16_bytes_at_a_time(
    law: str, architecture: int
) -> None:
    found = gpu_code.code(law, 1, "bfloat16", architecture)
    assert (found.load, found.store, found.local, found.shared) == (16, 16, 0, 0)
    assert found.instructions <= BARS[law]
    assert found.registers <= 80, "so that at least 24 warps have loads under way at once"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", gpu_code.ARCHITECTURES)
@pytest.mark.parametrize("law", BARS)
def test_more_terms_and_float32_weights_are_loaded_and_stored_16_bytes_at_a_time_too(
    law: str, architecture: int
) -> None:
    for count, dtype in ((2, "bfloat16"), (-1, "bfloat16"), (1, "float32")):
        found = gpu_code.code(law, count, dtype, architecture)
        assert (found.load, found.store, found.shared) == (16, 16, 0)


@pytest.mark.slow
def test_the_script_that_counts_instructions_prints_a_line_for_each_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_code, "LAWS", {"rademacher": "sign"})
    gpu_code.main(["--arch", "90"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 3
    assert lines[0].startswith("| weights, law | terms | sm_90 | registers |")
    assert lines[2].startswith("| bfloat16, rademacher | 1 | ")
    assert lines[2].endswith(" | 16, 16 bytes | 0 bytes |")


def test_kernels_are_used_only_if_their_random_numbers_are_those_of_the_definition(
    interpreted_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(gpu, "TritonKernels", lambda *arguments: made[-1])
    made.append(interpreted_kernels)
    assert gpu.kernels("cpu") is interpreted_kernels
    monkeypatch.setattr(interpreted_kernels, "numbers", lambda out, law, stream, first, count: None)
    with pytest.raises(gpu.Broken, match="other numbers here than the definition"):
        gpu.kernels("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_fails_the_trial_run() -> None:
    with pytest.raises(gpu.Broken, match="Triton is installed but makes no kernels here: "):
        gpu.kernels("cuda")


def test_a_triton_that_is_too_old_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("3.6.0", "3.7.1+git1234", "4.0.0"):
        gpu.check_version(version)
    monkeypatch.setattr(triton, "__version__", "3.5.1")
    with pytest.raises(gpu.Broken, match=r"Triton 3\.5\.1 is too old for the kernels, which need 3\.6 or newer"):
        gpu.kernels("cuda")


def test_without_usable_triton_random_numbers_are_generated_on_the_processor(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoplat_devices.pytorch import backends

    def broken(device: Any) -> Any:
        raise gpu.Broken("Triton is installed but makes no kernels here: no compiler.")

    if native.kernels() is None:
        pytest.skip("no C compiler here")
    spec = ModelSpec(str(checkpoint()), Tuning("full"), "float32", 7)
    kernels = backends.kernels_for
    for found in (lambda device: None, broken):
        monkeypatch.setattr(gpu, "kernels", found)
        with monkeypatch.context() as patch:
            patch.setattr(backends, "kernels_for", _first_as_cuda(kernels))
            session = PyTorch().open(spec)
        assert session.facts["kernels"] == "TorchNoise"
        assert session.space.noise.inner.kernels is not None
    assert "makes no kernels here: no compiler. The processor makes" in capsys.readouterr().err


def _first_as_cuda(kernels: Callable[[str], Any]) -> Callable[[str], Any]:
    """A `kernels_for` whose first call returns what CUDA has; later calls are unchanged."""
    calls: list[str] = []

    def found(kind: str) -> Any:
        calls.append(kind)
        return kernels("cuda" if len(calls) == 1 else kind)

    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_on_a_gpu_is_replayed_on_the_processor_to_the_same_bits(
    checkpoint: Make, gpu_kernels: Any, dtype: str
) -> None:
    """The answers are those of the GPU; the updates that follow from them have the same bits on the processor."""
    ends, answers = [], None
    for kind in ("cuda", "cpu"):
        session = PyTorch(kind).open(ModelSpec(str(checkpoint(dtype=dtype)), Tuning("full"), dtype, 7))
        answers = steps(session, answers)
        session.space.settle()
        ends.append(session.digest())
        assert session.facts["kernels"] == {"cuda": "TritonKernels", "cpu": "NativeKernels"}[kind]
    assert ends[0] == ends[1]


def steps(session: Any, recorded: list[list[float]] | None) -> list[list[float]]:
    """Five steps with the model, or from recorded answers; returns the answers."""
    from zoplat import Example
    from zoplat.core.losses import RecordedLosses

    rows = session.encode([Example("the film was great . It was", (" terrible", " great"), i % 2) for i in range(3)])
    estimator, answers = MeZO(rule=Plain(lr=1e-3)), []
    for step in range(5):
        backend = RecordedLosses(step, recorded[step] if recorded else [])
        if recorded is None:
            backend.forward = lambda: session.forward(rows)  # type: ignore[method-assign]
        oracle = Oracle(session.space, Key(0, step, -1), 0.0, backend)
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        answers.append(oracle.answers)
    return answers

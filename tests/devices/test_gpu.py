"""Triton's kernels: their compiled code, which needs no GPU; and runs on a GPU, where there is one."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat import Key, ModelSpec
from zoplat.core.model_spec import Tuning
from zoplat.core.oracle import Oracle
from zoplat.testing import Plain
from zoplat_devices.kernels import gpu, native
from zoplat_devices.kernels.tables import DTYPES, TERMS
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.mezo import MeZO

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

Make = Callable[..., Path]
PAIRS = 8  # pairs of normals that a thread generates at a time
MOVE = {"jobs": "*i64", "terms": "*i64", "counts": "*i32", "first": "i32", "slices": "i32", "stride": "i32"}
MOVE |= {"factor": "fp32", "origin": "i64"}


def instructions(program: str, arguments: dict[str, str], constants: dict[str, Any], **options: Any) -> Counter[str]:
    """Number of float instructions of each kind in a program that is compiled with the options of a launch."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zoplat_devices.kernels import gpu_kernels

    signature = arguments | dict.fromkeys(constants, "constexpr")
    positions = {(list(signature).index(name),): value for name, value in constants.items()}
    source = ASTSource(getattr(gpu_kernels, program), signature, positions)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={**gpu.PINNED, **options})
    return Counter(re.findall(r"^\s+(?:@%p\d+ )?([a-z]\S*\.f32\S*)\s", made.asm["ptx"], re.M))


def unpinned(found: Counter[str]) -> set[str]:
    """Instructions whose rounding IEEE 754 does not define, or that flush subnormal numbers."""
    pinned = r"(add|sub|mul|fma|div|sqrt)\.rn\.f32|(neg|setp|selp|mov|abs)\..*|cvt\..*"
    return {name for name in found if not re.fullmatch(pinned, name) or "ftz" in name}


def test_normals_fuse_what_the_definition_fuses_and_nothing_else() -> None:
    arguments = dict.fromkeys(("out", "key0", "key1", "first", "count"), "i64")
    found = instructions("numbers", arguments, {"kind": TERMS["normal"]})
    assert not unpinned(found)
    assert found["fma.rn.f32"] == 11 * PAIRS
    assert found["sqrt.rn.f32"] == PAIRS
    fused = instructions("numbers", arguments, {"kind": TERMS["normal"]}, enable_fp_fusion=True)
    assert unpinned(fused) or fused["fma.rn.f32"] > 11 * PAIRS, "the launch option is what prevents it"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_updates_of_mixed_and_scaled_terms_fuse_nothing_more(dtype: str) -> None:
    narrow = dtype != "float32"
    constants = {"kind": -1, "has_scales": True, "dtype": DTYPES[dtype], "is_stochastic": narrow, "is_aligned": True}
    found = instructions("move", MOVE, constants)
    assert not unpinned(found)
    assert found["fma.rn.f32"] == 11 * PAIRS


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

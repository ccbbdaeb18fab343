"""What Triton makes of the kernels for a GPU, looked at without one; and runs on a GPU, where there is one."""

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
from zoplat_devices.kernels.tables import DTYPES, KINDS
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.mezo import MeZO

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

Make = Callable[..., Path]
PAIRS = 8  # of normals that a thread makes at a time
MOVE = {"jobs": "*i64", "terms": "*i64", "counts": "*i32", "first": "i32", "slices": "i32", "most": "i32"}
MOVE |= {"keep": "fp32", "base": "i64"}


def instructions(program: str, arguments: dict[str, str], constants: dict[str, Any], **options: Any) -> Counter[str]:
    """How often each kind of instruction on floats stands in a program that is compiled as it is launched."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zoplat_devices.kernels import gpu_kernels

    signature = arguments | dict.fromkeys(constants, "constexpr")
    places = {(list(signature).index(name),): value for name, value in constants.items()}
    source = ASTSource(getattr(gpu_kernels, program), signature, places)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={**gpu.PINNED, **options})
    return Counter(re.findall(r"^\s+(?:@%p\d+ )?([a-z]\S*\.f32\S*)\s", made.asm["ptx"], re.M))


def rounded_elsewhere(found: Counter[str]) -> set[str]:
    """Instructions that IEEE 754 does not pin, or that fuse a product and a sum."""
    pinned = r"(add|sub|mul|fma|div|sqrt)\.rn\.f32|(neg|setp|selp|mov|abs)\..*|cvt\..*"
    return {name for name in found if not re.fullmatch(pinned, name) or "ftz" in name}


def test_normals_fuse_what_the_definition_fuses_and_nothing_else() -> None:
    arguments = dict.fromkeys(("out", "key0", "key1", "first", "count"), "i64")
    found = instructions("numbers", arguments, {"kind": KINDS["normal"]})
    assert not rounded_elsewhere(found)
    assert found["fma.rn.f32"] == 11 * PAIRS
    assert found["sqrt.rn.f32"] == PAIRS
    fused = instructions("numbers", arguments, {"kind": KINDS["normal"]}, enable_fp_fusion=True)
    assert rounded_elsewhere(fused) or fused["fma.rn.f32"] > 11 * PAIRS, "the launch option is what prevents it"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_moves_of_mixed_and_scaled_terms_fuse_nothing_more(dtype: str) -> None:
    narrow = dtype != "float32"
    constants = {"kind": -1, "has_scales": True, "dtype": DTYPES[dtype], "by_chance": narrow, "aligned": True}
    found = instructions("move", MOVE, constants)
    assert not rounded_elsewhere(found)
    assert found["fma.rn.f32"] == 11 * PAIRS


def test_kernels_are_taken_only_where_they_make_the_numbers_of_the_definition(
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
def test_triton_without_a_gpu_is_found_out_by_the_trial() -> None:
    with pytest.raises(gpu.Broken, match="Triton is installed but makes no kernels here: "):
        gpu.kernels("cuda")


def test_without_triton_or_with_one_that_fails_the_processor_makes_the_numbers(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoplat_devices.pytorch import spaces

    def broken(device: Any) -> Any:
        raise gpu.Broken("Triton is installed but makes no kernels here: no compiler.")

    if native.kernels() is None:
        pytest.skip("no C compiler here")
    spec = ModelSpec(str(checkpoint()), Tuning("full"), "float32", 7)
    kernels = spaces.kernels_for
    for found in (lambda device: None, broken):
        monkeypatch.setattr(gpu, "kernels", found)
        with monkeypatch.context() as patch:
            patch.setattr(spaces, "kernels_for", _first_as_cuda(kernels))
            session = PyTorch().open(spec)
        assert session.facts["kernels"] == "ParameterSpace"
        assert session.space.noise.inner.kernels is not None
    assert "makes no kernels here: no compiler. The processor makes" in capsys.readouterr().err


def _first_as_cuda(kernels: Callable[[str], Any]) -> Callable[[str], Any]:
    """Whoever asks first is told of CUDA; who asks for the processor's after that, of those."""
    asked: list[str] = []

    def found(kind: str) -> Any:
        asked.append(kind)
        return kernels("cuda" if len(asked) == 1 else kind)

    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_on_a_gpu_is_rebuilt_on_the_processor_from_its_answers(
    checkpoint: Make, gpu_kernels: Any, dtype: str
) -> None:
    """Answers are the GPU's own; the moves that they lead to are the same to the bit."""
    ends, told = [], None
    for kind in ("cuda", "cpu"):
        session = PyTorch(kind).open(ModelSpec(str(checkpoint(dtype=dtype)), Tuning("full"), dtype, 7))
        told = steps(session, told)
        session.space.settle()
        ends.append(session.digest())
        assert session.facts["kernels"] == {"cuda": "TritonKernels", "cpu": "NativeKernels"}[kind]
    assert ends[0] == ends[1]


def steps(session: Any, told: list[list[float]] | None) -> list[list[float]]:
    """A few steps with the model, or from answers."""
    from zoplat import Example
    from zoplat.core.losses import RecordedLosses

    rows = session.encode([Example("the film was great . It was", (" terrible", " great"), i % 2) for i in range(3)])
    estimator, answers = MeZO(rule=Plain(lr=1e-3)), []
    for step in range(5):
        source = RecordedLosses(step, told[step] if told else [])
        if told is None:
            source.forward = lambda: session.forward(rows)  # type: ignore[method-assign]
        oracle = Oracle(session.space, Key(0, step, -1), 0.0, source)
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        answers.append(oracle.answers)
    return answers

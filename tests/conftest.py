"""Fixtures shared by tests of fused kernels: the kernels for a processor, a board and a GPU."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PLATFORMS = ["processor", "board", "interpreter", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=PLATFORMS)
def kernels(request: pytest.FixtureRequest) -> Any:
    """Each kind in turn: C compiled for this machine, C compiled for boards, Triton's interpreter, Triton on a GPU."""
    fixture = {"processor": "processor_kernels", "board": "board_kernels"}
    fixture |= {"interpreter": "interpreted_kernels", "gpu": "gpu_kernels"}
    return request.getfixturevalue(fixture[request.param])


@pytest.fixture(scope="session")
def processor_kernels() -> Any:
    """`kernels.c`, compiled for this machine."""
    from zoplat_devices.kernels import native

    found = native.kernels()
    if found is None:
        pytest.skip("no C compiler here: neither `ziglang` nor `cc`, or ZOPLAT_KERNELS=numpy")
    return found


@pytest.fixture(scope="session")
def board_kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`kernels.c`, compiled for boards of this machine's kind, as in a bundle."""
    from zoplat_devices.kernels import native

    folder = tmp_path_factory.mktemp("boards") / "kernels"
    native.build_for_boards(folder)
    path = native.built_for_this_machine(folder)
    if path is None:
        pytest.skip("nothing is built for machines like this one, or `ziglang` is missing")
    return native.NativeKernels(native.load_library(path))


@pytest.fixture(scope="session")
def gpu_kernels() -> Any:
    """`gpu_kernels.py` on a GPU."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("triton")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from zoplat_devices.kernels.gpu import kernels

    return kernels("cuda")


@pytest.fixture(scope="session")
def interpreted_kernels() -> Iterator[Any]:
    """`gpu_kernels.py`, run by Triton's interpreter on arrays of the host.

    Its `fma` rounds twice, so it is replaced by that of the definition; and integers wrap around, as in a launch.
    """
    pytest.importorskip("torch")
    triton_interpreter = pytest.importorskip("triton.runtime.interpreter")
    from zoplat_devices.kernels import gpu, noise

    def fused(self: Any, x: Any, y: Any, z: Any) -> Any:
        return triton_interpreter.TensorHandle(noise.fma(x.data, y.data, z.data), z.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_interpreter.InterpreterBuilder, "create_fma", fused)
        wraps = triton_interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(triton_interpreter.interpreter_builder, "options", wraps)
        yield gpu.TritonKernels("cpu", _programs())


def _programs() -> ModuleType:
    """A copy of the module whose functions are interpreted, which is decided when they are defined."""
    from zoplat_devices.kernels import gpu

    path = Path(gpu.__file__).with_name("gpu_kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_gpu_kernels", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module

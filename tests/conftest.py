"""What tests of fused moves share: the kernels of a processor and those of a GPU."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WAYS = ["processor", "board", "interpreter", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Any:
    """Each kind in turn: compiled C, and that for boards; Triton in its interpreter, without a GPU; Triton on a GPU."""
    fixture = {"processor": "processor_kernels", "board": "board_kernels"}
    fixture |= {"interpreter": "interpreted_kernels", "gpu": "gpu_kernels"}
    return request.getfixturevalue(fixture[request.param])


@pytest.fixture(scope="session")
def processor_kernels() -> Any:
    """Those of `kernels.c`."""
    from zoplat_devices.kernels import native

    found = native.kernels()
    if found is None:
        pytest.skip("no C compiler here: neither `ziglang` nor `cc`, or ZOPLAT_KERNELS=numpy")
    return found


@pytest.fixture(scope="session")
def board_kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Those that a bundle brings for machines of this kind."""
    from zoplat_devices.kernels import native

    folder = tmp_path_factory.mktemp("boards") / "kernels"
    native.for_boards(folder)
    path = native.for_this_machine(folder)
    if path is None:
        pytest.skip("nothing is built for machines like this one, or `ziglang` is missing")
    return native.NativeKernels(native.opened(path))


@pytest.fixture(scope="session")
def gpu_kernels() -> Any:
    """Those of `gpu_kernels.py` on a GPU."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("triton")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from zoplat_devices.kernels.gpu import kernels

    return kernels("cuda")


@pytest.fixture(scope="session")
def interpreted_kernels() -> Iterator[Any]:
    """The programs for a GPU, run by Triton's interpreter on arrays of the host.

    Its `fma` rounds the product and the sum, so it is given that of the definition; and it is told what a launch
    is told, that words wrap around.
    """
    pytest.importorskip("torch")
    triton_interpreter = pytest.importorskip("triton.runtime.interpreter")
    from zoplat_devices.kernels import gpu, noise

    def once(self: Any, x: Any, y: Any, z: Any) -> Any:
        return triton_interpreter.TensorHandle(noise.fma(x.data, y.data, z.data), z.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_interpreter.InterpreterBuilder, "create_fma", once)
        wraps = triton_interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(triton_interpreter.interpreter_builder, "options", wraps)
        yield gpu.TritonKernels("cpu", _programs())


def _programs() -> ModuleType:
    """A copy of the module whose functions are interpreted; which they are is settled when they are defined."""
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

"""Launches as Triton prepares them: arguments are bound, programs specialised and compiled; nothing is run."""

from types import ModuleType
from typing import Any

import pytest

from zoplat import Block, Key, ParameterSpace
from zoplat_devices.kernels import gpu
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.uniform import Uniform

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.6")


class Driver:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> Any:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


class Prepared:
    """A program whose launches are prepared and counted."""

    counts: dict[str, int]

    def __init__(self, function: Any) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*given: Any, **constants: Any) -> None:
            made = self.function.warmup(*given, grid=grid, **constants)
            assert made.asm["cubin"]
            Prepared.counts[self.function.__name__] = Prepared.counts.get(self.function.__name__, 0) + 1

        return launch


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kind_of_launch_can_be_prepared(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    from zoplat_devices.kernels import gpu_kernels

    programs = ModuleType("programs")
    for name in ("move", "move_factors", "numbers"):
        setattr(programs, name, Prepared(getattr(gpu_kernels, name)))
    sources = gpu.Sources(gpu_kernels)
    kernels = gpu.TritonKernels("cpu", programs)
    for name in ("move", "rule"):
        make = getattr(sources, name)
        monkeypatch.setattr(gpu.Sources, name, lambda self, *given, make=make: Prepared(make(*given)))
    Prepared.counts = {}
    blocks = [
        Block(f"w{k}", torch.zeros(shape, dtype=getattr(torch, dtype)), dtype, decays=len(shape) > 1)
        for k, shape in enumerate([(300, 64), (3000,), (7, 9)])
    ]
    backend = FusedBackend(kernels, lambda shape, kind: torch.zeros(shape, dtype=getattr(torch, kind)))
    monkeypatch.setattr(driver, "_active", Driver())
    space = ParameterSpace(blocks, backend, "in-place")
    m = space.buffer("test/m")

    def momentum(theta: Any, g: Any, m: Any) -> None:
        m += 0.1 * (g - m)
        theta -= 0.3 * m

    for step, law in enumerate((Gaussian(), LowRank(rank=4), Uniform())):
        z = space.draw(law, Key(0, step, 0))
        space.add(0.1 * z, decay=0.01)
        space.settle()
    space.sweep(momentum, z, m)
    space.noise.normal((3, 5), Key(0, 0, 0), "w")
    assert {"move", "move_factors", "rule", "numbers"} == Prepared.counts.keys()

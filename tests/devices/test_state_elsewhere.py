"""State outside of the memory of the weights: same bits, and no function gets arrays of both places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zoplat import Block, Estimator, Key, ParameterSpace
from zoplat.core.errors import ZoplatError
from zoplat.core.losses import RecordedLosses
from zoplat.core.oracle import Oracle
from zoplat.space.backend import Backend
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise

torch = pytest.importorskip("torch")

from tests.devices.methods import WITH_STATE  # noqa: E402

ALLOWED = {"__get__", "__getitem__", "__setitem__", "copy_", "data_ptr", "dim", "numel", "contiguous", "view", "size"}
"""What may be done with an array of the host from the processor, in the order of the device's work."""


class OnHost(torch.Tensor):  # type: ignore[misc]  # torch has no types here
    """Stands in for an array of the host beside a GPU: a function that gets it and an array of the GPU fails."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in ALLOWED:
            raise AssertionError(f"{func.__name__} on an array of the host")
        return super().__torch_function__(func, types, args, kwargs or {})


def on_host(shape: tuple[int, ...], dtype: str) -> Any:
    return torch.empty(shape, dtype=getattr(torch, dtype)).as_subclass(OnHost)


def near(array: Any) -> Any:
    return array.as_subclass(torch.Tensor).clone() if isinstance(array, OnHost) else array


def empty(shape: tuple[int, ...], dtype: str) -> Any:
    return torch.empty(shape, dtype=getattr(torch, dtype))


@pytest.mark.parametrize("kind", [pytest.param("interpreted", marks=pytest.mark.slow), "processor", "plain"])
@pytest.mark.parametrize("name", WITH_STATE)
def test_state_on_the_host_gives_the_bits_of_state_beside_the_weights(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    kernels = None if kind == "plain" else request.getfixturevalue(f"{kind}_kernels")
    there, here = (after_steps(WITH_STATE[name], kernels, elsewhere) for elsewhere in (True, False))
    assert there == here
    assert there["w"] != after_steps(WITH_STATE[name], kernels, True, steps=0)["w"]


def after_steps(method: Estimator[Any], kernels: Any, elsewhere: bool, steps: int = 3) -> dict[str, bytes]:
    """Bytes of weights and buffers, by name, after some steps with given losses."""
    rng = np.random.default_rng(3)
    blocks = []
    for index, shape in enumerate([(11, 64), (3, 7), (70,)]):
        array = torch.from_numpy(0.05 * rng.normal(size=shape)).float()
        blocks.append(Block("w" if not index else f"w{index}", array, "float32", decays=len(shape) > 1))
    places: Any = (on_host, lambda array: None, near) if elsewhere else (empty,)
    backend = FusedBackend(kernels, empty, *places) if kernels else Backend(TorchNoise(), empty, *places)
    space = ParameterSpace(blocks, backend, "in-place", seed=1, state_in_files=elsewhere)
    state, rule_state = method.init(space), method.rule.init_for(space, method.law)
    for step in range(steps):
        losses = RecordedLosses(step, [0.5 + 0.01 * (k % 7) * (step + 1) for k in range(40)])
        oracle = Oracle(space, Key(4, step, -1), 0.0, losses)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, rule_state)
    space.settle()
    arrays = {block.name: block.array for block in blocks}
    arrays |= {f"{b.owner}/{name}": array for b in space.buffers for name, array in b.arrays.items()}
    return {name: array.as_subclass(torch.Tensor).numpy().tobytes() for name, array in arrays.items()}


class TorchNoise(ReferenceNoise):
    """The reference noise as tensors."""

    def numbers(self, *arguments: Any) -> Any:
        return torch.as_tensor(super().numbers(*arguments))


@pytest.mark.parametrize(("kind", "state"), [("cpu", "host"), ("cuda", "disk"), ("mps", "host")])
def test_a_place_that_a_device_does_not_have_is_refused(kind: Any, state: Any) -> None:
    from zoplat_devices.pytorch.device import PyTorch

    with pytest.raises(ZoplatError, match=f"state={state} is for --device"):
        PyTorch(kind=kind, state=state)


@pytest.mark.gpu
def test_kernels_of_a_gpu_read_and_write_state_on_the_host(gpu_kernels: Any) -> None:
    from zoplat_devices.pytorch.backends import backend_for

    ends = []
    for elsewhere in (True, False):
        array = torch.linspace(-1, 1, 4096, device="cuda").reshape(64, 64)
        blocks = [Block("w", array, "float32")]
        space = ParameterSpace(blocks, backend_for(blocks, "cuda"), seed=1, state_in_files=elsewhere)
        method = WITH_STATE["hizoo"]
        state, rule_state = method.init(space), method.rule.init(space)
        assert all(array.is_cuda != elsewhere for buffer in space.buffers for array in buffer.arrays.values())
        oracle = Oracle(space, Key(4, 0, -1), 0.0, RecordedLosses(0, [0.5, 0.6, 0.4]))
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, rule_state)
        space.settle()
        ends.append(array.cpu().numpy().tobytes())
    assert ends[0] == ends[1]

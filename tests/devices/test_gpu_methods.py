"""Whole steps of methods with Triton's kernels: weights and states have the bits of the processor's kernels."""

from typing import Any

import numpy as np
import pytest

from zoplat import Block, Estimator, Key, ParameterSpace, StepRule
from zoplat.core.losses import RecordedLosses
from zoplat.core.oracle import Oracle
from zoplat.space.rounding import RoundingName
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.tables import Kernels
from zoplat_plugins.adam import Adam
from zoplat_plugins.conmezo import ConMeZO
from zoplat_plugins.constant import Constant
from zoplat_plugins.hizoo import HiZOO
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.uniform import Uniform
from zoplat_plugins.zo_sgd_mmt import Momentum
from zoplat_plugins.zo_sgd_sign import Sign

torch = pytest.importorskip("torch")

LR = Constant(lr=1e-2)
RULES: dict[str, StepRule[Any]] = {
    "adam": Adam(schedule=LR),
    "sign": Sign(schedule=LR),
    "momentum": Momentum(schedule=LR),
}
METHODS: dict[str, Estimator[Any]] = {
    "adam": MeZO(rule=RULES["adam"]),
    "adam, uniform": MeZO(rule=RULES["adam"], sampler=Uniform()),
    "adam, low-rank": MeZO(rule=RULES["adam"], sampler=LowRank(rank=2)),
    "sign": MeZO(rule=RULES["sign"]),
    "momentum": MeZO(rule=RULES["momentum"]),
    "hizoo": HiZOO(rule=LR),
    "conmezo": ConMeZO(rule=LR),
}
WEIGHTS = [("float32", "nearest"), ("bfloat16", "nearest")]
WEIGHTS += [
    pytest.param(*other, marks=pytest.mark.slow) for other in (("float16", "stochastic"), ("bfloat16", "master"))
]


@pytest.fixture(scope="module", params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def triton_kernels(request: pytest.FixtureRequest) -> Any:
    """Triton's kernels, interpreted and on a GPU."""
    return request.getfixturevalue({"interpreter": "interpreted_kernels", "gpu": "gpu_kernels"}[request.param])


@pytest.mark.parametrize(("dtype", "rounding"), WEIGHTS)
@pytest.mark.parametrize("name", METHODS)
def test_steps_leave_the_bits_of_the_processor_in_weights_and_states(
    triton_kernels: Any, processor_kernels: Any, name: str, dtype: str, rounding: RoundingName
) -> None:
    ends = [after_steps(kernels, METHODS[name], dtype, rounding) for kernels in (triton_kernels, processor_kernels)]
    assert ends[0].keys() == ends[1].keys()
    assert [array for array in ends[0] if ends[0][array] != ends[1][array]] == []
    assert ends[0]["w"] != after_steps(processor_kernels, METHODS[name], dtype, rounding, steps=0)["w"]


def after_steps(
    kernels: Kernels, method: Estimator[Any], dtype: str, rounding: RoundingName, steps: int = 3
) -> dict[str, bytes]:
    """Bytes of weights and buffers, by name, after some steps with given losses."""
    device, rng = str(getattr(kernels, "device", "cpu")), np.random.default_rng(3)

    def empty(shape: tuple[int, ...], kind: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, kind), device=device)

    blocks = []
    for index, shape in enumerate([(11, 64), (3, 7), (70,)]):
        array = torch.from_numpy(0.05 * rng.normal(size=shape)).to(device, getattr(torch, dtype))
        blocks.append(Block("w" if not index else f"w{index}", array, dtype, decays=len(shape) > 1))
    restore = "in-place" if rounding == "nearest" else "exact"
    space = ParameterSpace(blocks, FusedBackend(kernels, empty), restore, rounding=rounding, seed=1)
    state, rule_state = method.init(space), method.rule.init(space)
    for step in range(steps):
        oracle = Oracle(space, Key(4, step, -1), 0.0, RecordedLosses(step, [0.5, 0.6 + 0.1 * step, 0.4]))
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, rule_state)
    space.settle()
    arrays = {block.name: block.array for block in blocks}
    arrays |= {f"{b.owner}/{name}": array for b in space.buffers for name, array in b.arrays.items()}
    return {name: array.cpu().contiguous().view(torch.uint8).numpy().tobytes() for name, array in arrays.items()}

"""Weights on several devices: same bits as on one, and no function gets arrays of two."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from zoplat import Block, Estimator, Key, ParameterSpace
from zoplat.core.losses import RecordedLosses
from zoplat.core.oracle import Oracle
from zoplat.space.backend import Backend
from zoplat.space.sharded import ShardedBackend
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.kernels.noise import ReferenceNoise

torch = pytest.importorskip("torch")

from tests.devices.methods import METHODS  # noqa: E402

COPIES = {"__setitem__", "copy_"}
"""What copies between cards."""


class OnCard(torch.Tensor):  # type: ignore[misc]  # torch has no types here
    """Stands in for an array of a card: a function that gets it and an array of another place fails."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            places = {type(each).__name__ for each in _tensors((args, kwargs or {})) if each.dim()}
            if len(places) > 1 and func.__name__ not in COPIES:
                raise AssertionError(f"{func.__name__} on arrays of {', '.join(sorted(places))}")
            found = func(*args, **(kwargs or {}))
            return found.as_subclass(cls) if type(found) is torch.Tensor and func.__name__ != "as_subclass" else found


class First(OnCard):
    """An array of the first card."""


class Second(OnCard):
    """An array of the second card."""


class OnHost(OnCard):
    """An array in the memory of the host, which kernels of either card read by its address."""


def _tensors(nested: Any) -> list[Any]:
    if isinstance(nested, torch.Tensor):
        return [nested]
    inner = nested.values() if isinstance(nested, dict) else nested if isinstance(nested, tuple | list) else ()
    return [each for one in inner for each in _tensors(one)]


class CardNoise(ReferenceNoise):
    """The reference noise as arrays of a card."""

    def __init__(self, card: type) -> None:
        self.card = card

    def numbers(self, *arguments: Any) -> Any:
        return torch.as_tensor(super().numbers(*arguments)).as_subclass(self.card)


def backend_of(card: Any, kernels: Any) -> Backend:
    def empty(shape: tuple[int, ...], dtype: str, place: Any = card) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype)).as_subclass(place)

    def near(array: Any) -> Any:
        return array.as_subclass(card).clone() if isinstance(array, OnHost) else array

    places: Any = (empty, partial(empty, place=OnHost), lambda array: None, near)
    return FusedBackend(kernels, *places) if kernels else Backend(CardNoise(card), *places)


@pytest.mark.parametrize("kind", [pytest.param("interpreted", marks=pytest.mark.slow), "processor", "plain"])
@pytest.mark.parametrize("name", METHODS)
def test_weights_on_two_cards_have_the_bits_of_weights_on_one(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    kernels = None if kind == "plain" else request.getfixturevalue(f"{kind}_kernels")
    one, two = (after_steps(METHODS[name], kernels, cards) for cards in ([First], [First, Second]))
    assert one == two
    assert one["w0"] != after_steps(METHODS[name], kernels, [First], steps=0)["w0"]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "master"])
def test_sixteen_bits_are_rounded_alike_on_two_cards(rounding: Any, processor_kernels: Any) -> None:
    for kernels in (None, processor_kernels):
        one, two = (
            after_steps(METHODS["adam"], kernels, cards, dtype="bfloat16", rounding=rounding)
            for cards in ([First], [First, Second])
        )
        assert one == two


def test_what_a_method_keeps_lies_beside_its_weights() -> None:
    space, arrays = opened(None, [First, Second], "float32", "nearest"), {}
    buffer = space.buffer("test/m")
    for block in space.blocks:
        arrays[block.name] = type(block.array)
    assert {name: type(array) for name, array in buffer.arrays.items()} == arrays
    assert set(arrays.values()) == {First, Second}


def opened(kernels: Any, cards: list[Any], dtype: str, rounding: Any) -> ParameterSpace:
    rng = np.random.default_rng(3)
    blocks = []
    for index, shape in enumerate([(40, 64), (3, 7), (700,), (16, 24)]):
        array = torch.from_numpy(0.05 * rng.normal(size=shape)).to(getattr(torch, dtype))
        array = array.as_subclass(cards[index % len(cards)])
        blocks.append(Block(f"w{index}", array, dtype, decays=len(shape) > 1))
    backends = [backend_of(card, kernels) for card in cards]
    names = [frozenset(block.name for block in blocks[place :: len(cards)]) for place in range(len(cards))]
    backend = backends[0]
    if len(cards) > 1:
        backend = ShardedBackend([*zip(names, backends, strict=True)], lambda array: array.as_subclass(First))
    restore: Any = "in-place" if rounding == "nearest" else "exact"
    return ParameterSpace(blocks, backend, restore, rounding, seed=1)


def after_steps(
    method: Estimator[Any],
    kernels: Any,
    cards: list[Any],
    steps: int = 3,
    dtype: str = "float32",
    rounding: Any = "nearest",
) -> dict[str, Any]:
    """Bytes of weights and buffers by name, and what is measured of them, after some steps with given losses."""
    space = opened(kernels, cards, dtype, rounding)
    state, rule_state = method.init(space), method.rule.init_for(space, method.law)
    for step in range(steps):
        losses = RecordedLosses(step, [0.5 + 0.01 * (k % 7) * (step + 1) for k in range(40)])
        oracle = Oracle(space, Key(4, step, -1), 0.0, losses)
        for estimate in method.estimate(oracle, state):
            method.rule.apply(estimate, oracle, rule_state)
        space.decay(0.01)
    space.settle()
    arrays = {block.name: block.array for block in space.blocks}
    arrays |= {f"{b.owner}/{name}": array for b in space.buffers for name, array in b.arrays.items()}
    found = {n: a.as_subclass(torch.Tensor).view(torch.uint8).numpy().tobytes() for n, a in arrays.items()}
    return {**found, "drift": space.drift, "changed": space.changed, "moved": space.moved, "lost": space.is_lost}

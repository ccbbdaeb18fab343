"""States of estimators and rules as JSON values, and back; the arrays of their buffers are saved separately."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from zoplat.config.parts import describe, part_from
from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import Direction, Draw
from zoplat.core.noise import Key
from zoplat.core.sampler import Held, Sampler
from zoplat.space.parameter_space import ParameterSpace


def state_to_json(state: Any, space: ParameterSpace) -> Any:
    """A state as JSON values; a buffer becomes its index among the buffers of the space.

    Raises:
        TypeError: something in the state is no dataclass, list, buffer, direction, number, string or None.
    """
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Direction):
        return [_term_to_json(draw, c, space) for draw, c in state]
    if isinstance(state, list | tuple):
        return [state_to_json(item, space) for item in state]
    if isinstance(state, Buffer):
        return space.buffers.index(state)
    if is_dataclass(state):
        return {field.name: state_to_json(getattr(state, field.name), space) for field in fields(state)}
    raise TypeError(f"State is made of dataclasses, buffers, directions and numbers, not of {type(state).__name__}.")


def state_from_json(state: Any, saved: Any, space: ParameterSpace) -> Any:
    """The state that `state_to_json` saved.

    Args:
        state: a fresh one, as `init` made it; its dataclasses are filled in place.
        saved: the JSON values.
        space: has the buffers.
    """
    if isinstance(state, Direction):
        return Direction(dict(_term_from_json(term, space) for term in saved))
    if isinstance(state, list | tuple):
        patterns = [*state, *[None] * (len(saved) - len(state))]
        return [state_from_json(pattern, item, space) for pattern, item in zip(patterns, saved, strict=True)]
    if isinstance(state, Buffer):
        return space.buffers[saved]
    if is_dataclass(state):
        for name, value in saved.items():
            setattr(state, name, state_from_json(getattr(state, name), value, space))
        return state
    return saved


def _term_to_json(draw: Draw, coefficient: float, space: ParameterSpace) -> list[Any]:
    law = (
        space.buffers.index(draw.sampler.buffer)
        if isinstance(draw.sampler, Held)
        else describe("sampler", draw.sampler)
    )
    key = [draw.key.seed, draw.key.step, draw.key.draw]
    part = None if draw.part is None else sorted(draw.part.names)
    scales = [[space.buffers.index(buffer), power] for buffer, power in draw.scales]
    return [law, key, part, scales, coefficient]


def _term_from_json(saved: list[Any], space: ParameterSpace) -> tuple[Draw, float]:
    law, key, part, scales, coefficient = saved
    sampler: Sampler = Held(space.buffers[law]) if isinstance(law, int) else part_from("sampler", law)
    inside = None if part is None else Part(frozenset(part))
    return Draw(sampler, Key(*key), inside, tuple((space.buffers[i], power) for i, power in scales)), coefficient

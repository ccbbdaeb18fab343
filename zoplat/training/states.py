"""States of estimators and rules as JSON values, and back; the arrays of their buffers are saved separately.

Everything that is no plain number, string, None or list says what it is, {"is": "direction", …}, so that a state is
read back as it was saved, whatever `init` makes: lists may have grown, None may have become a direction.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from zoplat.config.parts import describe, part_from
from zoplat.core.blocks import Buffer, Part
from zoplat.core.direction import Direction, Draw
from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Key
from zoplat.core.sampler import Held, Sampler
from zoplat.space.parameter_space import ParameterSpace

FORM = 2
"""Of what `state_to_json` returns. Before there were forms, values were read by the shape of what `init` makes."""
Saved = dict[str, Any]


def state_to_json(state: Any, space: ParameterSpace) -> Saved:
    """A state as JSON values; a buffer becomes its index among the buffers of the space.

    Raises:
        TypeError: something in the state is no dataclass, list, tuple, buffer, direction, number, string or None.
    """
    return {"form": FORM, "state": _packed(state, space)}


def state_from_json(state: Any, saved: Any, space: ParameterSpace) -> Any:
    """The state that `state_to_json` saved.

    Args:
        state: a fresh one, as `init` made it; its dataclasses and lists are filled in place.
        saved: the JSON values, or those of a checkpoint from before there were forms.
        space: has the buffers.

    Raises:
        ZoplatError: it was saved in a later form, or names a class that is not there.
    """
    if not (isinstance(saved, dict) and saved.keys() == {"form", "state"}):
        return _of_first_form(state, saved, space)
    if saved["form"] != FORM:
        raise ZoplatError(
            f"The state was saved by another version of zoplat: form {saved['form']}, not {FORM}. Use that version."
        )
    return _unpacked(state, saved["state"], space)


def _packed(state: Any, space: ParameterSpace) -> Any:
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, Direction):
        return {"is": "direction", "terms": [_term_to_json(draw, c, space) for draw, c in state]}
    if isinstance(state, Buffer):
        return {"is": "buffer", "index": space.buffers.index(state)}
    if isinstance(state, tuple):
        return {"is": "tuple", "items": [_packed(item, space) for item in state]}
    if isinstance(state, list):
        return [_packed(item, space) for item in state]
    if is_dataclass(state) and not isinstance(state, type):
        values = {field.name: _packed(getattr(state, field.name), space) for field in fields(state)}
        kind = type(state)
        return {"is": "dataclass", "class": f"{kind.__module__}:{kind.__qualname__}", "fields": values}
    raise TypeError(f"State is made of dataclasses, buffers, directions and numbers, not of {type(state).__name__}.")


def _unpacked(fresh: Any, saved: Any, space: ParameterSpace) -> Any:
    """What was saved; in the place of `fresh` where that can hold it."""
    if isinstance(saved, list):
        items = [_unpacked(None, item, space) for item in saved]  # new ones: `[Pair()] * 3` is one object three times
        if isinstance(fresh, list):
            fresh[:] = items
            return fresh
        return items
    if not isinstance(saved, dict):
        return saved
    readers: dict[str, Callable[[], Any]] = {
        "direction": lambda: Direction(dict(_term_from_json(term, space) for term in saved["terms"])),
        "buffer": lambda: space.buffers[saved["index"]],
        "tuple": lambda: _tuple(fresh, saved["items"], space),
        "dataclass": lambda: _dataclass(fresh, saved["class"], saved["fields"], space),
    }
    return readers[saved["is"]]()


def _tuple(fresh: Any, saved: list[Any], space: ParameterSpace) -> tuple[Any, ...]:
    known = fresh if isinstance(fresh, tuple) and len(fresh) == len(saved) else (None,) * len(saved)
    return tuple(_unpacked(one, item, space) for one, item in zip(known, saved, strict=True))


def _dataclass(fresh: Any, name: str, saved: Saved, space: ParameterSpace) -> Any:
    """A dataclass with the fields that were saved: the fresh one, or a new one where that can't be changed."""
    kind = _class(fresh, name)
    known = fresh if type(fresh) is kind else None
    values = {
        field.name: _unpacked(getattr(known, field.name, None), saved[field.name], space)
        for field in fields(kind)
        if field.name in saved
    }
    for field, value in values.items():
        if not _fits(_hints(kind).get(field, Any), value):
            raise ZoplatError(f"The state holds a {kind.__qualname__} whose {field} is {str(value)[:80]}.")
    is_frozen = kind.__dataclass_params__.frozen
    if known is not None and is_frozen and all(getattr(known, field) == value for field, value in values.items()):
        return known
    filled = kind.__new__(kind) if known is None or is_frozen else known
    for field, value in values.items():
        object.__setattr__(filled, field, value)
    return filled


def _hints(kind: type) -> dict[str, Any]:
    """What the fields of a dataclass are annotated with; nothing where that is not there when the program runs."""
    try:
        return get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value has the type that a field is annotated with, as far as plain types and lists of them tell."""
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_fits(one, value) for one in get_args(hint))
    kind = get_origin(hint) or hint
    if kind is list and isinstance(value, list):
        return all(_fits(one, item) for one in get_args(hint) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _class(fresh: Any, name: str) -> Any:
    """The dataclass of a name: that of the fresh object, or one of a module that is loaded; nothing is imported.

    Raises:
        ZoplatError: there is none.
    """
    module, _, path = name.partition(":")
    if is_dataclass(fresh) and type(fresh).__qualname__ == path:
        return type(fresh)
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and is_dataclass(found):
        return found
    raise ZoplatError(
        f"The state holds a {path} of the module {module}, and there is no such dataclass now. Go on with the version "
        "of the plugin that the run was begun with."
    )


def _of_first_form(state: Any, saved: Any, space: ParameterSpace) -> Any:
    """A state that says nowhere what its values are: they are what a fresh one has in their place."""
    if isinstance(state, Direction):
        return Direction(dict(_term_from_json(term, space) for term in saved))
    if isinstance(state, list | tuple):
        patterns = [*state, *[None] * len(saved)]
        items = [_of_first_form(pattern, item, space) for pattern, item in zip(patterns, saved, strict=False)]
        return items if isinstance(state, list) else tuple(items)
    if isinstance(state, Buffer):
        return space.buffers[saved]
    if is_dataclass(state):
        for name, value in saved.items():
            setattr(state, name, _of_first_form(getattr(state, name), value, space))
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
    if not all(type(number) is int for number in key) or not isinstance(coefficient, int | float):
        raise ZoplatError(f"The state holds a direction of key {key!r} and coefficient {coefficient!r}: no numbers.")
    sampler: Sampler = Held(space.buffers[law]) if isinstance(law, int) else part_from("sampler", law)
    inside = None if part is None else Part(frozenset(part))
    return Draw(sampler, Key(*key), inside, tuple((space.buffers[i], power) for i, power in scales)), coefficient

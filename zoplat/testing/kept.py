"""What a part keeps from step to step: state that a checkpoint can hold, and nothing beside it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

from zoplat.core.blocks import Buffer
from zoplat.core.direction import Direction
from zoplat.space.parameter_space import ParameterSpace

OWN = ("zoplat", "zoplat_devices")
"""Packages whose modules are not searched for what a plugin keeps there."""
MADE_OF = "state is made of dataclasses, lists, Buffers from `space.buffer`, Directions, numbers and text"


def foreign(state: Any, space: ParameterSpace, path: str = "state") -> str:
    """A sentence on the first thing in a state that a checkpoint can't hold or the ledger can't see."""
    if isinstance(state, Direction):
        read = [buffer for draw, _ in state for buffer in draw.sampler.reads]
        buffers = [*read, *(buffer for draw, _ in state for buffer, _ in draw.scales)]
        strange = [buffer.owner for buffer in buffers if not _is_of(buffer, space)]
        return (
            f"{path} is a Direction along '{strange[0]}', a Buffer that `space.buffer` did not make." if strange else ""
        )
    if isinstance(state, Enum):
        return (
            f"{path} is a {type(state).__name__}, of which a checkpoint keeps the value alone: keep its name as text."
        )
    if state is None or isinstance(state, bool | int | float | str):
        return ""
    if isinstance(state, Buffer):
        return "" if _is_of(state, space) else f"{path} is a Buffer that `space.buffer` did not make."
    if type(state) in (list, tuple):
        inside = [(f"{path}[{i}]", value) for i, value in enumerate(state)]
    elif is_dataclass(state) and not isinstance(state, type):
        if complaint := _unnamed(state, path):
            return complaint
        inside = [(f"{path}.{field.name}", getattr(state, field.name)) for field in fields(state)]
    else:
        return f"{path} is a {type(state).__name__}: {MADE_OF}."
    complaints = (foreign(value, space, name) for name, value in inside)
    return next((complaint for complaint in complaints if complaint), "")


def _is_of(buffer: Buffer, space: ParameterSpace) -> bool:
    return any(buffer is known for known in space.buffers)


def _unnamed(state: Any, path: str) -> str:
    """What is wrong with a dataclass that a checkpoint could not make again by the name of its class."""
    kind = type(state)
    if "<locals>" in kind.__qualname__:
        return f"{path} is a {kind.__name__}, a class made inside of a function: write it at the top of its module."
    beside = sorted(getattr(state, "__dict__", {}).keys() - {field.name for field in fields(state)})
    if beside:
        return (
            f"{path} keeps {', '.join(beside)} beside its fields: a checkpoint holds the fields of a dataclass alone."
        )
    return ""


@contextmanager
def nothing_kept_aside(part: Any) -> Iterator[None]:
    """Fails if the block changes a variable of the module of a part, or of its class: state that nobody knows of."""
    before = _variables(part)
    yield
    after = _variables(part)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, (
        f"{' and '.join(changed)} changed while {type(part).__name__} was at work. What it keeps from step to step it "
        "makes in `init` and gets back as `state`, so that a run can be replayed and resumed; laws keep nothing."
    )


def _variables(part: Any) -> dict[str, bytes]:
    """A fingerprint of every variable that the code of a part could keep something in, by name."""
    found: dict[str, bytes] = {}
    for kind in type(part).__mro__:
        module = sys.modules.get(kind.__module__)
        if module is None or kind.__module__.partition(".")[0] in (*OWN, "builtins", "abc", "typing"):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("__"):
                found |= _fingerprint(f"The variable '{name}' of {module.__name__}", value)
        for name, value in list(vars(kind).items()):
            if not name.startswith(("__", "_abc_")):
                found |= _fingerprint(f"{kind.__name__}.{name}", value)
    return found


def _fingerprint(name: str, value: Any) -> dict[str, bytes]:
    """The content of a variable; for a function, of its default values; nothing for classes and modules."""
    if isinstance(value, FunctionType):
        defaults = (value.__defaults__, value.__kwdefaults__)
        return {f"A default value of {name}": _content(defaults)} if any(defaults) else {}
    if isinstance(value, type | ModuleType):
        return {}
    return {name: _content(value)}


def _content(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # whatever pickling some object may raise
        return repr(value).encode()

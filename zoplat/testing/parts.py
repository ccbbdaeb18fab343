"""What every part promises, and helpers with which the contracts read and change parts."""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import SkipTest

import numpy as np

from zoplat.config.search import declarations
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.rule import Schedule, StepRule
from zoplat.core.sampler import Sampler
from zoplat.core.search import Around, Between, OneOf

PARTS = (Estimator, Sampler, StepRule)


class Contract:
    """Tests of a registered part, to inherit."""

    def part(self) -> Any:
        """The part under contract."""
        raise NotImplementedError


class PartContract(Contract):
    """What holds for every part with settings: they are frozen, documented, and survive a trip through TOML."""

    def test_the_part_is_a_frozen_dataclass(self) -> None:
        part: Any = self.part()
        parameters = getattr(type(part), "__dataclass_params__", None)
        assert parameters is not None, f"{part!r} is no dataclass."
        assert parameters.frozen, f"{type(part).__name__} can be changed: write @dataclass(frozen=True)."
        assert replace(part) == part, f"A copy of {part!r} does not equal it."
        assert hash(replace(part)) == hash(part), f"A copy of {part!r} has another hash."

    def test_every_field_is_documented(self) -> None:
        documented = _documented(type(self.part()))
        missing = [field.name for field in fields(self.part()) if field.name not in documented]
        assert not missing, f"{type(self.part()).__name__} has no line under 'Attributes:' for {missing}."

    def test_every_field_survives_a_trip_through_toml(self) -> None:
        for path, value in settings_of(self.part()):
            text = json.dumps(value) if isinstance(value, bool | str) else repr(value)
            assert isinstance(value, bool | int | float | str), (
                f"{path} is {text}, a {type(value).__name__}: settings are int, float, bool, str or parts."
            )
            back = tomllib.loads(f"value = {text}")["value"]
            same = type(back) is type(value) and back == value
            assert same, f"{path} is {value!r}, back from TOML {back!r}."

    def test_what_it_declares_for_a_search_lies_in_what_its_fields_accept(self) -> None:
        """Ranges for `zoplat compare --tune-trials`: low below high, positive where the scale is logarithmic."""
        found = declarations(self.part())
        if not found:
            raise SkipTest("No field of it has a range.")
        for path, (search, value, allowed) in found.items():
            assert isinstance(search, Around | Between | OneOf), (
                f"{path} declares search={search!r}; it must be Around(…), Between(…) or OneOf(…)."
            )
            try:
                where = search.at(value)
            except ValueError as problem:
                raise AssertionError(f"{path}: {problem}.") from None
            for end in where.values if isinstance(where, OneOf) else (where.low, where.high):
                refusal = allowed.problem(end) if allowed else ""
                assert not refusal, f"{path} is searched at {end}, which its field refuses: it {refusal}."


def settings_of(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of a part and of the parts in its fields, with their dotted paths."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, PARTS):
            yield from settings_of(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value


def changed(part: Any, **values: Any) -> Any:
    """A part with some fields replaced, its own or those of an estimator or schedule inside it.

    Raises:
        SkipTest: it has no such field, or refuses the value.
    """
    own = {field.name for field in fields(part)}
    try:
        for name, value in values.items():
            if name in own:
                part = replace(part, **{name: value})
                continue
            inside = [n for n in own if isinstance(getattr(part, n), Estimator | Schedule)]
            if not inside:
                raise SkipTest(f"{type(part).__name__} has no {name}.")
            part = replace(part, **{inside[0]: changed(getattr(part, inside[0]), **{name: value})})
    except ZoplatError as problem:
        raise SkipTest(f"{type(part).__name__} can't be changed so: {problem}") from None
    return part


def found(part: Any, name: str) -> Any:
    """A field of a part, or of an estimator or schedule inside it.

    Raises:
        SkipTest: it has none.
    """
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    if name in values:
        return values[name]
    for value in values.values():
        if isinstance(value, Estimator | Schedule):
            return found(value, name)
    raise SkipTest(f"{type(part).__name__} has no {name}.")


def variations(part: Any) -> dict[str, Any]:
    """The part with each other value of its switches and closed choices, one changed at a time; by what was changed.

    Raises:
        SkipTest: it has neither, or refuses all of their other values.
    """
    hints, others = get_type_hints(type(part)), dict[str, Any]()
    for field in fields(part):
        now = getattr(part, field.name)
        choices = [not now] if isinstance(now, bool) else [c for c in get_args(hints[field.name]) if c != now]
        for value in choices if get_origin(hints[field.name]) is Literal or isinstance(now, bool) else []:
            with suppress(ZoplatError):
                others[f"{field.name}={value}"] = replace(part, **{field.name: value})
    if not others:
        raise SkipTest(f"{type(part).__name__} has no switch and no closed choice.")
    return others


def with_rate(rule: Any, optional: bool = False, **values: float) -> Any:
    """A rule with another `lr` or `decay`, its own or those of the rules inside it.

    Raises:
        SkipTest: neither it nor they have one, and it is not `optional`.
    """
    own = {field.name: getattr(rule, field.name) for field in fields(rule)}
    if values.keys() <= own.keys():
        return replace(rule, **values)
    inside = {name: with_rate(value, optional, **values) for name, value in own.items() if isinstance(value, StepRule)}
    if not inside and not optional:
        raise SkipTest(f"{type(rule).__name__} has no {' and no '.join(values)}.")
    return replace(rule, **inside)


def density_of(part: Any) -> float:
    """The share that a part claims to keep.

    Raises:
        SkipTest: it claims none.
    """
    density = getattr(part, "density", None)
    if density is None:
        raise SkipTest(f"{type(part).__name__} has no density.")
    return float(density)


def without(package: str, consequence: str) -> None:
    """Skips what needs a package that is not installed."""
    try:
        import_module(package)
    except ImportError:
        raise SkipTest(f"Without the package {package}, {consequence}.") from None


@contextmanager
def random_states_untouched() -> Iterator[None]:
    """Fails if the block changes the state of `random` or `numpy.random`."""
    python, array = random.getstate(), str(np.random.get_state())
    yield
    assert random.getstate() == python, "The state of Python's `random` has changed: only `Noise` makes numbers."
    assert str(np.random.get_state()) == array, "The state of `numpy.random` has changed: only `Noise` makes numbers."


def _documented(cls: type) -> set[str]:
    """Names with a line of their own in the Attributes section of the class or of one it builds on."""
    names: set[str] = set()
    for base in cls.__mro__:
        section = (base.__dict__.get("__doc__") or "").partition("Attributes:")[2]
        for line in re.findall(r"^\s+([\w, ]+):", section, re.MULTILINE):
            names |= {name.strip() for name in line.split(",")}
    return names

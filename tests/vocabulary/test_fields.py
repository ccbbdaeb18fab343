"""Fields that check themselves: ranges of numbers, and what their errors say."""

import math
from dataclasses import dataclass
from typing import Any

import pytest

from zoplat import ZoplatError
from zoplat.core.fields import Checked, FieldError, number

RANGES: list[tuple[dict[str, float], list[float], list[float], str]] = [
    ({"above": 0}, [1e-9, 7], [0, -1], "must be positive, got"),
    ({"at_least": 0}, [0, 7], [-1e-9], "must be 0 or more, got"),
    ({"at_least": 2}, [2, 7], [1], "must be at least 2, got"),
    ({"above": 0, "at_most": 1}, [0.1, 1], [0, 1.1], "must be above 0 and at most 1, got"),
    ({"at_least": 0, "below": 1}, [0, 0.9], [1, -0.1], "must lie in [0, 1), got"),
    ({"above": 0, "below": 1}, [0.5], [0, 1], "must lie in (0, 1), got"),
    ({"at_least": -0.5, "at_most": 0.5}, [-0.5, 0.5], [0.6], "must lie in [-0.5, 0.5], got"),
]


def part_of(bounds: dict[str, float], default: float) -> Any:
    """A part with one field of a range."""

    @dataclass(frozen=True)
    class Part(Checked):
        eps: float = number(default, **bounds)

    return Part


@pytest.mark.parametrize(("bounds", "good", "bad", "message"), RANGES, ids=[message for *_, message in RANGES])
def test_a_number_must_lie_in_the_range_of_its_field(
    bounds: dict[str, float], good: list[float], bad: list[float], message: str
) -> None:
    part = part_of(bounds, good[0])
    assert part().eps == good[0]
    assert [part(value).eps for value in good] == good
    for value in [*bad, math.nan]:
        with pytest.raises(FieldError) as error:
            part(value)
        assert (error.value.name, error.value.problem) == ("eps", f"{message} {value}")
        assert str(error.value) == f"eps {message} {value}"


def test_an_error_can_name_the_option_that_sets_the_field() -> None:
    with pytest.raises(FieldError) as error:
        part_of({"above": 0}, 1.0)(-1.0)
    named = error.value.set_by("-o sampler.eps=…")
    assert str(named) == "eps must be positive, got -1.0  (-o sampler.eps=…)"
    assert isinstance(named, ZoplatError)


def test_a_default_out_of_range_is_refused_as_well() -> None:
    with pytest.raises(FieldError, match="eps must be positive, got 0"):
        part_of({"above": 0}, 0.0)()

"""Where a search looks: the ranges of settings, and the points of its trials."""

import pytest

from zoplat.comparison.trials import point
from zoplat.config.search import declared, ranges
from zoplat.core.errors import ZoplatError
from zoplat.core.search import Around, Between, OneOf
from zoplat.registry import catalogue


def test_every_method_that_ships_searches_its_step_size() -> None:
    for entry in catalogue():
        if entry.kind == "estimator" and entry.distribution == "zoplat":
            paths = declared(entry.value).keys()
            assert any(path.endswith(".lr") for path in paths), entry.name
            assert "eps" in paths or "inner.eps" in paths or entry.value.asks != {"losses"}, entry.name


def test_what_the_user_chose_stays_and_what_he_says_of_ranges_counts() -> None:
    mezo = catalogue().entry("estimator", "mezo").value
    assert ranges(mezo, {}) == {"eps": Between(1e-3 / 3, 1e-3 * 3), "rule.lr": Between(1e-6 / 10, 1e-6 * 10)}
    assert [*ranges(mezo, {}, fixed={"eps"})] == ["rule.lr"]
    own = {"eps": [1e-3, 1e-2], "queries": {"low": 1, "high": 8, "log": False}, "rule.lr": []}
    assert ranges(mezo, own) == {"eps": OneOf((1e-3, 1e-2)), "queries": Between(1, 8, log=False)}
    with pytest.raises(ZoplatError, match="must be a list of values, or a table"):
        ranges(mezo, {"eps": 3})
    with pytest.raises(ZoplatError, match="0 < low < high"):
        ranges(mezo, {"eps": {"low": 1, "high": 1}})


def test_points_are_the_usual_settings_first_and_then_the_same_for_everybody() -> None:
    where = {"eps": Between(1e-4, 1e-2), "queries": Between(1, 8, log=False), "rule": OneOf(("a", "b"))}
    usual = {"eps": 5e-2, "queries": 2, "rule": "b"}
    points = [point(where, usual, number) for number in range(20)]
    assert points[0] == {"eps": 1e-2, "queries": 2, "rule": "b"}
    assert points == [point(where, usual, number) for number in range(20)]
    assert all(1e-4 <= p["eps"] <= 1e-2 and 1 <= p["queries"] <= 8 for p in points)
    assert {type(p["queries"]) for p in points} == {int}
    assert {p["rule"] for p in points} == {"a", "b"}
    below = sum(p["eps"] < 1e-3 for p in points[1:])
    assert 8 <= below <= 11, "half of them in each half of a logarithmic scale"


def test_a_range_needs_a_value_to_lie_around() -> None:
    with pytest.raises(ValueError, match="positive number"):
        Around(10).at(0.0)

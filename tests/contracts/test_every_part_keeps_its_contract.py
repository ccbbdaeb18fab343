"""The kit of `zoplat.testing`, run over whatever is installed; new entry points are covered."""

from functools import cache
from typing import Any

import pytest

from zoplat.registry import Entry, catalogue
from zoplat.testing import Plain, train, two_layers
from zoplat.testing.check import CONTRACTS, Finding, check, in_words, properties
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.rounded import Rounded


def installed(kind: str) -> dict[str, Any]:
    """What plugins register under one hook."""
    known = catalogue()
    return {name: known.entry(kind, name).value for name in known.names(kind)}


PARTS = [(kind, name) for kind in CONTRACTS for name in installed(kind)]


ELSEWHERE = {"points asked together agree with points asked one by one", "totals do not fall"}
"""Properties that need a model, or a counter that not every machine has."""


@cache
def findings(kind: str, name: str) -> tuple[Finding, ...]:
    """What comes of each property of a part; one that does not apply says why, and is no skipped test."""
    return tuple(check(catalogue().entry(kind, name)))


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_keeps_its_contract(kind: str, name: str) -> None:
    found = findings(kind, name)
    assert [f"{each.name}: {each.message}" for each in found if each.outcome == "failed"] == []
    assert any(each.outcome == "held" for each in found)


def test_each_property_applies_to_some_part() -> None:
    held = {each.name for part in PARTS for each in findings(*part) if each.outcome == "held"}
    assert {in_words(test) for kind in CONTRACTS for test in properties(kind)} - held <= ELSEWHERE


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("estimator", {"mezo", "lozo"}),
        ("sampler", {"gaussian", "rademacher", "uniform", "sphere", "low-rank"}),
        ("step-rule", {"constant", "linear", "cosine"}),
    ],
)
def test_the_parts_that_ship_are_all_found(kind: str, names: set[str]) -> None:
    assert names <= set(installed(kind))


@pytest.mark.parametrize("name", installed("sampler"))
def test_mezo_probes_what_it_applies_with_every_sampler(name: str) -> None:
    law = Rounded(sigma=0.7) if name == "rounded" else installed("sampler")[name]  # most of its draws here would be 0
    entry = Entry("estimator", "mezo", MeZO(sampler=law), "zoplat", "0")
    probed = {"what is applied was asked about in the same step", "the estimate holds the slopes that the answers show"}
    assert probed <= {in_words(test) for test in properties("estimator")}
    for finding in check(entry, probed):
        assert finding.outcome != "failed", finding


def test_the_toys_know_their_gradients() -> None:
    toy = two_layers()
    known, toy.gradient = toy.slopes, None
    assert abs(known - toy.slopes).max() < 1e-7


def test_a_step_that_is_skipped_leaves_a_toy_where_it_was() -> None:
    toy = two_layers()
    start, nowhere = toy.theta, toy.anew(loss=lambda theta: float("nan"))
    assert [len(step) for step in train(nowhere, MeZO(rule=Plain(lr=1.0)), steps=2)] == [2, 2]
    assert abs(nowhere.theta - start).max() < 1e-12

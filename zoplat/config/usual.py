"""Usual values of η and ε for a method and a way of tuning, and where those of a run came from.

What a method registers is what its paper used, on all weights. Adapters start at zero and are few: they need steps
that are larger by orders of magnitude, or nothing moves. `recipe.toml` has them for LoRA, found as
docs/experiments/method-settings.md says; here they are used without the recipe's schedule and budget.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from zoplat.config.parts import SHORTHANDS, Table

LIKE_LORA = ("lora", "dora")
"""Tunings that the values in recipe.toml are for."""
FOUND: dict[tuple[str, str], Table] = {
    ("prefix", "mezo"): {"eps": 1e-1, "rule": {"lr": 1e-2}},
    ("prompt", "zo-adam"): {"eps": 3e-2, "rule": {"lr": 3e-2}},
    ("scales", "mezo"): {"eps": 3e-4, "rule": {"lr": 5e-6}},
    ("codes", "mezo"): {"eps": 1.0, "rule": {"lr": 3.0}, "sampler": {"name": "rounded"}},
}
"""(tuning, estimator) → what docs/experiments/tunings.md found."""
OWN = "own default"
"""How the origin of a value ends that a part registers, which is made for all weights."""
SCHEDULES = ("constant", "linear", "cosine")
"""Names of step-size rules that are a curve and nothing else: the curve is not part of the usual values."""


def recipes() -> Table:
    """The tables of recipe.toml."""
    return tomllib.loads(resources.files("zoplat.config").joinpath("recipe.toml").read_text(encoding="utf-8"))


def usual_values(estimator: str, tune: str) -> Table:
    """Settings of an estimator for a way of tuning, where they are others than its own; empty where none are known."""
    if (tune, estimator) in FOUND:
        return {"name": estimator, **FOUND[tune, estimator]}
    known = recipes()["estimator"].get(estimator) if tune in LIKE_LORA else None
    return {"name": estimator, **_without_curves(known)} if known else {}


def origins(estimator: Any, estimator_name: str, layers: Sequence[tuple[str, Table]]) -> dict[str, str]:
    """For "lr" and "eps", where a value came from, such as "--lr", "preset mezo-paper" or "usual with lora".

    Args:
        estimator: the part; what it has no field for is left out.
        estimator_name: its registered name.
        layers: (where it is from, table of settings), later ones over earlier ones.
    """
    found = {}
    for name in ("lr", "eps"):
        if value_of(estimator, name) is None:
            continue
        found[name] = f"{estimator_name}'s {OWN}"
        for where, table in layers:
            part = table.get("estimator")
            if _has(part, SHORTHANDS[name].split(".")):
                found[name] = where
            elif name == "lr" and (rule := _rule_name(part)) and rule not in SCHEDULES:
                found[name] = f"{rule}'s {OWN}"
    return found


def value_of(estimator: Any, name: str) -> float | None:
    """The "lr" or the "eps" of an estimator; None where it has none."""
    if name == "eps":
        return getattr(estimator, "eps", None)
    rule = estimator.rule
    found: float | None = getattr(rule, "lr", getattr(getattr(rule, "schedule", None), "lr", None))
    return found


def _without_curves(table: Table) -> Table:
    """A table without the names of schedules, so that those of the part stay."""
    kept = {name: _without_curves(value) if isinstance(value, dict) else value for name, value in table.items()}
    return {name: value for name, value in kept.items() if not (name == "name" and value in SCHEDULES)}


def _rule_name(part: Any) -> str | None:
    """The name of the rule that a table of an estimator asks for."""
    rule = part.get("rule") if isinstance(part, dict) else None
    return rule.get("name") if isinstance(rule, dict) else rule


def _has(table: Any, path: list[str]) -> bool:
    """Whether a table has a value at a path, or at the same place of a rule's schedule."""
    if not isinstance(table, dict):
        return False
    if len(path) == 1:
        return path[0] in table or _has(table.get("schedule"), path)
    return _has(table.get(path[0]), path[1:])

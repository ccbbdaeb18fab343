"""The kit of `zoplat.testing`, run over whatever is installed; new entry points are covered."""

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any

import pytest

import zoplat_plugins
from zoplat.testing import EstimatorContract, SamplerContract, StepRuleContract
from zoplat_plugins.mezo import MeZO

VARIANCE = {"low-rank": 2.0}
"""Samplers whose matrices are not of unit variance: U Vᵀ of rank r has variance r."""


def installed() -> list[Any]:
    """The plugin modules behind the entry points; those of the checkout when nothing is installed."""
    modules = [point.load() for point in entry_points(group="zoplat")]
    names = (f"zoplat_plugins.{module.name}" for module in pkgutil.iter_modules(zoplat_plugins.__path__))
    return modules or [importlib.import_module(name) for name in names]


def offered(hook: str) -> dict[str, Any]:
    """Everything that plugins register under one hook."""
    found: dict[str, Any] = {}
    for module in installed():
        found |= getattr(module, hook, dict)()
    return found


def contract(base: type, **attributes: Any) -> type:
    """The contract class of one part."""
    return type(base.__name__, (base,), attributes)


for name, estimator in offered("zoplat_estimators").items():
    globals()[f"TestEstimator[{name}]"] = contract(EstimatorContract, estimator=estimator)

for name, sampler in offered("zoplat_samplers").items():
    variance = VARIANCE.get(name, 1.0)
    globals()[f"TestSampler[{name}]"] = contract(SamplerContract, sampler=sampler, variance=variance)

for name, rule in offered("zoplat_step_rules").items():
    globals()[f"TestStepRule[{name}]"] = contract(StepRuleContract, rule=rule)


@pytest.mark.parametrize(
    ("hook", "names"),
    [
        ("zoplat_estimators", {"mezo", "lozo"}),
        ("zoplat_samplers", {"gaussian", "rademacher", "uniform", "sphere", "low-rank"}),
        ("zoplat_step_rules", {"constant", "linear", "cosine"}),
    ],
)
def test_the_parts_that_ship_are_all_found(hook: str, names: set[str]) -> None:
    assert names <= set(offered(hook))


@pytest.mark.parametrize("name", sorted(offered("zoplat_samplers")))
def test_mezo_keeps_its_contract_with_every_sampler(name: str) -> None:
    made = contract(EstimatorContract, estimator=MeZO(sampler=offered("zoplat_samplers")[name]))()
    made.test_a_constant_step_lowers_a_linear_loss_by_exactly_h_times_g_squared()


def test_mezo_keeps_its_contract_with_several_directions() -> None:
    made = contract(EstimatorContract, estimator=MeZO(queries=3))()
    made.test_a_constant_step_lowers_a_linear_loss_by_exactly_h_times_g_squared()

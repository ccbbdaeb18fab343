"""When the settings of recipe.toml for the packaged model and task apply."""

from typing import Any

import pytest

from zoplat.config.layers import resolve


@pytest.mark.parametrize("given", [{}, {"options": {"tune.rank": 4}}, {"dtype": "float32"}, {"seed": 7, "steps": 20}])
def test_the_recipe_applies_while_model_task_and_tuning_are_not_chosen(given: dict[str, Any]) -> None:
    config = resolve({"device": "cpu", "estimator": "lozo", **given})
    assert (config.tune.name, config.tune.targets) == ("lora", "o_proj|down_proj")
    assert config.tune.rank == given.get("options", {}).get("tune.rank", 8)
    assert config.estimator.rule == resolve({"device": "cpu", "estimator": "lozo"}).estimator.rule


@pytest.mark.parametrize(
    "given",
    [{"tune": "full"}, {"model": "some/model"}, {"task": "sentiment"}, {"data": "folder"}, {"device": "reference"}],
)
def test_the_recipe_does_not_apply_when_one_of_them_is_chosen(given: dict[str, Any]) -> None:
    config = resolve({"device": "cpu", "estimator": "lozo", **given})
    assert config.tune.name == "full"
    assert config.estimator.rule.lr == 1e-7

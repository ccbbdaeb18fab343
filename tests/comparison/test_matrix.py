"""What is compared: methods crossed with laws, rules, tasks and tunings, and the budget that they share."""

from pathlib import Path
from typing import Any

import pytest

from zoplat.comparison.matrix import Matrix
from zoplat.comparison.study import Study
from zoplat.core.errors import ZoplatError
from zoplat.core.search import Between
from zoplat.registry import catalogue
from zoplat.training.readings import Readings


def matrix(**given: Any) -> Matrix:
    return Matrix.of({"device": "reference", "limit": 16, "batch_size": 4, "max_passes": 12}, given)


def keys(made: Matrix) -> list[str]:
    return [cell.key for cell in made.cells()]


def test_methods_are_crossed_with_laws_rules_tasks_and_tunings() -> None:
    made = matrix(
        estimators=("mezo", "fzoo", "zero-shot"),
        samplers=("gaussian", "rademacher"),
        step_rules=("cosine",),
        tunes=("full", "hidden"),
    )
    assert keys(made) == [
        "full/mezo+gaussian+cosine",
        "full/mezo+rademacher+cosine",
        "full/fzoo+gaussian+cosine",
        "full/fzoo+rademacher+cosine",
        "zero-shot",
        "hidden/mezo+gaussian+cosine",
        "hidden/mezo+rademacher+cosine",
        "hidden/fzoo+gaussian+cosine",
        "hidden/fzoo+rademacher+cosine",
    ]
    cell = made.cells()[-1]
    assert cell.label == "fzoo+rademacher+cosine, hidden"
    config = cell.config(5)
    names = catalogue().name_of("sampler", config.estimator.sampler), config.tune.name, config.seed
    assert names == ("rademacher", "hidden", 5)


def test_a_method_without_a_law_is_not_repeated_for_each_law() -> None:
    made = Matrix.of({"device": "cpu"}, {"estimators": ("adamw",), "samplers": ("gaussian", "sphere")})
    assert keys(made) == ["adamw"]


def test_a_file_says_the_same_as_flags_and_settings_of_single_ones() -> None:
    Path("study.toml").write_text(
        'device = "reference"\nseeds = [3, 4]\ntune_trials = 2\ntunes = ["full", "hidden"]\n'
        "[estimators]\nlozo = {}\nmezo = { queries = 3 }\n[search.mezo]\n'rule.lr' = { low = 1e-3, high = 1e-1 }\n"
    )
    made = Matrix.of({"config": Path("study.toml"), "limit": 16}, {"seeds": None})
    assert (made.estimators, made.seeds, made.tune_trials) == (("lozo", "mezo"), (3, 4), 2)
    mezo = next(cell for cell in made.cells() if cell.method == "mezo")
    assert mezo.config(0).estimator.queries == 3
    assert mezo.ranges() == {"eps": Between(1e-3 / 3, 3e-3), "rule.lr": Between(1e-3, 1e-1)}
    assert Matrix.of({"config": Path("study.toml")}, {"seeds": (7,)}).seeds == (7,)


def test_without_a_budget_all_have_the_same_number_of_passes() -> None:
    [cell] = Matrix.of({"device": "reference"}, {"estimators": ("mezo",)}).cells()
    config = cell.config(0)
    assert (config.max_passes, config.steps) == (2000, None)
    [cell] = Matrix.of({"device": "reference", "steps": 7}, {"estimators": ("mezo",)}).cells()
    assert (cell.config(0).max_passes, cell.config(0).steps) == (None, 7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"estimators": ("mezo",), "seeds": (0, 1000), "tune_trials": 2}, "is that of the trials"),
        ({"estimators": ("mezo",), "tunes": ("a(", "a)")}, "would have the same folder"),
        ({"estimators": ()}, "Give run directories, or --estimators"),
        ({"estimators": ("mezo",), "seeds": (0.5,)}, "a list of whole numbers"),
        ({"estimators": ("mezo",), "trial_passes": 0}, "a whole number above 0"),
    ],
)
def test_what_can_not_be_compared_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoplatError, match=words.replace("(", r"\(")):
        matrix(**given).cells()


@pytest.mark.parametrize("text", ["estimators = 'mezo,lozo'", "estimators = [1]", "search = 3", "[search]\nmezo = 2"])
def test_a_file_that_is_no_matrix_is_refused(text: str) -> None:
    Path("study.toml").write_text(f"{text}\n")
    with pytest.raises(ZoplatError, match=r"estimators must be a list|\[search\] must have a table"):
        Matrix.of({"config": Path("study.toml")}, {"estimators": None if "est" in text else ("mezo",)})


def test_laws_may_have_settings_of_their_own() -> None:
    Path("study.toml").write_text('device = "reference"\n[samplers]\nlow-rank = { rank = 3 }\ngaussian = {}\n')
    made = Matrix.of({"config": Path("study.toml")}, {"estimators": ("mezo",)})
    assert made.cells()[0].config(0).estimator.sampler.rank == 3
    assert keys(Matrix.of({"config": made.table()}, {})) == keys(made) == ["mezo+low-rank", "mezo+gaussian"]


def test_a_budget_of_energy_is_refused_where_the_machine_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readings, "energy_sources", [])
    study = Study(Path("all"), Matrix.of({"config": {"max_joules": 5.0}}, {"estimators": ("mezo",)}))
    with pytest.raises(ZoplatError, match="this machine does not tell its energy"):
        study.check()


def test_budgets_of_tokens_and_joules_are_budgets() -> None:
    for budget in ({"max_tokens": 500}, {"max_joules": 5.0}):
        [cell] = Matrix.of({"config": {"device": "reference", **budget}}, {"estimators": ("mezo",)}).cells()
        config = cell.config(0)
        assert (config.steps, config.max_passes, config.max_seconds) == (None, None, None)
        assert {**config.table(), **budget} == config.table()

"""zoplat privacy, and what a run of dp keeps: accounts against closed forms, and a journal that has its noise."""

import json
import math
import shutil
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from zoplat.core.errors import ZoplatError
from zoplat.testing.toys import ToyLosses
from zoplat.training import privacy
from zoplat.training.journal import Journal

RUN = ("run", "--estimator", "dp", "--device", "reference", "--limit", 64, "--batch-size", 8, "--quiet")
PLAN = ("--steps", 1000, "--rows", 1000, "--batch-size", 16)
PHI = NormalDist().cdf


@pytest.fixture
def accounting() -> Any:
    return pytest.importorskip("dp_accounting")


def delta_of(epsilon: float, mu: float) -> float:
    """δ(ε) of a Gaussian mechanism of sensitivity μ and noise 1."""
    return PHI(mu / 2 - epsilon / mu) - math.exp(epsilon) * PHI(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise", "steps", "epochs"), [(1.0, 62, 1), (2.5, 1000, 17), (0.8, 63, 2), (6.0, 6200, 100)])
def test_epsilon_is_that_of_a_sum_for_each_epoch(accounting: Any, noise: float, steps: int, epochs: int) -> None:
    """By the closed form."""
    found = privacy.privacy(noise, steps, rows=1000, batch_size=16, delta=1e-5)
    assert found.uses == epochs
    assert delta_of(found.epsilon, math.sqrt(epochs) / noise) == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.slow
def test_epsilon_is_that_of_composed_sums_whose_values_are_bounded_by_c(accounting: Any) -> None:
    """By the library's own account of sums of values of norm C at most, one of which is replaced; its noise is in C."""
    found = privacy.privacy(2.5, steps=1000, rows=1000, batch_size=16, delta=1e-5)
    composed = accounting.pld.PLDAccountant(accounting.NeighboringRelation.REPLACE_ONE)
    composed.compose(accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(2 * 2.5), found.uses))
    assert composed.get_epsilon(1e-5) == pytest.approx(found.epsilon, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_noise_that_is_found_is_enough_and_hardly_more(accounting: Any, epsilon: float) -> None:
    found = privacy.privacy_for(epsilon, steps=1000, rows=1000, batch_size=16, delta=1e-5)
    assert 0.995 * epsilon < found.epsilon <= epsilon


def test_the_command_says_the_epsilon_of_a_plan_or_its_noise(zoplat: Any, accounting: Any) -> None:
    done = zoplat("privacy", *PLAN, "--epsilon", 8)
    assert done.exit_code == 0, done.stderr
    assert "for each of the 1000 training rows; σ = 2.4" in done.stdout
    assert "zoplat run --estimator dp -o noise=2.4" in done.stdout
    assert json.loads(zoplat("privacy", *PLAN, "--noise", 2.5, "--json").stdout)["uses"] == 17
    assert "none of the 1000 training rows is hidden" in zoplat("privacy", *PLAN, "--noise", 0).stdout
    assert "no less than 1/1000" in zoplat("privacy", *PLAN, "--noise", 1, "--delta", 0.01).stdout


def test_runs_of_one_seed_differ_by_their_noise_and_each_replays_and_resumes(zoplat: Any) -> None:
    """Two runs ask about the same points first; from the first noise on they go apart."""
    for name in ("one", "other"):
        done = zoplat(*RUN, "--steps", 6, "--evaluate-every", 4, "--out", name)
        assert done.exit_code == 0, done.stderr
    one, other = (Journal.read(Path(name, "journal.jsonl")).steps for name in ("one", "other"))
    assert one[0].answers[:-1] == other[0].answers[:-1]
    assert len({step.answers[-1] for step in (*one, *other)}) == 12
    replayed = [json.loads(zoplat("replay", name, "--json").stdout) for name in ("one", "other")]
    assert [found["status"] for found in replayed] == ["done", "done"]
    assert replayed[0]["weights_digest"] != replayed[1]["weights_digest"]
    for file in ("summary.json", "checkpoint"):
        shutil.rmtree(path) if (path := Path("one", file)).is_dir() else path.unlink()
    again = zoplat(*RUN, "--steps", 6, "--evaluate-every", 4, "--out", "one", "--resume", "--json")
    assert json.loads(again.stdout)["weights_digest"] == replayed[0]["weights_digest"]


def test_a_run_is_accounted_for_by_the_steps_in_its_journal(zoplat: Any, accounting: Any) -> None:
    """64 rows in batches of 8: 9 steps are in a second epoch."""
    assert zoplat(*RUN, "-o", "noise=2.0", "--steps", 9, "--out", "r").exit_code == 0
    Path("r/summary.json").unlink()
    found = json.loads(zoplat("privacy", "r", "--delta", 1e-6, "--json").stdout)
    assert {name: found[name] for name in ("noise", "rows", "batch_size", "steps", "uses")} == {
        "noise": 2.0,
        "rows": 64,
        "batch_size": 8,
        "steps": 9,
        "uses": 2,
    }
    assert delta_of(found["epsilon"], math.sqrt(2) / 2.0) == pytest.approx(1e-6, rel=1e-6)


def test_what_can_not_be_accounted_for_is_refused(zoplat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoplat("run", *zoplat.toy, "--estimator", "mezo", "--steps", 1, "--out", "r", "--quiet").exit_code == 0
    for arguments, message in (
        (("r",), "a run of 'mezo', which adds no secret noise"),
        (("r", "--noise", 1), "Give RUN alone"),
        ((), "Give RUN; or --steps"),
        ((*PLAN,), "with either --noise or --epsilon"),
        ((*PLAN, "--noise", 1, "--delta", 2), "--delta 2 is no probability"),
        ((*PLAN, "--noise", -1), "not negative"),
        ((*PLAN, "--epsilon", -1), "positive ε"),
        ((*PLAN[:4], "--batch-size", 2000, "--noise", 1), "can't be made"),
        (("nowhere",), "not a run directory"),
    ):
        done = zoplat("privacy", *arguments)
        assert done.exit_code == 2, (arguments, done.stdout)
        assert message in done.stderr
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    assert "pip install 'zoplat[privacy]'" in zoplat("privacy", *PLAN, "--noise", 1).stderr
    with pytest.raises(ZoplatError, match="not installed"):
        privacy.privacy(1.0, 10, 100, 10, 1e-5)


def test_toys_have_noise_that_can_be_repeated() -> None:
    """So that checks of a method have the same outcome every time; only toys do."""
    toy: Any = type("Toy", (), {"strategy": "sequential"})()
    assert ToyLosses(toy, "0/1").secret_normals(2) == ToyLosses(toy, "0/1").secret_normals(2)
    assert ToyLosses(toy, "0/1").secret_normals(1) != ToyLosses(toy, "0/2").secret_normals(1)

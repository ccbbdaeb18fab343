"""DPZero against a plain transcription of its update (arXiv:2310.09639), and what its promise rests on."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, pvariance
from typing import Any

import numpy as np
import pytest

from zoplat import Key, Noise, Oracle, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.losses import RecordedLosses
from zoplat.registry import catalogue
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, quadratic, train, two_layers
from zoplat.testing.runs import Run
from zoplat.testing.toys import SHARES, ToyLosses
from zoplat.training.setup import objective_of
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.dp import DPZero
from zoplat_plugins.lozo import LowRank

SEED, EPS, LR, CLIP, SIGMA = 5, 0.02, 0.01, 2.0, 0.3


def published_loop(toy: Toy, answers: list[list[float]]) -> tuple[list[float], int]:
    """The update on the toy's own arrays, with the noise that is on record; the answers, and how many were clipped."""
    noise: Noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    recorded, many = list[float](), 0

    def losses(z: dict[str, np.ndarray], eps: float) -> np.ndarray:
        theta = np.concatenate([(array + eps * z[name]).reshape(-1) for name, array in arrays.items()])
        return np.array(SHARES) * toy.loss(theta)

    for step, answered in enumerate(answers):
        key = Key(SEED, step, 0)
        z = {name: noise.normal(array.shape, key, name).astype(np.float64) for name, array in arrays.items()}
        ups, downs = losses(z, EPS), losses(z, -EPS)
        slopes, normal = (ups - downs) / (2 * EPS), answered[-1]
        many += int((abs(slopes) > CLIP).sum())
        projected = np.mean(np.clip(slopes, -CLIP, CLIP)) + 2 * SIGMA * CLIP * normal / len(SHARES)
        for name, array in arrays.items():
            array -= LR * projected * z[name]
        recorded += [float(len(SHARES)), *ups, *downs, normal]
    return recorded, many


def estimator(**changes: Any) -> DPZero:
    return replace(DPZero(eps=EPS, clip=CLIP, noise=SIGMA, rule=Plain(lr=LR)), **changes)


@pytest.mark.parametrize("make", [two_layers, quadratic])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_dp_takes_the_steps_of_the_published_update(make: Callable[..., Toy], restore: Restore) -> None:
    """25 steps in float64 of four rows whose slopes differ, some of them clipped."""
    plain, toy = make(), make(restore=restore)
    answers = train(toy, estimator(), steps=25, seed=SEED)
    recorded, many = published_loop(plain, answers)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-7)
    assert 10 < many < 90, "some rows are clipped and some are not"


@pytest.mark.parametrize("strategy", ["sequential", "batched"])
def test_a_step_costs_two_passes_and_moves_all_rows_at_once(strategy: str) -> None:
    toy = two_layers()
    toy.strategy = strategy
    oracle = toy.oracle(0)
    for estimate in estimator().estimate(oracle, None):
        estimator().rule.apply(estimate, oracle, None)
    toy.space.settle()
    assert oracle.passes == 2
    assert len(oracle.answers) == 1 + 2 * len(SHARES) + 1
    assert toy.space.passes_over_weights <= (3 if strategy == "sequential" else 1)


def replaced(row: int, loss: float, at: str) -> list[float]:
    """The answers of a step whose rows have slopes within the bound, after one of them was replaced."""
    ups, downs = [1.01, 1.02, 1.0, 0.99], [1.0, 1.0, 1.0, 1.0]
    (ups if at == "up" else downs)[row] = loss
    return [4.0, *ups, *downs, 0.25]


@pytest.mark.parametrize("loss", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_no_row_moves_the_estimate_by_more_than_its_bound_nor_skips_the_step(loss: float) -> None:
    """Between any two values of a row the sum differs by 2C at most, of which the noise is σ times."""
    toy = two_layers()

    def projected(answers: list[float]) -> float:
        oracle = Oracle(toy.space, Key(0, 0, -1), 0.0, RecordedLosses(0, answers))
        [estimate] = estimator().estimate(oracle, None)
        [(_, coefficient)] = estimate.direction
        return coefficient

    whole = [4.0, 1.01, 1.02, 1.0, 0.99, 1.0, 1.0, 1.0, 1.0, 0.25]
    for row in range(4):
        for at in ("up", "down"):
            moved = abs(projected(replaced(row, loss, at)) - projected(whole))
            assert moved <= 2 * CLIP / 4 + 1e-12
    extremes = projected(replaced(1, 1e30, "up")) - projected(replaced(1, -1e30, "up"))
    assert extremes == pytest.approx(2 * CLIP / 4)
    without = projected([*whole[:-1], 0.0])
    assert projected(whole) - without == pytest.approx(0.25 * SIGMA * 2 * CLIP / 4)


def test_rows_of_both_infinities_count_as_zero() -> None:
    found = estimator()
    assert found._clipped(math.inf - math.inf) == 0.0
    assert found._clipped(math.inf) == CLIP
    assert found._clipped(-3e9) == -CLIP
    assert found._clipped(-0.25) == -0.25


def test_secret_noise_is_standard_normal_and_no_seed_gives_it() -> None:
    """20,000 numbers: mean, variance and a share beyond 2, each within five standard errors; none comes twice."""
    toy = two_layers()

    class Live(ToyLosses):
        def secret_normals(self, n: int) -> list[float]:
            return super(ToyLosses, self).secret_normals(n)

    oracle = Oracle(toy.space, Key(0, 0, -1), 0.0, Live(toy))
    found, again = oracle.secret_normals(20_000), Oracle(toy.space, Key(0, 0, -1), 0.0, Live(toy)).secret_normals(5)
    assert oracle.answers == found
    assert oracle.passes == 0
    assert oracle.loss is None
    assert len({*found, *again}) == 20_005
    assert abs(fmean(found)) < 5 / math.sqrt(20_000)
    assert abs(pvariance(found) - 1) < 5 * math.sqrt(2 / 20_000)
    beyond = sum(abs(x) > 2 for x in found) / 20_000
    assert abs(beyond - 0.0455) < 5 * math.sqrt(0.0455 / 20_000)


def test_the_rule_gets_no_loss_and_may_ask_for_none() -> None:
    toy = two_layers()
    [estimate] = estimator().estimate(toy.oracle(0), None)
    assert not estimate.losses
    assert estimate.slopes == [c for _, c in estimate.direction], "a trace has the noisy slope"
    rules = {name: catalogue().entry("step-rule", name).value for name in ("conservative", "normalized")}
    for name, message in (("conservative", "Conservative asks for losses"), ("normalized", "at least 2 losses")):
        run = Run(two_layers(), estimator(rule=rules[name]), 2)
        with pytest.raises(ZoplatError, match=message):
            run.advance()


@pytest.mark.parametrize("law", [None, LowRank(rank=2)])
def test_it_learns_with_little_noise_whatever_the_law(law: LowRank | None) -> None:
    toy = two_layers(dtype="float32")
    before = toy.loss(toy.theta)
    train(toy, estimator(noise=0.05, rule=Plain(lr=0.02), **({"sampler": law} if law else {})), steps=100)
    assert toy.loss(toy.theta) < 0.8 * before


def test_an_objective_without_losses_of_rows_is_refused_by_name() -> None:
    with pytest.raises(ZoplatError, match="'dp' asks for the loss of each row, and --objective macro-f1"):
        objective_of(resolve({"estimator": "dp", "device": "reference", "steps": 1, "objective": "macro-f1"}))


def test_fields_are_checked() -> None:
    assert DPZero().asks == {"row losses"}
    assert DPZero(noise=2.5).noise_multiplier == 2.5
    for field, value in (("eps", 0.0), ("clip", 0.0), ("noise", -1.0)):
        with pytest.raises(ZoplatError, match=field):
            replace(DPZero(), **{field: value})

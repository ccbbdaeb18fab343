"""LOZO-M against a plain transcription of the momentum of arXiv:2410.07698, and its properties."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Direction, Estimate, Key, Noise, Sampler, Tile, ZoplatError
from zoplat.core.blocks import Part
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, quadratic, train, two_layers
from zoplat.training.states import state_from_json, state_to_json
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import lozo_m
from zoplat_plugins.dizo import DiZO
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.lozo_m import LowRankMomentum
from zoplat_plugins.mezo import MeZO

SEED, EPS, LR, DECAY, BETA = 5, 1e-2, 2e-3, 0.05, 0.8
RANK, INTERVAL, STEPS = 2, 7, 40
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(
    toy: Toy, steps: int, interval: int, beta: float, queries: int = 1, decay: float = 0.0, dense: bool = False
) -> list[float]:
    """The loop of the paper on the toy's own arrays, V and the V before it kept in tables; returns the losses.

    With `dense` the momentum is a matrix of the weights' own shape, and nothing is done to it where V changes.
    """
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    v: dict[str, np.ndarray] = {}
    old: dict[str, np.ndarray] = {}
    momentum: dict[str, np.ndarray] = {}
    recorded = []

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        seen: dict[str, Any] = dict.fromkeys(arrays, 0.0)
        for name, array in arrays.items():
            if array.ndim == 2 and step % interval == 0:
                old[name] = v.get(name, np.zeros((array.shape[1], RANK)))
                v[name] = noise.normal((array.shape[1], RANK), Key(SEED, step, -1), name, "V").astype(np.float64)
        for query in range(queries):
            u, z = {}, {}
            for name, array in arrays.items():
                key = Key(SEED, step, query)
                if array.ndim == 1:
                    u[name] = z[name] = noise.normal(array.shape, key, name).astype(np.float64)
                else:
                    u[name] = noise.normal((array.shape[0], RANK), key, name, "U").astype(np.float64)
                    z[name] = u[name] @ v[name].T
            for name, array in arrays.items():
                array += EPS * z[name]
            up = loss()
            for name, array in arrays.items():
                array -= 2 * EPS * z[name]
            down = loss()
            for name, array in arrays.items():
                array += EPS * z[name]
            for name in arrays:
                seen[name] = seen[name] + (up - down) / (2 * EPS) / queries * (z if dense else u)[name]
            recorded += [up, down]
        for name, array in arrays.items():
            if step == 0:
                momentum[name] = seen[name]
            else:
                kept = momentum[name]
                if array.ndim == 2 and step % interval == 0 and not dense:
                    kept = kept @ old[name].T @ v[name] / array.shape[1]
                momentum[name] = beta * kept + (1 - beta) * seen[name]
            if array.ndim == 2:
                array *= 1 - LR * decay
            array -= LR * (momentum[name] @ v[name].T if array.ndim == 2 and not dense else momentum[name])
    return recorded


def estimator(interval: int = INTERVAL, beta: float = BETA, queries: int = 1, decay: float = 0.0) -> MeZO:
    rule = LowRankMomentum(schedule=Plain(lr=LR, decay=decay), beta=beta)
    return MeZO(eps=EPS, queries=queries, sampler=LowRank(rank=RANK, interval=interval), rule=rule)


@pytest.mark.parametrize(("interval", "queries", "decay"), [(INTERVAL, 1, 0.0), (INTERVAL, 1, DECAY), (5, 2, 0.0)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_lozo_m_takes_the_steps_of_the_published_loop(
    interval: int, queries: int, decay: float, restore: Restore
) -> None:
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = published_loop(plain, STEPS, interval, BETA, queries, decay)
    answers = train(toy, estimator(interval, queries=queries, decay=decay), STEPS, SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_with_a_new_v_at_every_step_the_momentum_is_carried_over_at_every_step() -> None:
    """Ν = 1, at which the authors' code forgets it. Carrying it over or not makes a difference here."""
    plain, forgetful, toy = two_layers(), two_layers(), two_layers()
    published_loop(plain, STEPS, 1, BETA)
    train(toy, estimator(interval=1), STEPS, SEED)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)
    published_loop(forgetful, STEPS, 1, 0.0)
    assert np.abs(toy.theta - forgetful.held).max() > 100 * ATOL


def test_where_v_is_never_renewed_the_momentum_is_the_dense_one() -> None:
    """Ν = ∞: a running mean of g U Vᵀ in full matrices; with renewals it is another one."""
    plain, renewed = two_layers(), two_layers()
    published_loop(plain, STEPS, 10**6, BETA, dense=True)
    for interval, same in ((10**6, True), (INTERVAL, False)):
        toy = two_layers()
        train(toy, estimator(interval), STEPS, SEED)
        if not same:
            published_loop(renewed, STEPS, interval, BETA, dense=True)
            plain = renewed
        assert (np.abs(toy.theta - plain.held).max() < ATOL) == same


@pytest.mark.parametrize("queries", [1, 2])
def test_with_beta_zero_it_is_lozo(queries: int) -> None:
    """The first step included: N ← g U is then what every step does."""
    with_rule, without = two_layers(), two_layers()
    method = estimator(beta=0.0, queries=queries, decay=DECAY)
    train(with_rule, method, STEPS, SEED)
    train(without, replace(method, rule=Plain(lr=LR, decay=DECAY)), STEPS, SEED)
    np.testing.assert_allclose(with_rule.theta, without.theta, rtol=0, atol=ATOL)


def test_the_first_step_is_not_damped_and_the_second_is() -> None:
    """N ← g U, then β N + (1 − β) g U; no bias correction and no factor 1/(1 − β)."""
    toy = quadratic()
    rule = estimator().rule
    state = rule.init_for(toy.space, LowRank(rank=RANK))
    z = [toy.space.draw(LowRank(rank=RANK, interval=INTERVAL), Key(SEED, step, 0)) for step in (0, 1)]
    expected, momentum = toy.theta, np.zeros(0)
    for step in (0, 1):
        rule.apply(Estimate(3.0 * z[step]), toy.oracle(step, seed=SEED), state)
        entries = 3 * toy.entries(z[step])
        momentum = BETA * momentum + (1 - BETA) * entries if step else entries
        expected = expected - LR * momentum
        np.testing.assert_allclose(toy.theta, expected, rtol=0, atol=ATOL)


@dataclass(frozen=True)
class Orthogonal(LowRank):
    """The same V in every interval, with orthogonal columns of length √n."""

    def basis(self, tile: Tile, key: Key, noise: Noise) -> Any:
        columns = tile.shape[1]
        rows = np.random.default_rng(columns).normal(size=(columns, min(self.rank, columns)))
        v = np.zeros((columns, self.rank))
        v[:, : rows.shape[1]] = np.linalg.qr(rows)[0] * columns**0.5
        return v


def test_carrying_the_momentum_over_to_the_same_orthogonal_v_changes_nothing() -> None:
    """V′ᵀV/n is then the identity, so ν = 1 and ν = ∞ are one method."""
    ends = []
    for interval in (1, 10**6):
        toy = quadratic({"a": (6, 5), "b": (3, 8), "c": (4,)})
        method = replace(estimator(), sampler=Orthogonal(rank=RANK, interval=interval))
        train(toy, method, STEPS, SEED)
        ends.append(toy.theta)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=ATOL)


def test_losses_that_are_equal_leave_the_momentum_to_fade_and_step() -> None:
    """An estimate of 0 has no factors, and may come first, within an interval, and where V is renewed."""
    law, noise = LowRank(rank=RANK, interval=4), ReferenceNoise()
    toy = quadratic({"w": (6, 5)})
    rule = estimator().rule
    state = rule.init_for(toy.space, LowRank(rank=RANK))
    expected, n, v = toy.theta.reshape(6, 5), np.zeros((6, RANK)), np.zeros((5, RANK))
    for step, slope in enumerate([0.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0]):
        key = Key(SEED, step, 0)
        rule.apply(Estimate(slope * Direction.of(law, key)), toy.oracle(step, seed=SEED), state)
        old, v = v, noise.normal((5, RANK), key.at(step - step % 4), "w", "V").astype(np.float64)
        u = slope * noise.normal((6, RANK), key, "w", "U").astype(np.float64)
        if step == 4:
            n = n @ old.T @ v / 5
        n = u if step <= 2 else BETA * n + (1 - BETA) * u
        expected = expected - LR * n @ v.T
        np.testing.assert_allclose(toy.theta.reshape(6, 5), expected, rtol=0, atol=ATOL)


def test_an_interval_whose_steps_were_all_skipped_is_carried_over_all_the_same() -> None:
    """V′ is that of the last step that was made, not of the interval before."""
    law, noise = LowRank(rank=RANK, interval=2), ReferenceNoise()
    toy = quadratic({"w": (6, 5)})
    rule = estimator().rule
    state = rule.init_for(toy.space, LowRank(rank=RANK))
    start = toy.theta.reshape(6, 5)
    for step in (0, 5):
        rule.apply(Estimate(Direction.of(law, Key(SEED, step, 0))), toy.oracle(step, seed=SEED), state)
    u = [noise.normal((6, RANK), Key(SEED, step, 0), "w", "U").astype(np.float64) for step in (0, 5)]
    v = [noise.normal((5, RANK), Key(SEED, step, -1), "w", "V").astype(np.float64) for step in (0, 4)]
    second = (BETA * u[0] @ v[0].T @ v[1] / 5 + (1 - BETA) * u[1]) @ v[1].T
    np.testing.assert_allclose(toy.theta.reshape(6, 5), start - LR * (u[0] @ v[0].T + second), rtol=0, atol=ATOL)


def test_a_run_replays_bit_for_bit() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    answers = train(run, estimator(decay=DECAY), STEPS)
    train(again, estimator(decay=DECAY), STEPS, answers=answers)
    assert again.bits == run.bits


@pytest.mark.parametrize("stop", [INTERVAL, INTERVAL + 3])
def test_a_run_taken_up_again_ends_where_the_unbroken_one_ends(stop: int) -> None:
    """To the bit: N and one name are all there is to keep, at the end of an interval and within one."""
    method = estimator(decay=DECAY)

    def steps(toy: Toy, state: Any, first: int, last: int) -> None:
        for step in range(first, last):
            oracle = toy.oracle(step, 30, SEED)
            for estimate in method.estimate(oracle, None):
                method.rule.apply(estimate, oracle, state)
        toy.space.settle()

    unbroken, resumed = two_layers(dtype="float32"), two_layers(dtype="float32")
    state, fresh = (
        method.rule.init_for(unbroken.space, method.sampler),
        method.rule.init_for(resumed.space, method.sampler),
    )
    steps(unbroken, state, 0, stop)
    for block, saved in zip(resumed.space.blocks, unbroken.space.blocks, strict=True):
        block.array[:] = saved.array
        fresh.n.arrays[block.name][:] = state.n.arrays[block.name]
    resumed.space.reset()
    fresh = state_from_json(fresh, json.loads(json.dumps(state_to_json(state, unbroken.space))), resumed.space)
    steps(unbroken, state, stop, 30)
    steps(resumed, fresh, stop, 30)
    assert resumed.bits == unbroken.bits


def test_only_the_factor_is_kept_and_a_step_costs_two_forward_passes_and_three_over_the_weights() -> None:
    """R numbers for each row of a matrix, one for each entry of a vector."""
    toy, method, steps = two_layers(), estimator(queries=2), 20
    passes: list[int] = []
    loss = toy.loss
    toy.loss = lambda theta: passes.append(1) or loss(theta)  # type: ignore[func-returns-value]
    train(toy, method, steps, SEED)
    assert len(passes) == 4 * steps
    assert toy.space.passes_over_weights == 5 * steps
    [buffer] = toy.space.buffers
    assert {name: array.shape for name, array in buffer.arrays.items()} == {
        "hidden.weight": (12, RANK),
        "hidden.bias": (12,),
        "output.weight": (1, RANK),
        "output.bias": (1,),
    }
    assert buffer.bytes == 8 * (12 * RANK + 12 + 1 * RANK + 1)  # float64 here


def test_the_loss_falls() -> None:
    toy = two_layers()
    before = toy.loss(toy.theta)
    train(toy, replace(estimator(), rule=replace(estimator().rule, schedule=Plain(lr=5e-3))), 80, SEED)
    assert toy.loss(toy.theta) < 0.8 * before


@pytest.mark.parametrize(
    ("direction", "words"),
    [
        (Direction.of(Gaussian(), Key(0, 0, 0)), "Gaussian"),
        (Direction.of(LowRank(), Key(0, 0, 0)).on(Part(frozenset({"row.weight"}))), "on all weights, unscaled"),
        (Direction.of(LowRank(), Key(0, 60, 0)), "V of their step"),
        (
            Direction.of(LowRank(), Key(0, 0, 0)) + Direction.of(LowRank(interval=3), Key(0, 0, 1)),
            "on all weights, unscaled",
        ),
    ],
)
def test_directions_it_has_no_factor_for_are_refused_with_what_to_do(direction: Direction, words: str) -> None:
    toy = quadratic()
    rule = LowRankMomentum()
    start, state = toy.bits, rule.init_for(toy.space, LowRank())
    with pytest.raises(ZoplatError, match=words) as caught:
        rule.apply(Estimate(direction), toy.oracle(0), state)
    assert "--sampler low-rank" in str(caught.value)
    assert toy.bits == start
    assert state.latest == ZERO


@pytest.mark.parametrize("law", [Gaussian(), None], ids=["gaussian", "no-law"])
def test_a_law_without_factors_is_refused_before_the_run(law: Sampler | None) -> None:
    with pytest.raises(ZoplatError, match="--sampler low-rank"):
        LowRankMomentum().init_for(quadratic().space, law)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_momentum_has_the_rank_of_the_law(rank: int) -> None:
    """The rank is set once, at the law; a rule behind another estimator gets it too."""
    toy = quadratic({"w": (6, 5)})
    method = DiZO(inner=MeZO(sampler=LowRank(rank=rank)), targets="w", rule=LowRankMomentum())
    assert method.rule.init_for(toy.space, method.law).n.arrays["w"].shape == (6, rank)


@pytest.mark.parametrize(("field", "value"), [("beta", 1.0), ("beta", -0.1)])
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ZoplatError, match=field):
        replace(LowRankMomentum(), **{field: value})


def test_what_is_registered_is_lozo_with_this_rule_at_one_rank() -> None:
    registered: Any = lozo_m.zoplat_estimators()["lozo-m"]
    assert isinstance(registered, MeZO)
    assert isinstance(registered.sampler, LowRank)
    assert isinstance(registered.rule, LowRankMomentum)
    assert (registered.sampler.rank, registered.sampler.interval) == (4, 50)
    assert (registered.rule.beta, registered.rule.rate(quadratic().oracle(0))) == (0.9, 1e-6)


def test_carrying_over_keeps_the_mean_of_the_momentum(noise: Noise, unbiased: Check) -> None:
    """10,000 draws of V: E[V Vᵀ] = rI, so what is carried over, N V′ᵀ V Vᵀ/n, has mean (r/n) N V′ᵀ, a share of it.

    E[VᵀV] = nI, by which the paper divides, is exact on average as well.
    """
    columns = 6
    v = np.stack([noise.normal((columns, RANK), Key(SEED, step, -1), "w", "V") for step in range(10_000)])
    v = v.astype(np.float64)
    unbiased((v.transpose(0, 2, 1) @ v).reshape(len(v), -1), columns * np.eye(RANK).reshape(-1), "VᵀV")
    n = np.random.default_rng(1).normal(size=(3, columns))
    carried = n @ v @ v.transpose(0, 2, 1) / columns
    unbiased(carried.reshape(len(v), -1), (RANK / columns * n).reshape(-1), "what is carried over")

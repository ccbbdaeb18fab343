"""AGZO against a plain transcription of its step (arXiv:2601.17261), and what its directions promise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from zoplat import ZERO, Key, Oracle, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.errors import NonFinite
from zoplat.core.input_directions import LossAndRows, directions_of
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.testing import Plain, Toy, train
from zoplat.testing.measures import resumes_exactly
from zoplat.testing.toys import ToyLosses
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins.agzo import AGZO, Guided

SEED, EPS, LR, RANK = 5, 1e-3, 1e-2, 2
SHAPES = {"embed.weight": (5, 3), "hidden.weight": (12, 6), "hidden.bias": (12,), "output.weight": (4, 12)}
RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(30, 6)) @ np.diag([5, 3, 1, 0.5, 0.2, 0.1]), RNG.normal(size=(30, 4))
FLAT = np.linalg.qr(RNG.normal(size=(30, 2)))[0] @ np.diag([5, 4]) @ np.linalg.qr(RNG.normal(size=(6, 2)))[0].T
"""Inputs of rank 2."""


class Network:
    """A layer, tanh, and a layer, with a matrix beside them that is no layer's; mean squared error on 30 rows."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def inputs(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """What the two layers read, (rows, features)."""
        w, b = theta[15:87].reshape(12, 6), theta[87:99]
        return {"hidden.weight": self.x, "output.weight": np.tanh(self.x @ w.T + b)}

    def loss(self, theta: np.ndarray) -> float:
        out = self.inputs(theta)["output.weight"] @ theta[99:].reshape(4, 12).T
        return float(((out - Y + theta[:15].sum() / 20) ** 2).mean())

    def toy(self, dtype: str = "float64", restore: Restore = "in-place") -> Toy:
        """The network as a toy whose inputs are known."""
        toy = Toy(np.random.default_rng(3).normal(size=147) * 0.3, SHAPES, self.loss, None, dtype, restore)
        replayed = toy.oracle

        def oracle(step: int, steps: int = 9, seed: int = 0, answers: Sequence[float] | None = None) -> Oracle:
            live = Oracle(toy.space, Key(seed, step, 0), step / steps, Losses(toy, self))
            return live if answers is None else replayed(step, steps, seed, answers)

        toy.oracle = oracle  # type: ignore[method-assign]
        return toy


class Losses(ToyLosses):
    """The losses of the network, with the exact singular vectors of what its layers read."""

    def __init__(self, toy: Toy, network: Network) -> None:
        super().__init__(toy)
        self.network = network

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        known = {}
        for name, h in self.network.inputs(self.toy.held).items():
            _, values, vt = np.linalg.svd(h, full_matrices=False)
            known[name] = (values[:rank, None] * turned(vt[:rank])).tolist()
        return self.toy.forward(), directions_of(space.blocks, rank, known)


class Broken(ToyLosses):
    """One number of a direction is not finite."""

    def input_directions(self, space: ParameterSpace, rank: int, rounds: int) -> LossAndRows:
        loss, found = super().input_directions(space, rank, rounds)
        return loss, {**found, "hidden.weight": [[float("nan")] * 6] * rank}


def turned(rows: np.ndarray) -> np.ndarray:
    """Each row with the sign that makes its first entry positive."""
    return rows * np.sign(rows[:, :1])


def method(lr: float = LR, **fields: Any) -> AGZO:
    return AGZO(**{"eps": EPS, "rank": RANK, "rule": Plain(lr=lr), **fields})


def published_loop(network: Network, toy: Toy, steps: int, queries: int, interval: int) -> list[float]:
    """The published step on the toy's own arrays, power iteration until it has converged; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    basis: dict[str, np.ndarray] = {}
    losses = []
    for step in range(steps):
        if step % interval == 0:
            for name, h in network.inputs(toy.held).items():
                a = np.linalg.qr(np.random.default_rng(step).normal(size=(h.shape[1], RANK)))[0]
                for _ in range(500):
                    a = np.linalg.qr(h.T @ (h @ a))[0]
                basis[name] = np.round(turned(a.T), 5).T
        losses.append(network.loss(toy.held))
        update = {name: np.zeros(array.shape) for name, array in arrays.items()}
        for query in range(queries):
            z = {name: noise.normal(array.shape, Key(SEED, step, query), name) for name, array in arrays.items()}
            for name, a in basis.items():
                z[name] = noise.normal((len(arrays[name]), RANK), Key(SEED, step, query), name, "R") @ a.T
            probed = [(array + EPS * z[name]).reshape(-1) for name, array in arrays.items()]
            losses.append(network.loss(np.concatenate(probed)))
            for name in arrays:
                update[name] += (losses[-1] - losses[-1 - query - 1]) / EPS * z[name] / queries
        for name, array in arrays.items():
            array -= LR * update[name]
    return losses


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize(("queries", "interval"), [(1, 1), (3, 4)])
def test_the_steps_are_those_of_the_published_loop(restore: Restore, queries: int, interval: int) -> None:
    network = Network(X)
    plain, toy = network.toy(), network.toy(restore=restore)
    recorded = published_loop(network, plain, 22, queries, interval)
    answers = train(toy, method(queries=queries, interval=interval), steps=22, seed=SEED)
    seen = [a for step in answers for a in (step[:1] + step[-queries:])]
    np.testing.assert_allclose(seen, recorded, rtol=1e-9)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=1e-8)
    assert recorded[-1] < 0.8 * recorded[0]


def test_a_layer_is_probed_in_the_span_of_its_directions_and_all_else_everywhere() -> None:
    network = Network(FLAT)
    toy = network.toy()
    state = method().init(toy.space)
    [estimate] = method().estimate(toy.oracle(0), state)
    z = np.split(toy.entries(estimate.direction), np.cumsum([15, 72, 12]))
    assert state.guided == ["hidden.weight", "output.weight"]
    assert np.linalg.matrix_rank(z[1].reshape(12, 6), tol=1e-9) == RANK
    _, _, vt = np.linalg.svd(FLAT)
    assert np.abs(z[1].reshape(12, 6) @ vt[2:].T).max() < 1e-4 * np.abs(z[1]).max()
    assert np.linalg.matrix_rank(z[0].reshape(5, 3)) == 3
    assert (z[2] != 0).all()


@pytest.mark.parametrize("rank", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_mean_of_the_estimates_is_what_the_directions_hold_of_the_gradient(rank: int) -> None:
    """Of the first layer, all of it for inputs of rank 2 and as many directions: the rows of G lie in their span."""
    toy, agzo = Network(FLAT).toy(), method(rank=rank, eps=1e-6)
    gradient = toy.slopes[15:87].copy()
    held = gradient.reshape(12, 6) @ np.linalg.svd(FLAT)[2][:rank].T
    expected = (held**2).sum() / (gradient**2).sum()
    assert (expected > 0.999) == (rank == 2)
    state, shares = agzo.init(toy.space), []
    for seed in range(1500):
        state.epoch = -1
        [estimate] = agzo.estimate(toy.oracle(0, seed=seed), state)
        shares.append(toy.entries(estimate.direction)[15:87] @ gradient / (gradient @ gradient))
    error = 5 * np.std(shares) / len(shares) ** 0.5
    assert error < 0.3
    assert np.mean(shares) == pytest.approx(expected, abs=error)
    if rank == 1:
        assert abs(np.mean(shares) - 1) > error


@pytest.mark.parametrize("interval", [1, 5])
def test_it_replays_bit_for_bit(interval: int) -> None:
    run, again = Network(X).toy("float32"), Network(X).toy("float32")
    answers = train(run, method(interval=interval), steps=30)
    train(again, method(interval=interval), steps=30, answers=answers)
    assert again.bits == run.bits


def test_a_run_that_was_stopped_within_an_interval_goes_on_to_the_same_bits() -> None:
    resumes_exactly(method(interval=5, lr=2e-3))


def test_a_step_costs_what_is_claimed() -> None:
    """Two passes over θ and two forward passes, whether or not A is renewed; r numbers for each column of a matrix."""
    toy, agzo = Network(X).toy(), method(interval=3)
    state, passes, counts = agzo.init(toy.space), 0, []
    for step in range(12):
        oracle = toy.oracle(step)
        for estimate in agzo.estimate(oracle, state):
            agzo.rule.apply(estimate, oracle, None)
        passes += oracle.passes
        counts.append(len(oracle.answers))
    [basis] = toy.space.buffers
    assert {name: array.shape for name, array in basis.arrays.items()} == {
        "embed.weight": (2, 3), "hidden.weight": (2, 6), "output.weight": (2, 12)
    }  # fmt: skip
    assert passes == 24
    assert toy.space.passes_over_weights / 12 == pytest.approx(2, rel=0.05)
    assert counts == [2 + 2 * (3 + 6 + 12), 2, 2] * 4


def test_directions_that_are_not_finite_skip_the_step_and_are_asked_for_again() -> None:
    toy, agzo = Network(X).toy(), method(interval=10)
    state = agzo.init(toy.space)
    broken = Oracle(toy.space, Key(0, 0, 0), 0.0, Broken(toy))
    with pytest.raises(NonFinite, match="direction of inputs"):
        next(agzo.estimate(broken, state))
    assert state.epoch == -1
    assert not any(array.any() for array in state.basis.arrays.values())
    next(agzo.estimate(toy.oracle(1), state))
    assert state.epoch == 0


def test_a_rank_above_the_columns_of_a_tall_matrix_is_cut_to_them() -> None:
    """As in a factor of LoRA; here of (5, 3)."""
    toy, agzo = Network(X).toy(), method(rank=4)
    state = agzo.init(toy.space)
    [estimate] = agzo.estimate(toy.oracle(0), state)
    assert np.isfinite(toy.entries(estimate.direction)).all()
    embed = next(toy.space.blocks[0].tiles())
    law = Guided(state.basis, toy.space.everything)
    assert [factor.shape for factor in law.matrix_factors(embed, Key(0, 0, 0), toy.noise)] == [(5, 3), (3, 3)]


def test_the_trace_has_the_slopes() -> None:
    toy, agzo = Network(X).toy(), method(queries=2)
    [estimate] = agzo.estimate(toy.oracle(0), agzo.init(toy.space))
    base, *ups = estimate.losses
    assert estimate.slopes == pytest.approx([(up - base) / EPS for up in ups])


def test_a_score_has_no_pass_that_inputs_could_be_known_from() -> None:
    assert AGZO().asks == {"losses", "input directions"}
    with pytest.raises(ZoplatError, match="asks for input directions, and --objective accuracy has none"):
        resolve({"estimator": "agzo", "device": "cpu", "objective": "accuracy"})
    with pytest.raises(ZoplatError, match="asks the device for input directions"):
        resolve({"estimator": "agzo", "device": "reference", "task": "sentiment"})


def test_equal_losses_move_nothing() -> None:
    toy, agzo = Network(X).toy(), method()
    toy.loss = lambda theta: 0.3
    [estimate] = agzo.estimate(toy.oracle(0), agzo.init(toy.space))
    assert estimate.direction == ZERO

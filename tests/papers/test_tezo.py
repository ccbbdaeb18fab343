"""TeZO against a plain transcription of its published step (arXiv:2501.19057), and properties of its law."""

from collections.abc import Callable

import numpy as np
import pytest

from zoplat import Key, Noise
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import tezo
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.tezo import Temporal

SEED, EPS, LR, RANK = 5, 1e-2, 2e-3, 3
SHAPES = {"one": (9, 6), "row": (1, 7), "bias": (8,)}
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def published_loop(toy: Toy, steps: int) -> list[float]:
    """The published step on the toy's own arrays, U and V in tables; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    run = Key(SEED, 0, -1)

    def drawn(*address: object, shape: tuple[int, ...]) -> np.ndarray:
        return noise.normal(shape, *address).astype(np.float64)  # type: ignore[arg-type]  # any address

    left = {n: drawn(run, n, "U", shape=(a.shape[0], RANK)) for n, a in arrays.items() if a.ndim == 2}
    right = {n: drawn(run, n, "V", shape=(a.shape[1], RANK)) for n, a in arrays.items() if a.ndim == 2}
    recorded = []
    for step in range(steps):
        key, z = Key(SEED, step, 0), {}
        for name, array in arrays.items():
            if array.ndim == 2:
                z[name] = left[name] @ np.diag(drawn(key, name, "tau", shape=(RANK,))) @ right[name].T
            else:
                z[name] = drawn(key, name, shape=array.shape)
        up, down = (
            toy.loss(np.concatenate([(a + sign * EPS * z[n]).reshape(-1) for n, a in arrays.items()]))
            for sign in (1, -1)
        )
        for name, array in arrays.items():
            array -= LR * (up - down) / (2 * EPS) * z[name]
        recorded += [up, down]
    return recorded


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_tezo_takes_the_published_steps(restore: Restore) -> None:
    plain, toy = quadratic(SHAPES), quadratic(SHAPES, restore=restore)
    recorded = published_loop(plain, 30)
    answers = train(toy, MeZO(eps=EPS, sampler=Temporal(RANK), rule=Plain(lr=LR)), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_a_run_searches_as_many_dimensions_of_a_matrix_as_the_rank() -> None:
    toy = linear({"w": (12, 10)})
    draws = [toy.entries(toy.space.draw(Temporal(RANK), Key(SEED, step, 0))) for step in range(8)]
    values = np.linalg.svd(np.array(draws), compute_uv=False)
    assert int((values > 1e-5 * values[0]).sum()) == RANK


def test_entries_have_the_variance_that_is_claimed_over_runs(noise: Noise, unbiased: Check) -> None:
    toy = linear({"w": (4, 3)})
    [block] = toy.space.blocks
    law, samples = Temporal(RANK), []
    for seed in range(4000):
        u, v = law.matrix_factors(next(block.tiles()), Key(seed, 3, 0), noise)
        samples.append((u @ v.T).reshape(-1))
    z = np.array(samples)
    unbiased(z, 0.0, "an entry")
    unbiased(z**2, law.variance((4, 3)), "its square")
    unbiased(z[:, :-1] * z[:, 1:], 0.0, "a product of two")


def test_what_is_registered_is_mezo_with_the_law() -> None:
    registered = tezo.zoplat_estimators()["tezo"]
    assert registered == MeZO(sampler=tezo.zoplat_samplers()["temporal"], rule=registered.rule)

"""SubZero against a plain transcription of its published step (arXiv:2410.08989), and properties of the method."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zoplat import Key, Noise, ZoplatError, orthonormal
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, linear, quadratic, train, two_layers
from zoplat_devices.kernels.noise import ReferenceNoise
from zoplat_plugins import subzero
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.subzero import Subspace

SEED, EPS, LR, DECAY = 5, 1e-2, 2e-3, 0.05
RANK, INTERVAL = 3, 7
SHAPES = {"one": (9, 6), "row": (1, 7), "small": (4, 2), "bias": (8,)}
"""Two matrices, one of them smaller than the rank, and two arrays that count as vectors."""
ATOL = 1e-9
"""Toys in float64 have float64 factors, of the same float32 numbers as the transcription has."""
Check = Callable[[np.ndarray, "np.ndarray | float", str], None]


def basis(noise: Noise, shape: tuple[int, int], epoch: int, name: str, tag: str) -> np.ndarray:
    """Q of the QR factorisation of a Gaussian, columns turned so that R has a positive diagonal."""
    gaussian = noise.normal((shape[1], shape[0]), Key(SEED, epoch, -1), name, tag).astype(np.float64).T
    q, r = np.linalg.qr(gaussian)
    return q * np.sign(np.diag(r))


def published_loop(
    toy: Toy, steps: int, lr: float = LR, eps: float = EPS, decay: float = 0.0, scaled: bool = True
) -> list[float]:
    """The published loop on the toy's own arrays, U and V kept in tables between renewals; returns the losses."""
    noise = ReferenceNoise()
    arrays = {block.name: block.array for block in toy.space.blocks}
    left: dict[str, np.ndarray] = {}
    right: dict[str, np.ndarray] = {}
    recorded = []

    def loss() -> float:
        return toy.loss(np.concatenate([array.reshape(-1) for array in arrays.values()]))

    for step in range(steps):
        z = {}
        for name, array in arrays.items():
            if array.squeeze().ndim < 2:
                z[name] = noise.normal(array.shape, Key(SEED, step, 0), name).astype(np.float64)
                continue
            m, n = array.shape
            r = min(RANK, m, n)
            if step % INTERVAL == 0:
                left[name] = basis(noise, (m, r), step, name, "U")
                right[name] = basis(noise, (n, r), step, name, "V")
            psi = noise.normal((r, r), Key(SEED, step, 0), name, "core").astype(np.float64)
            z[name] = (np.sqrt(m * n) / r if scaled else 1.0) * left[name] @ psi @ right[name].T
        for name, array in arrays.items():
            array += eps * z[name]
        up = loss()
        for name, array in arrays.items():
            array -= 2 * eps * z[name]
        down = loss()
        for name, array in arrays.items():
            array += eps * z[name]
        g = (up - down) / (2 * eps)
        for name, array in arrays.items():
            if array.ndim == 2:
                array *= 1 - lr * decay
            array -= lr * g * z[name]
        recorded += [up, down]
    return recorded


def estimator(lr: float = LR, eps: float = EPS, decay: float = 0.0, scaled: bool = True, rank: int = RANK) -> MeZO:
    return MeZO(eps=eps, sampler=Subspace(rank, INTERVAL, scaled), rule=Plain(lr=lr, decay=decay))


@pytest.mark.parametrize(("decay", "scaled"), [(0.0, True), (DECAY, True), (0.0, False)])
@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_subzero_takes_the_steps_of_the_published_loop(decay: float, scaled: bool, restore: Restore) -> None:
    """30 steps in float64, U and V renewed five times."""
    plain, toy = quadratic(SHAPES), quadratic(SHAPES, restore=restore)
    recorded = published_loop(plain, 30, decay=decay, scaled=scaled)
    answers = train(toy, estimator(decay=decay, scaled=scaled), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_subzero_takes_the_steps_of_the_published_loop_on_a_network() -> None:
    plain, toy = two_layers(), two_layers()
    recorded = published_loop(plain, 30)
    answers = train(toy, estimator(), steps=30, seed=SEED)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=0, atol=ATOL)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=0, atol=ATOL)


def test_what_is_registered_is_mezo_with_the_subspace_sampler() -> None:
    registered = subzero.zoplat_estimators()["subzero"]
    assert registered == MeZO(sampler=subzero.zoplat_samplers()["subspace"], rule=registered.rule)
    assert registered.rule.lr == 1e-7  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(1, 5), (5, 5), (8, 100)])
def test_gram_schmidt_is_the_orthogonal_factor_of_qr(shape: tuple[int, int]) -> None:
    gaussian = np.random.default_rng(1).normal(size=shape)
    q, r = np.linalg.qr(gaussian.T)
    made = orthonormal(gaussian.astype(np.float32))
    np.testing.assert_allclose(made, (q * np.sign(np.diag(r))).T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(made @ made.T, np.eye(shape[0]), rtol=0, atol=1e-6)


def test_a_basis_is_made_once_an_interval_and_its_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    def counted(a: np.ndarray) -> np.ndarray:
        made.append(a.shape)
        return orthonormal(a)

    monkeypatch.setattr("zoplat.core.noise.orthonormal", counted)
    toy = linear({"w": (12, 10), "b": (4,)})
    drawn = [toy.entries(toy.space.draw(Subspace(2, INTERVAL), Key(SEED, step, 0))) for step in (0, 1, 0, INTERVAL, 0)]
    assert made == [(2, 12), (2, 10)] * 3, "of the first interval, of the second one, and of the first one again"
    assert (drawn[0] == drawn[2]).all()
    assert (drawn[0] == drawn[4]).all()
    assert toy.space.noise.bytes == (12 + 10) * 2 * drawn[0].itemsize, "those of one interval"
    assert toy.space.scratch_bytes > toy.space.noise.bytes


def test_the_subspaces_last_an_interval_and_the_core_a_draw() -> None:
    """z lies in the same span for an interval, in another one afterwards; draws of a step share the span."""
    toy = linear({"w": (12, 10)})
    spans = []
    for step in range(2 * INTERVAL):
        draws = [toy.entries(toy.space.draw(Subspace(2, INTERVAL), Key(SEED, step, k))) for k in (0, 1)]
        assert (draws[0] != draws[1]).all()
        both = np.hstack([draw.reshape(12, 10) for draw in draws])
        assert rank_of(both) == rank_of(draws[0].reshape(12, 10)) == 2
        spans.append(both)
    assert rank_of(np.hstack(spans[:INTERVAL])) == 2
    assert rank_of(np.hstack(spans)) == 4


def rank_of(matrix: np.ndarray) -> int:
    """Numerical rank, at 1e-5 of the largest singular value: factors are rounded to float32."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-5 * values[0]).sum())


def test_the_steps_of_an_interval_stay_between_u_and_v() -> None:
    toy = quadratic({"w": (12, 10)})
    start = toy.held.reshape(12, 10)
    train(toy, estimator(lr=0.01), steps=INTERVAL, seed=SEED)
    moved = toy.theta.reshape(12, 10) - start
    u, v = (basis(ReferenceNoise(), (n, RANK), 0, "w", tag) for n, tag in ((12, "U"), (10, "V")))
    assert np.linalg.norm(moved - u @ u.T @ moved @ v @ v.T) <= 1e-5 * np.linalg.norm(moved)


def test_on_every_step_each_tensor_moves_along_the_line_it_was_probed_on() -> None:
    """For SubZero: |cos| = 1 to 1e-9 over 20 steps, renewals included; seen in the arrays."""
    toy, method = quadratic(SHAPES), estimator()
    for step in range(20):
        start = [block.array.copy() for block in toy.space.blocks]
        probed: list[list[np.ndarray]] = []
        forward = toy.loss

        def watched(theta: Any, probed: Any = probed, forward: Any = forward) -> float:
            probed.append([block.array.copy() for block in toy.space.blocks])
            return float(forward(theta))

        toy.loss = watched
        oracle = toy.oracle(step, seed=SEED)
        for estimate in method.estimate(oracle, None):
            method.rule.apply(estimate, oracle, None)
        toy.loss = forward
        toy.space.settle()
        for index, block in enumerate(toy.space.blocks):
            z, moved = (probed[0][index] - start[index]).reshape(-1), (block.array - start[index]).reshape(-1)
            assert abs(z @ moved) == pytest.approx(np.linalg.norm(z) * np.linalg.norm(moved), rel=1e-9)


def test_vectors_and_matrices_of_one_row_or_column_get_the_dense_gaussian() -> None:
    toy = linear({"w": (6, 5), "row": (1, 9), "column": (9, 1), "bias": (30,)})
    key = Key(SEED, 4, 0)
    low, dense = (toy.entries(toy.space.draw(law, key)) for law in (Subspace(2), Gaussian()))
    np.testing.assert_array_equal(low[30:], dense[30:])
    assert (low[:30] != dense[:30]).all()


def test_blocks_of_one_shape_get_their_own_subspaces() -> None:
    """The published code draws from one seed for every block, so that equal shapes get equal numbers."""
    toy = linear({"one": (6, 5), "two": (6, 5)})
    one, two = toy.entries(toy.space.draw(Subspace(2), Key(SEED, 0, 0))).reshape(2, 6, 5)
    assert rank_of(np.hstack([one, two])) == 4


M, N = 7, 5


def many(noise: Noise, count: int, fixed: bool) -> np.ndarray:
    """U Ψ Vᵀ of many draws by their addresses, (count, M, N); U and V of step 0, or new ones each time."""
    z = np.empty((count, M, N))
    for k in range(count):
        if k == 0 or not fixed:
            u, v = (basis(noise, (n, RANK), k, "w", tag) for n, tag in ((M, "U"), (N, "V")))
        z[k] = u @ noise.normal((RANK, RANK), Key(SEED, k, 0), "w", "core").astype(np.float64) @ v.T
    return z


@pytest.mark.parametrize("fixed", [False, True])
def test_the_draws_used_for_averages_below_are_those_of_the_platform(noise: Noise, fixed: bool) -> None:
    toy, law = linear({"w": (M, N)}), Subspace(RANK, interval=1000 if fixed else 1, is_scaled=False)
    drawn = [toy.entries(toy.space.draw(law, Key(SEED, step, 0))).reshape(M, N) for step in range(5)]
    np.testing.assert_allclose(np.stack(drawn), many(noise, 5, fixed), rtol=0, atol=ATOL)


def test_within_an_interval_the_mean_estimate_is_the_gradient_projected_on_both_sides(
    noise: Noise, unbiased: Check
) -> None:
    """20,000 draws of Ψ: mean U Uᵀ G V Vᵀ, second moment (r² + 2)‖UᵀGV‖²."""
    gradient = np.random.default_rng(3).normal(size=(M, N))
    z = many(noise, 20_000, fixed=True)
    estimates = (z * gradient).sum(axis=(1, 2))[:, None, None] * z
    u, v = (basis(noise, (n, RANK), 0, "w", tag) for n, tag in ((M, "U"), (N, "V")))
    unbiased(estimates.reshape(-1, M * N), (u @ u.T @ gradient @ v @ v.T).reshape(-1), "mean for one U and V")
    inside = float(((u.T @ gradient @ v) ** 2).sum())
    unbiased((estimates**2).sum(axis=(1, 2)), (RANK**2 + 2) * inside, "second moment for one U and V")


@pytest.mark.parametrize("scaled", [True, False])
def test_over_all_subspaces_the_mean_estimate_is_the_claimed_share_of_the_gradient(
    noise: Noise, unbiased: Check, scaled: bool
) -> None:
    """5,000 draws: r²/(mn) of the gradient as in the paper, the whole gradient with the code's c."""
    gradient = np.random.default_rng(3).normal(size=(M, N))
    z = many(noise, 5000, fixed=False) * ((M * N) ** 0.5 / RANK if scaled else 1.0)
    estimates = (z * gradient).sum(axis=(1, 2))[:, None, None] * z
    variance = Subspace(RANK, is_scaled=scaled).variance((M, N))
    assert variance == pytest.approx(1.0 if scaled else RANK**2 / (M * N))
    unbiased(estimates.reshape(-1, M * N), variance * gradient.reshape(-1), "mean")
    unbiased((z**2).sum(axis=(1, 2)), variance * M * N, "square of the length")


def test_the_codes_radius_and_step_size_turn_into_the_papers_on_one_matrix() -> None:
    """Code (ε, η) = paper (cε, c²η)."""
    code, paper = quadratic({"w": (9, 6)}), quadratic({"w": (9, 6)})
    c = (9 * 6) ** 0.5 / RANK
    one = train(code, estimator(), steps=20, seed=SEED)
    other = train(paper, estimator(lr=LR * c**2, eps=EPS * c, scaled=False), steps=20, seed=SEED)
    np.testing.assert_allclose(one, other, rtol=0, atol=ATOL)
    np.testing.assert_allclose(code.theta, paper.theta, rtol=0, atol=ATOL)
    assert code.loss(code.theta) < quadratic({"w": (9, 6)}).loss(quadratic({"w": (9, 6)}).theta)


def test_subzero_replays_bit_for_bit_across_renewals_and_learns() -> None:
    run, again = two_layers(dtype="float32"), two_layers(dtype="float32")
    before = run.loss(run.theta)
    answers = train(run, estimator(lr=0.01), steps=60)
    train(again, estimator(lr=0.01), steps=60, answers=answers)
    assert again.bits == run.bits
    assert run.loss(run.theta) < 0.8 * before


@pytest.mark.parametrize("name", ["rank", "interval"])
def test_a_field_below_one_is_refused(name: str) -> None:
    with pytest.raises(ZoplatError, match=f"{name} must be at least 1, got 0"):
        Subspace(**{name: 0})

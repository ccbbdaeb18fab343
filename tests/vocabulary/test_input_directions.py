"""Leading directions that are put together from those of parts, against numpy's singular vectors."""

import math

import numpy as np
import pytest

from zoplat.core.input_directions import count, directions_of, leading, merged
from zoplat.core.losses import RecordedLosses
from zoplat.testing import Toy, linear
from zoplat.testing.toys import ToyLosses

RNG = np.random.default_rng(4)


def vectors(inputs: np.ndarray, rank: int) -> list[list[float]]:
    """The leading singular vectors of (tokens, features), each as long as its singular value."""
    _, values, vt = np.linalg.svd(inputs, full_matrices=False)
    rows = np.zeros((rank, inputs.shape[1]))
    rows[: len(values)] = (values[:, None] * vt)[:rank]
    return rows.tolist()


def projector(rows: object) -> np.ndarray:
    """The projection onto the span of rows."""
    q = np.linalg.qr(np.array(rows).T)[0]
    found: np.ndarray = q @ q.T
    return found


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("parts", [2, 7])
def test_directions_of_inputs_in_a_few_dimensions_are_those_of_the_whole(rank: int, parts: int) -> None:
    """Exact where each part's inputs lie in the span of its directions: nothing of them is left out."""
    inputs = RNG.normal(size=(42, rank)) @ RNG.normal(size=(rank, 10))
    found = leading([vectors(part, rank) for part in np.split(inputs, parts)])
    expected = np.array(vectors(inputs, rank))
    signs = np.sign((np.array(found) * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(signs * found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4])
def test_they_are_the_leading_singular_vectors_of_what_is_known(rank: int) -> None:
    parts = [vectors(RNG.normal(size=(20, 9)) * 10.0**-k, rank) for k in range(3)]
    found, whole = np.array(leading(parts)), np.array([row for part in parts for row in part])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.svd(whole)[1][:rank], rtol=1e-9)
    np.testing.assert_allclose(projector(found), projector(vectors(whole, rank)), rtol=0, atol=1e-9)


def test_one_part_is_what_it_is() -> None:
    rows = [[0.0, 3.0], [4.0, 0.0]]
    assert leading([rows]) is rows
    assert merged([{"w": rows}]) == {"w": rows}
    assert merged([{}, {"w": rows}, {}]) == {"w": rows}, "a layer that runs for some rows only"


def test_a_part_without_inputs_changes_nothing() -> None:
    rows = vectors(RNG.normal(size=(5, 4)), 2)
    nothing = [[0.0] * 4] * 2
    for parts in ([rows, nothing], [nothing, rows]):
        np.testing.assert_allclose(projector(leading(parts)), projector(rows), rtol=0, atol=1e-12)
    assert leading([nothing, nothing]) == nothing


def test_what_is_not_finite_stays_so() -> None:
    found = leading([[[1.0, math.nan]], [[1.0, 2.0]]])
    assert not np.isfinite(found).all()


def test_directions_have_length_1_and_are_rounded_and_the_unknown_is_zero() -> None:
    blocks = linear().space.blocks
    known = {"square.weight": vectors(RNG.normal(size=(3, 5)) @ np.diag([1, 1, 1, 0, 0]), 4)}
    found = directions_of(blocks, 4, known)
    assert {name: np.shape(rows) for name, rows in found.items()} == {
        "square.weight": (4, 5), "row.weight": (1, 7), "tall.weight": (2, 2)
    }  # fmt: skip
    rows = np.array(found["square.weight"])
    np.testing.assert_allclose(rows @ rows.T, np.diag([1, 1, 1, 0]), rtol=0, atol=3e-5)
    assert (rows == np.round(rows, 5)).all()
    assert not np.array(found["row.weight"]).any()
    assert count((4, 5), 9) == 4


def test_a_recorded_answer_is_read_as_it_was_given() -> None:
    toy: Toy = linear()
    oracle = toy.oracle(0)
    answer = oracle.input_directions(2, 3)
    assert answer == ToyLosses(toy).input_directions(toy.space, 2, 3)
    assert oracle.passes == 1
    assert oracle.loss == answer[0]
    assert RecordedLosses(0, oracle.answers).input_directions(toy.space, 2, 3) == answer


def test_numbers_are_written_to_a_buffer_of_numpy_and_of_torch() -> None:
    pytest.importorskip("torch")
    for library in ("numpy", "torch"):
        toy = linear(dtype="float32").anew(library=library)
        part = toy.space.part(lambda block: block.name == "tall.weight")
        buffer = toy.space.buffer("test/rows", on=part, rows=3)
        toy.space.write(buffer, {"tall.weight": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]})
        assert buffer.arrays["tall.weight"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]
        assert str(buffer.arrays["tall.weight"].dtype).endswith("float32")

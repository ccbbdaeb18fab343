"""The runs of golden.json, replayed by every backend: the same weights and buffers, bit for bit."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cases import FORMS, WITH_MATRIX_PRODUCTS, cases, digest, replay, weights

from zoplat.space.backend import Backend
from zoplat.testing.noise import ToyNoise
from zoplat_devices.kernels import native
from zoplat_devices.kernels.fused import FusedBackend
from zoplat_devices.memory import mapped

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
METHODS = dict(cases())
KERNELS = native.kernels(threads=1)


def backend(name: str) -> Backend:
    """One of the two backends of numpy arrays."""
    if name == "reference":
        return Backend(ToyNoise(), np.empty, mapped)
    if KERNELS is None:
        pytest.skip("no compiled kernels")
    return FusedBackend(KERNELS, np.empty, mapped)


@pytest.mark.parametrize("moved_by", ["reference", "fused"])
@pytest.mark.parametrize("name", [name for name in GOLDEN if name not in WITH_MATRIX_PRODUCTS])
def test_a_replay_leads_to_the_same_bits(name: str, moved_by: str) -> None:
    pytest.importorskip("ml_dtypes")
    known = GOLDEN[name]
    for form in FORMS:
        space = replay(METHODS[name], known["answers"], backend(moved_by), form)
        assert digest(space) == known["digests"][form], form


@pytest.mark.parametrize("moved_by", ["reference", "fused"])
@pytest.mark.parametrize("name", sorted(WITH_MATRIX_PRODUCTS))
def test_a_replay_with_matrix_products_leads_to_the_same_weights(name: str, moved_by: str) -> None:
    """Within what two BLAS libraries may differ by over 20 steps."""
    space = replay(METHODS[name], GOLDEN[name]["answers"], backend(moved_by), "float32")
    np.testing.assert_allclose(weights(space), GOLDEN[name]["weights"], rtol=1e-4, atol=1e-5)


def test_every_case_is_recorded() -> None:
    assert set(GOLDEN) == set(METHODS)

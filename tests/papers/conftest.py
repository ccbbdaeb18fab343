"""What the transcriptions share: quick noise for many draws, and a space of one matrix or vector."""

from collections.abc import Callable

import numpy as np
import pytest

from zoplat import Noise
from zoplat_devices.kernels import native
from zoplat_devices.kernels.noise import FusedNoise, ReferenceNoise


@pytest.fixture(scope="session")
def noise() -> Noise:
    """The platform's numbers, made by the kernels where there is a compiler."""
    library = native.kernels()
    return FusedNoise(library, np.empty) if library else ReferenceNoise()


@pytest.fixture(scope="session")
def unbiased() -> Callable[[np.ndarray, np.ndarray | float, str], None]:
    """Checks that samples, one a row, have the mean that is claimed, within five standard errors an entry."""

    def check(samples: np.ndarray, expected: np.ndarray | float, what: str) -> None:
        error = samples.std(axis=0) / len(samples) ** 0.5
        score = np.abs(samples.mean(axis=0) - expected) / (error + 1e-12)
        assert score.max() <= 5, f"{what}: a mean is {score.max():.2f} standard errors off"

    return check

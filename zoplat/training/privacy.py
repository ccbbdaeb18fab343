"""How private a run is: the (ε, δ) of its weights for each training row, and the noise that an ε takes.

What is protected is one row, replaced by any other; their number is public. In an epoch a row is in one batch at most,
and which one does not depend on what rows hold. So of all steps that many see a row at most as there are epochs, each
through a sum with Gaussian noise of σ times what the row can change in it. k such sums, each asked for after the ones
before, are as private as one with noise σ/√k, and the privacy of that is known exactly. Nothing is gained from the
order of the rows: amplification by sampling asks for batches that are drawn independently, which shuffled epochs are
not.

Source: Dong, Roth and Su, "Gaussian Differential Privacy", 2022, arXiv:1905.02383, Corollary 3.3 (composition); Balle
and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, arXiv:1805.06530 (ε of a sum), as
dp-accounting computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from zoplat.config.layers import build
from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory

DIGITS = 4
"""Significant digits of a σ that is found, the last one rounded up."""


@dataclass(frozen=True)
class Privacy:
    """What may be said of the weights of a run.

    Attributes:
        epsilon: ε; infinite without noise, 0 before the first step.
        delta: δ.
        noise: σ, see `Estimator.noise_multiplier`.
        rows: training rows.
        batch_size: rows of a batch.
        steps: of the run.
        uses: steps that one row has a part in, at most.
    """

    epsilon: float
    delta: float
    noise: float
    rows: int
    batch_size: int
    steps: int
    uses: int


def privacy(noise: float, steps: int, rows: int, batch_size: int, delta: float) -> Privacy:
    """The ε of a run.

    Args:
        noise: σ.
        steps: of the run.
        rows: training rows.
        batch_size: rows of a batch.
        delta: δ, between 0 and 1; well below one over the number of rows.

    Raises:
        ZoplatError: dp-accounting is not installed, or a number makes no sense.
    """
    k = uses(steps, rows, batch_size)
    _check(delta)
    if noise < 0:
        raise ZoplatError(f"--noise {noise:g}: a standard deviation is not negative.")
    epsilon = _library().get_epsilon_gaussian(noise / math.sqrt(k), delta) if k else 0.0
    return Privacy(float(epsilon), delta, noise, rows, batch_size, steps, k)


def privacy_for(epsilon: float, steps: int, rows: int, batch_size: int, delta: float) -> Privacy:
    """The same for the least noise whose ε is at most the one given; arguments and errors as for `privacy`."""
    k = uses(steps, rows, batch_size)
    _check(delta)
    if not epsilon > 0 or not k:
        raise ZoplatError(
            f"--epsilon {epsilon:g} with --steps {steps}: noise is found for a positive ε and some steps."
        )
    found = _library().get_sigma_gaussian(epsilon, delta) * math.sqrt(k)
    unit = 10.0 ** (math.floor(math.log10(found)) + 1 - DIGITS)
    return privacy(round(math.ceil(found / unit) * unit, 12), steps, rows, batch_size, delta)


def privacy_of(directory: RunDirectory, delta: float) -> Privacy:
    """The ε of the steps that a run has made so far, by its journal.

    Raises:
        ZoplatError: it promises no privacy, its journal can't be read, or as for `privacy`.
    """
    journal = directory.read_journal()
    if journal is None:
        raise ZoplatError(f"{directory.path} has made no step yet, so there is nothing to account for.")
    config = build([journal.header["settings"]])
    noise = config.estimator.noise_multiplier
    if noise is None:
        raise ZoplatError(
            f"{directory.path} is a run of '{config.estimator_name}', which adds no secret noise: its weights may show "
            "any of their training rows. Runs of 'dp' hide them."
        )
    rows = int(journal.header["rows"]["train"].split()[0])
    return privacy(noise, len(journal.steps), rows, config.batch_size, delta)


def uses(steps: int, rows: int, batch_size: int) -> int:
    """Steps that a row has a part in, at most: epochs that have begun.

    >>> uses(steps=63, rows=1000, batch_size=16)
    2
    """
    if steps < 0 or not 0 < batch_size <= rows:
        raise ZoplatError(f"{steps} steps of batches of {batch_size} out of {rows} rows can't be made.")
    return -(-steps // (rows // batch_size))


def _check(delta: float) -> None:
    if not 0 < delta < 1:
        raise ZoplatError(f"--delta {delta:g} is no probability between 0 and 1. Use one well below 1/rows, as 1e-5.")


def _library() -> Any:
    try:
        import dp_accounting
    except ImportError:
        raise ZoplatError(
            "The privacy of a run is computed by a package that is not installed: pip install 'zoplat[privacy]'"
        ) from None
    return dp_accounting

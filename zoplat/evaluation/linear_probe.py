"""A linear classifier on features that a frozen model gives: logistic regression, fitted by scipy."""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.core.errors import ZoplatError

PENALTY = 1.0
"""Weight of ½‖W‖² beside the summed cross-entropy of the examples, features scaled to unit variance."""


def fit_and_predict(
    features: Sequence[Sequence[float]], labels: Sequence[int], others: Sequence[Sequence[float]]
) -> list[int]:
    """Classes of other rows, after a fit to rows whose class is known.

    Args:
        features: (rows, width) of the rows to learn from.
        labels: their classes.
        others: (rows, width) of the rows to classify.

    Raises:
        ZoplatError: scipy is not installed.
    """
    import numpy as np

    try:
        from scipy.optimize import minimize
        from scipy.special import log_softmax
    except ImportError:
        raise ZoplatError("--probe needs a package that is not installed: pip install 'zoplat[eval]'") from None
    x = np.asarray(features, dtype="float64")
    middle, scale = x.mean(axis=0), x.std(axis=0) + 1e-12
    x, seen = (x - middle) / scale, np.asarray(labels)
    classes = int(seen.max()) + 1
    right = np.eye(classes)[seen]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logs = log_softmax(x @ w + bias, axis=1)
        off = np.exp(logs) - right
        value = -(logs * right).sum() + PENALTY / 2 * (w * w).sum()
        return float(value), np.concatenate([(x.T @ off + PENALTY * w).ravel(), off.sum(axis=0)])

    start = np.zeros((x.shape[1] + 1) * classes)
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    w, bias = found[:-classes].reshape(-1, classes), found[-classes:]
    scores = ((np.asarray(others) - middle) / scale) @ w + bias
    return [int(i) for i in scores.argmax(axis=1)]

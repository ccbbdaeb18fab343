"""A linear probe: logistic regression on the features of a frozen model, fitted by scipy."""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.core.errors import ZoplatError

PENALTY = 1.0
"""Coefficient λ of λ/2 · ‖W‖² beside the summed cross-entropy, features being scaled to unit variance."""


def fit_and_predict(
    features: Sequence[Sequence[float]], labels: Sequence[int], others: Sequence[Sequence[float]]
) -> list[int]:
    """Predicted classes of rows, after a fit to other rows whose class is known.

    Args:
        features: (n, width) of the rows that are fitted.
        labels: (n,) their classes, from 0.
        others: (m, width) of the rows to classify; the result has m classes.

    Raises:
        ZoplatError: scipy is not installed.
    """
    import numpy as np

    try:
        from scipy.optimize import minimize
        from scipy.special import log_softmax
    except ImportError:
        raise ZoplatError("--probe needs a package that is not installed: pip install 'zoplat[eval]'") from None
    x, y = np.asarray(features, dtype="float64"), np.asarray(labels)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-12
    x = (x - mean) / scale
    classes = int(y.max()) + 1
    one_hot = np.eye(classes)[y]

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logs = log_softmax(x @ w + bias, axis=1)
        residual = np.exp(logs) - one_hot
        loss = -(logs * one_hot).sum() + PENALTY / 2 * (w * w).sum()
        return float(loss), np.concatenate([(x.T @ residual + PENALTY * w).ravel(), residual.sum(axis=0)])

    start = np.zeros((x.shape[1] + 1) * classes)
    fitted = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    w, bias = fitted[:-classes].reshape(-1, classes), fitted[-classes:]
    scores = ((np.asarray(others) - mean) / scale) @ w + bias
    return [int(number) for number in scores.argmax(axis=1)]

"""How well a graph that rounds activations to 8 bits agrees with the exact one on the slopes of a model. numpy only.

Training reads the difference of two losses. Rounding activations disturbs both, so what must agree is not the loss but
L(θ + εz) − L(θ − εz): the same random directions are probed on both graphs, and the correlation must be high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat_devices.onnx.graph import Graph

EPS, DIRECTIONS = 1e-2, 16
LEAST = 0.9
"""Correlation below which a graph is refused. At 0.76 one of three runs diverged: rounded-activations.md in docs/."""
ANSWERS = (" terrible", " great")
EXAMPLES = [
    Example(f"{text} It was", ANSWERS, label, loss="tokens")
    for text, label in (
        ("The film was long and the food was bad.", 0),
        ("A warm, funny story with a cast that is a joy to watch.", 1),
        ("Nothing works, and nobody answers the phone.", 0),
        ("The plot was thin, but the actors were fine and we laughed.", 1),
        ("I would not pay for this again.", 0),
        ("Quick delivery and exactly what we had ordered.", 1),
        ("Two hours of my life that I will never get back.", 0),
        ("She sings better than ever, and the band keeps up.", 1),
    )
]
"""A batch whose slopes are compared."""
EXACT = f"slopes-{sha256(repr((EPS, DIRECTIONS, EXAMPLES)).encode()).hexdigest()[:12]}.json"
"""File beside a graph: what `differences` finds on the exact one, at the weights of the proof of edits. Its name has a
digest of what is compared, so that it is made again when that changes."""


def differences(graph: Graph, rows: Sequence[Row], arrays: Mapping[str, Any]) -> list[float]:
    """L(θ + εz) − L(θ − εz) along some directions, the same whenever the arrays have the same shapes.

    Args:
        graph: whose trained weights have a leading dimension of points.
        rows: of the batch.
        arrays: θ by name.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(DIRECTIONS):
        z = {name: EPS * random.standard_normal(array.shape, np.float32) for name, array in arrays.items()}
        up, down = graph.losses(
            rows, {name: np.stack([array + z[name], array - z[name]]) for name, array in arrays.items()}
        )
        found.append(up - down)
    return found


def check(exact: Sequence[float], rounded: Sequence[float], model: str) -> float:
    """The correlation of the differences that two graphs found.

    Raises:
        ZoplatError: it is too low to learn from.
    """
    found = float(np.corrcoef(exact, rounded)[0, 1])
    if not found >= LEAST:
        raise ZoplatError(
            f"activations=int8: rounding the activations of {model} changes its slopes: their correlation with the "
            f"exact ones is {found:.2f}, and at least {LEAST} is needed. Leave -o device.activations out."
        )
    return found

"""Small problems with known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zoplat.space.parameter_space import Restore
from zoplat.testing.noise import Vector
from zoplat.testing.toys import Shapes, Toy

SHAPES: Shapes = {"square.weight": (4, 5), "row.weight": (1, 7), "tall.weight": (20, 2), "long.bias": (20,)}
"""A matrix, a matrix of one row, and a matrix and a vector that are longer than a toy's tile."""


def linear(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place") -> Toy:
    """a·θ + c: every difference of losses is exact, whatever ε."""
    start, slope = _normals(shapes, 2)
    return Toy(start, shapes, lambda theta: float(slope @ theta) + 1.5, lambda theta: slope, dtype, restore)


def quadratic(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place") -> Toy:
    """½θᵀHθ with H symmetric, eigenvalues between ½ and about 2½; least, and 0, at θ = 0."""
    return cubic(shapes, dtype, restore, kappa=0.0)


def cubic(shapes: Shapes = SHAPES, dtype: str = "float64", restore: Restore = "in-place", kappa: float = 0.1) -> Toy:
    """½θᵀHθ + κ Σθ³: the least loss whose central differences err, by κε²Σz³."""
    start, *rows = _normals(shapes, 1 + sum(map(math.prod, shapes.values())))
    half = np.array(rows)
    hessian = 0.5 * half @ half.T / len(start) + 0.5 * np.eye(len(start))
    return Toy(
        start,
        shapes,
        lambda theta: float(theta @ hessian @ theta) / 2 + kappa * float((theta**3).sum()),
        lambda theta: hessian @ theta + 3 * kappa * theta**2,
        dtype,
        restore,
    )


def two_layers(dtype: str = "float64", restore: Restore = "in-place", rows: slice = slice(None)) -> Toy:
    """Mean squared error of a network tanh → linear on `rows` of 40 fixed examples with 3 inputs."""
    shapes = {"hidden.weight": (12, 3), "hidden.bias": (12,), "output.weight": (1, 12), "output.bias": (1,)}
    rng = np.random.default_rng(20)
    start = rng.normal(size=61) * 0.5
    inputs = rng.normal(size=(40, 3))
    targets = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]

    def errors(theta: Vector) -> tuple[Vector, Vector]:
        hidden = np.tanh(inputs[rows] @ theta[:36].reshape(12, 3).T + theta[36:48])
        return hidden, hidden @ theta[48:60] + theta[60] - targets[rows]

    def loss(theta: Vector) -> float:
        return float(np.mean(errors(theta)[1] ** 2))

    def gradient(theta: Vector) -> Vector:
        hidden, error = errors(theta)
        error = 2 * error / len(error)
        inner = np.outer(error, theta[48:60]) * (1 - hidden**2)
        parts = (inner.T @ inputs[rows], inner.sum(axis=0), error @ hidden, error.sum())
        return np.concatenate([np.reshape(part, -1) for part in parts])

    return Toy(start, shapes, loss, gradient, dtype, restore)


def like_a_model(toy: Toy) -> Toy:
    """The same toy with the names and layers of a language model's weights, for methods that select weights by name."""
    names = [
        f"layers.{i % 4 // 2}.self_attn.{'qv'[i % 2]}_proj.{'weight' if len(block.shape) == 2 else 'bias'}"
        for i, block in enumerate(toy.blocks)
    ]
    shapes = {name: block.shape for name, block in zip(names, toy.blocks, strict=True)}
    return toy.anew(shapes=shapes, layers={name: int(name[7]) for name in names})


def a_quadratic(**changes: Any) -> Toy:
    """A quadratic with the names of a model's weights; `dtype` and `restore` may be given."""
    return like_a_model(quadratic(**changes))


def a_network(**changes: Any) -> Toy:
    """A network of two layers with the names of a model's weights; `dtype` and `restore` may be given."""
    return like_a_model(two_layers(**changes))


def _normals(shapes: Shapes, count: int) -> Vector:
    return np.random.default_rng(10).normal(size=(count, sum(map(math.prod, shapes.values()))))

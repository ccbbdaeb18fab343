"""Golden runs: 20 steps of every method that forward passes alone make, on seven small blocks, and their digests.

The answers of the runs are recorded, so a replay computes no losses: weights and buffers depend on the answers and on
element-wise arithmetic, which is the same on every machine. Methods that multiply matrices (`@`) in a law or a rule
depend on the machine's BLAS; of those the weights are kept and compared within a tolerance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoplat import Block, Key, Oracle, ParameterSpace, SkipStep
from zoplat.core.losses import RecordedLosses
from zoplat.registry import catalogue
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import Restore
from zoplat.space.rounding import RoundingName
from zoplat.testing import Toy, train

STEPS = 20
SHAPES = {
    "model.embed_tokens.weight": (16, 6),
    "model.layers.0.self_attn.q_proj.weight": (6, 6),
    "model.layers.0.self_attn.q_proj.bias": (6,),
    "model.layers.0.self_attn.v_proj.weight": (5, 6),
    "model.layers.1.mlp.up_proj.weight": (9, 6),
    "model.layers.1.mlp.up_proj.bias": (9,),
    "model.norm.weight": (6,),
}
LAYERS = {name: int(name.split(".")[2]) for name in SHAPES if ".layers." in name}

METHODS: dict[str, dict[str, Any]] = {
    "adamezo": {},
    "agzo": {"rank": 2, "interval": 3},
    "block-zo": {},
    "bszo": {},
    "conmezo": {},
    "dizo": {"every": 4, "rounds": 2},
    "dp": {"clip": 0.2, "noise": 0.5},
    "eggroll": {"queries": 2},
    "es": {"queries": 3},
    "forward-grad": {},
    "fzoo": {"queries": 3},
    "fzoo-r": {"queries": 4},
    "grzo": {},
    "hizoo": {"smooth": 1e-3},
    "kerzoo": {"queries": 2},
    "lozo": {"sampler.interval": 7},
    "lozo-m": {"sampler.interval": 7},
    "meazo": {},
    "mezo": {},
    "mezo-layerwise": {},
    "mezo-svrg": {"anchor_batches": 2},
    "one-point": {},
    "sparse-mezo": {},
    "sparse-zo": {"interval": 6},
    "subzero": {"sampler.interval": 7, "sampler.rank": 3},
    "tezo": {"sampler.rank": 3},
    "zo-adam": {},
    "zo-muon": {"queries": 2, "sampler.rank": 4},
    "zo-sgd": {},
    "zo-sgd-cons": {},
    "zo-sgd-mmt": {},
    "zo-sgd-sign": {},
}
"""The registered methods, with shorter periods and fewer directions."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mezo, sphere": ("mezo", {"sampler": "sphere"}),
    "mezo, uniform": ("mezo", {"sampler": "uniform"}),
    "mezo, masked": ("mezo", {"sampler": "masked", "sampler.interval": 6}),
    "mezo, rademacher, three": ("mezo", {"sampler": "rademacher", "queries": 3}),
    "mezo, one-sided": ("mezo", {"queries": 3, "side": "one"}),
    "mezo, fresh batches": ("mezo", {"queries": 2, "batches": "fresh"}),
    "mezo, conservative": ("mezo", {"rule": "conservative"}),
    "mezo, meazo": ("mezo", {"rule": "meazo", "queries": 2, "rule.schedule.decay": 0.1}),
    "mezo, momentum by name": ("mezo", {"rule": "momentum", "rule.keep": 5}),
    "mezo, adam": ("mezo", {"rule": "adam", "rule.schedule.decay": 0.1}),
    "mezo, sign of slopes": ("mezo", {"rule": "sign", "rule.form": "scalar"}),
    "mezo, projected": ("mezo", {"sampler": "projected", "sampler.rank": 4}),
    "lozo, two, decay": ("lozo", {"queries": 2, "sampler.interval": 3, "rule.decay": 0.05}),
    "lozo-m, rank 2, two, decay": (
        "lozo-m",
        {"queries": 2, "sampler.interval": 3, "sampler.rank": 2, "rule.schedule.decay": 0.05},
    ),
    "sparse-zo, magnitude": ("sparse-zo", {"scores": "magnitude", "interval": 6}),
    "sparse-zo, magnitude, smallest": ("sparse-zo", {"scores": "magnitude", "interval": 6, "keep": "smallest"}),
    "sparse-zo, wanda": ("sparse-zo", {"scores": "wanda", "interval": 6}),
    "sparse-mezo, interval": ("sparse-mezo", {"interval": 4}),
    "mezo-layerwise, gradient": ("mezo-layerwise", {"norm": "gradient", "interval": 5, "by_size": True}),
    "mezo-layerwise, single": (
        "mezo-layerwise",
        {"single": True, "form": "expectation", "interval": 5, "beta": 0.5},
    ),
    "block-zo, jacobi": ("block-zo", {"order": "jacobi", "by": "module"}),
    "hizoo, debiased": ("hizoo", {"debiased": True, "step_with": "new"}),
    "mezo-svrg, shared": ("mezo-svrg", {"is_shared": True, "anchor_batches": 2}),
    "grzo, rademacher, decay": ("grzo", {"sampler.base": "rademacher", "rule.decay": 0.1}),
    "grzo, low-rank": ("grzo", {"sampler.base": "low-rank"}),
    "bszo, measured again": ("bszo", {"queries": 3, "extra": 2, "remeasure": True, "rule.decay": 0.1}),
    "es, ranks": ("es", {"queries": 4, "shaping": "ranks"}),
    "lozo, adamezo, two, decay": (
        "lozo",
        {"rule": "adamezo", "rule.window": 4, "rule.schedule.decay": 0.1, "queries": 2, "sampler.interval": 3},
    ),
    "zo-muon, leading": (
        "zo-muon",
        {"queries": 2, "sampler.rank": 4, "sampler.interval": 7, "leading": 2, "beta": 0.5},
    ),
    "grzo, adamezo": ("grzo", {"rule": "adamezo", "rule.window": 3}),
}

WITH_MATRIX_PRODUCTS = {"subzero", "zo-muon", "lozo-m", "mezo, projected", "lozo-m, rank 2, two, decay"} | {
    "zo-muon, leading"
}
"""Cases whose laws or rules use `@`: compared within a tolerance."""

FORMS: dict[str, tuple[str, Restore, RoundingName, str]] = {
    "float32": ("float32", "in-place", "nearest", "sequential"),
    "float32, batched": ("float32", "in-place", "nearest", "batched"),
    "float32, side terms": ("float32", "in-place", "nearest", "side-terms"),
    "float32, exact restore": ("float32", "exact", "nearest", "sequential"),
    "bfloat16": ("bfloat16", "in-place", "nearest", "sequential"),
    "float16, stochastic": ("float16", "exact", "stochastic", "sequential"),
    "float16, master": ("float16", "exact", "master", "sequential"),
}
"""dtype, restore, rounding and evaluation strategy in which the same answers are replayed."""


def cases() -> Iterator[tuple[str, Any]]:
    """Every case by name, with its method."""
    for name, settings in METHODS.items():
        yield name, method(name, settings)
    for name, (base, settings) in VARIANTS.items():
        yield name, method(base, settings)


def method(name: str, settings: dict[str, Any]) -> Any:
    """A registered method with a larger step size and other settings, by dotted path; parts by their names."""
    found = catalogue().entry("estimator", name).value
    for path, value in settings.items():
        known = {"sampler": "sampler", "sampler.base": "sampler", "rule": "step-rule"}.get(path)
        found = _changed(found, path, catalogue().entry(known, value).value if known else value)
    for path in ("rule.lr", "rule.schedule.lr"):
        if path not in settings and _has(found, path):
            found = _changed(found, path, 1e-3)
    return found


def start() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Weights between −½ and ½ that every machine computes alike."""
    count = sum(map(math.prod, SHAPES.values()))
    return (np.arange(1, count + 1) * 40503 % 65536 - 32768) / 65536


def record(method: Any) -> list[list[float]]:
    """The answers of a run with float32 weights on a weighted quadratic."""
    weights = 0.5 + np.arange(start().size) % 7 / 4
    toy = Toy(
        start(),
        SHAPES,
        lambda theta: round(float(weights @ (theta - 0.25) ** 2) / theta.size, 9),
        lambda theta: 2 * weights * (theta - 0.25) / theta.size,
        "float32",
        layers=LAYERS,
    )
    return [[round(answer, 9) for answer in step] for step in train(toy, method, STEPS)]


def blocks(dtype: str) -> list[Block]:
    """Fresh blocks at the start."""
    made, at = [], 0
    for name, shape in SHAPES.items():
        array: Any = start()[at : at + math.prod(shape)].reshape(shape).astype(dtype)
        made.append(Block(name, array, dtype, LAYERS.get(name), decays=len(shape) == 2))
        at += array.size
    return made


def replay(method: Any, answers: Sequence[Sequence[float]], backend: Backend, form: str) -> ParameterSpace:
    """The space after a run of these answers."""
    dtype, restore, rounding, strategy = FORMS[form]
    space = ParameterSpace(blocks(dtype), backend, restore, rounding)
    state, rule_state = method.init(space), method.rule.init_for(space, method.law)
    for step, each in enumerate(answers):
        oracle = Oracle(space, Key(0, step, 0), step / len(answers), RecordedLosses(step, each, strategy))
        try:
            for estimate in method.estimate(oracle, state):
                method.rule.apply(estimate, oracle, rule_state)
        except SkipStep:
            continue
    space.settle()
    return space


def digest(space: ParameterSpace) -> str:
    """sha256 of all weights and buffers, of which the first 24 digits."""
    found = hashlib.sha256()
    for arrays in ({block.name: block.array for block in space.blocks}, *(b.arrays for b in space.buffers)):
        for name in sorted(arrays):
            found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()[:24]


def weights(space: ParameterSpace) -> list[float]:
    """All weights, to seven decimals."""
    values = np.concatenate([np.asarray(block.array, np.float64).reshape(-1) for block in space.blocks])
    return [round(float(value), 7) for value in values]


def _changed(part: Any, path: str, value: Any) -> Any:
    head, _, rest = path.partition(".")
    return replace(part, **{head: _changed(getattr(part, head), rest, value) if rest else value})


def _has(part: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True

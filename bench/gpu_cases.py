"""What `make bench-gpu` measures, and the bars that its figures have to meet: one table for program, tests and page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.cases import Pair, Setup, Variant, published_step, zoplat_step

MODELS = ("opt-13b", "opt-1.3b", "llama-7b")
"""In order of worth."""
SHAPE = (16, 128)
PARTS = {
    "tests": 110.0,
    "passes": 25.0,
    "steps of opt-13b": 100.0,
    "steps of opt-1.3b": 75.0,
    "steps of llama-7b": 55.0,
    "peaks of published steps": 30.0,
    "main job": 40.0,
    "ten runs": 25.0,
}
"""Parts in order of worth → seconds that each is expected to take, of eight minutes; opening takes the rest."""
TESTS = "pytest -m gpu"
JOB = "zoplat run --estimator lozo"
JOB_PASSES = 600
"""Forward passes of the main job, for which its bar is set."""
RUNS = "ten runs in one process"
RECORDED: dict[str, Any] = {"record": True}
"""The option that has steps recorded; on CUDA alone."""

GAUSSIAN, SIGNS = zoplat_step("mezo, gaussian", "mezo"), zoplat_step("mezo, rademacher", "mezo", sampler="rademacher")
LOW_RANK = (zoplat_step("lozo", "lozo"), Variant("lozo-m", {"estimator": "lozo-m"}, zoplat_step("", "lozo").strategy))
NINE = (zoplat_step("fzoo, rademacher", "fzoo"), zoplat_step("fzoo, low-rank", "fzoo", sampler="low-rank"))
INFERENCE = (Variant("inference, as set"), Variant("inference, eager", eager=True))
ADAPTERS = (
    zoplat_step("mezo, gaussian", "mezo", "batched"),
    zoplat_step("fzoo, rademacher", "fzoo", "batched"),
)
RECOMPUTED = tuple(map(published_step, ("AdamW, recomputed", "SGD, recomputed")))
STATEFUL = {"hizoo": "HiZOO", "zo-adam": "ZO-Adam", "zo-sgd-mmt": "ZO-SGD-MMT"}
"""Methods that keep state for each weight → their published steps."""
BARE_PEAKS = tuple(map(published_step, ("MeZO", "LOZO", "SGD, recomputed")))
"""Steps whose peak is measured on a model alone."""


def setups(model: str, kind: str = "cuda") -> dict[str, Setup]:
    """The setups of a model, by the word that bars have for them."""
    recorded = RECORDED if kind == "cuda" else {}
    in_place = {"restore": "in-place"}
    return {
        "in place": Setup(model, dtype="bfloat16", device={**in_place, **recorded}),
        "exact": Setup(model, dtype="bfloat16", device={"restore": "exact"}),
        "LoRA": Setup(model, "lora", "bfloat16"),
        "in place, not recorded": Setup(model, dtype="bfloat16", device={**in_place, "record": False}),
    }


def pairs(model: str, kind: str = "cuda") -> list[Pair]:
    """All pairs of a model, in order of worth; those with state for the smaller shape alone."""
    setup = setups(model, kind)
    in_place, exact, lora = setup["in place"], setup["exact"], setup["LoRA"]
    found = [
        Pair("mezo", in_place, (GAUSSIAN, SIGNS, *INFERENCE, published_step("MeZO")), (SHAPE,)),
        *(state(in_place, *names) for names in STATEFUL.items() if model in ("opt-1.3b", "tiny")),
        Pair("lozo", exact, (*LOW_RANK, published_step("LOZO")), (SHAPE,)),
        Pair("mezo", exact, (GAUSSIAN, SIGNS, published_step("MeZO")), (SHAPE,)),
        Pair("fzoo", exact, NINE, (SHAPE,)),
        Pair("lora", lora, ADAPTERS, (SHAPE,)),
        Pair("backpropagation", lora, RECOMPUTED[:1], (SHAPE,)),
    ]
    if model in ("opt-1.3b", "tiny"):
        found.append(Pair("mezo", setup["in place, not recorded"], (GAUSSIAN, SIGNS), (SHAPE,)))
        found.append(Pair("backpropagation", setup["in place, not recorded"], RECOMPUTED, (SHAPE,)))
    return sorted(found, key=lambda one: [*setup.values()].index(one.setup))


def state(setup: Setup, name: str, published: str) -> Pair:
    """A method with state, and its published step."""
    return Pair(name, setup, (zoplat_step(name, name), published_step(published)), (SHAPE,))


@dataclass(frozen=True)
class Bar:
    """A bar for a figure of the results.

    Attributes:
        kind: how the figure is found, see `gpu_figures.KINDS`.
        case: which one.
        bar: the most that it may be, or with `at_least` the least.
        unit: of both.
    """

    kind: str
    case: tuple[Any, ...] = ()
    bar: float = 1.0
    at_least: bool = False
    unit: str = ""


def _steps(models: tuple[str, ...], setup: str, limits: dict[str, float]) -> list[Bar]:
    return [Bar("step", (model, setup, step), bar) for model in models for step, bar in limits.items()]


LARGE = ("opt-13b", "llama-7b")
ADAM_BYTES, MOMENTUM_BYTES, HESSIAN_BYTES = 16, 8, 16
"""Bytes of float32 state that a step reads and writes for a weight: two moments read and written; one; curvature
read by two probes, and read and written by the update."""

BARS = (
    Bar("tests", (), 0),
    Bar("replays", (), 0),
    *_steps(LARGE, "in place", {"mezo, rademacher": 1.30, "mezo, gaussian": 1.40}),
    *_steps(LARGE, "exact", {"mezo, rademacher": 1.42, "mezo, gaussian": 1.50, "lozo": 1.05, "lozo-m": 1.05}),
    *_steps(LARGE, "LoRA", {"mezo, gaussian, batched": 1.02}),
    *_steps(LARGE, "exact", {"fzoo, rademacher": 1.20, "fzoo, low-rank": 1.03}),
    *_steps(("opt-1.3b",), "in place", {"mezo, rademacher": 1.30, "mezo, gaussian": 1.40}),
    *_steps(("opt-1.3b",), "exact", {"lozo": 1.08}),
    Bar("traffic", ("opt-1.3b", "hizoo", HESSIAN_BYTES), 1.10),
    Bar("traffic", ("opt-1.3b", "zo-adam", ADAM_BYTES), 1.10),
    Bar("traffic", ("opt-1.3b", "zo-sgd-mmt", MOMENTUM_BYTES), 1.10),
    *(
        Bar("gain", (model, setup, step), bar, at_least=True)
        for model, bar in (("opt-13b", 2.5), ("opt-1.3b", 4.0))
        for setup, step in (("in place", "mezo, gaussian"), ("exact", "lozo"))
    ),
    *(
        Bar("pass", (dtype, f"{law}, 1 draw"), bar)
        for dtype in ("bfloat16", "float32")
        for law, bar in (("rademacher", 1.15), ("gaussian", 1.40), ("low-rank", 1.20))
    ),
    Bar("job", (), 5, unit=" s"),
    *(Bar(kind, (model,), 1.03) for kind in ("peak", "held") for model in ("opt-13b", "opt-1.3b", "llama-7b")),
    Bar("runs", (), 1.01),
)

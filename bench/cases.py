"""The cases that are measured and the bars they have to meet: one table for all programs, the tests and the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from zoplat.core.losses import SIDE_TERMS
from zoplat.core.model_spec import Base

Shape = tuple[int, int]
"""Rows and tokens of a batch."""
ONE, FOUR, SIXTEEN = (1, 32), (4, 64), (16, 64)
ALL = (ONE, FOUR, SIXTEEN)

PUBLISHED_GAINS = {ONE: 10.0, FOUR: 3.5, SIXTEEN: 1.0}
"""Bars: the least speed-up over the published step, by shape."""
RATE = 0.90
"""Bar: the least rate of batched points along low-rank directions or of adapters, over rows of plain inference."""
STATELESS = 0.02
"""Bar: the most memory above inference without declared state and kernels, as a share of the weights."""


@dataclass(frozen=True)
class Setup:
    """How a model is opened.

    Attributes:
        model: one of `models.SHAPES`, or what `zoplat run --model` takes.
        tune, dtype: as the flags of `zoplat run`.
        device: options of the device.
    """

    model: str
    tune: str = "full"
    dtype: str = "float32"
    device: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in results and in --only."""
        options = (_option(name, value) for name, value in self.device.items())
        return "/".join([self.model, self.tune, self.dtype, *options])


@dataclass(frozen=True)
class Variant:
    """One implementation of a step.

    Attributes:
        name: in tables.
        settings: of zoplat, as keywords of `zoplat.run`; empty for a published step and for inference.
        strategy: evaluation strategy, as a journal names it.
        published: a name in `published.STEPS`; empty for a step of zoplat and for inference.
        eager: whether inference runs the model eagerly where a session would replay a recording.
        bars: by shape, the most that the time of a step divided by that of its forward passes may be.
        usual: whether `make bench` measures it.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    strategy: str = "sequential"
    published: str = ""
    eager: bool = False
    bars: dict[Shape, float] = field(default_factory=dict)
    usual: bool = True

    @property
    def is_batched(self) -> bool:
        """Whether the points of a step are stacked as rows of one pass."""
        return self.strategy in ("batched", SIDE_TERMS["batched"])


@dataclass(frozen=True)
class Pair:
    """Variants of a step that are measured interleaved: those of zoplat, and the published step beside them.

    Attributes:
        name: its name in results and in --only.
        setup: how the model is opened, for all of them.
        variants: in the order of the tables.
        shapes: of the batches.
    """

    name: str
    setup: Setup
    variants: tuple[Variant, ...]
    shapes: tuple[Shape, ...] = ALL

    @property
    def key(self) -> str:
        """Setup and name; unique among all pairs."""
        return f"{self.setup.name}/{self.name}"

    def label(self, shape: Shape) -> str:
        """The label that --only is matched against."""
        return f"step/{self.key}/{shape[0]}x{shape[1]}"


def _option(name: str, value: Any) -> str:
    """An option of a device in the name of a setup."""
    return (name if value else f"no {name}") if isinstance(value, bool) else str(value)


def zoplat_step(
    name: str, estimator: str, strategy: str = "sequential", sampler: str | None = None, **given: Any
) -> Variant:
    """A step of zoplat, with another sampler than the method's own where one is given."""
    parts = {"estimator": estimator, **({"sampler": sampler} if sampler else {})}
    evaluated = SIDE_TERMS[strategy] if estimator == "lozo" or sampler == "low-rank" else strategy
    return Variant(f"{name}, batched" if strategy == "batched" else name, parts, evaluated, **given)


def published_step(name: str) -> Variant:
    """A published step."""
    return Variant(f"published {name}", published=name)


DENSE = {ONE: 1.30, FOUR: 1.12, SIXTEEN: 1.05}
BATCHED = {ONE: 0.85, FOUR: 1.00}
SIDE_TERM = {ONE: 1.05, FOUR: 1.02, SIXTEEN: 1.01}
STATEFUL = {SIXTEEN: 1.15}
NARROW = {SIXTEEN: 1.10}
NINE = {ONE: 0.60}

MEZO = (
    zoplat_step("mezo, gaussian", "mezo", bars=DENSE),
    zoplat_step("mezo, rademacher", "mezo", sampler="rademacher", bars={**DENSE, ONE: 1.20}),
    zoplat_step("mezo, gaussian", "mezo", "batched", usual=False),
    zoplat_step("mezo, rademacher", "mezo", "batched", "rademacher", usual=False),
)
LOZO = (
    zoplat_step("lozo", "lozo", bars=SIDE_TERM),
    zoplat_step("lozo", "lozo", "batched", bars={**BATCHED, ONE: 0.88}),
)
FZOO = (
    zoplat_step("fzoo, rademacher", "fzoo"),
    zoplat_step("fzoo, rademacher", "fzoo", "batched"),
    zoplat_step("fzoo, low-rank", "fzoo", sampler="low-rank", usual=False),
    zoplat_step("fzoo, low-rank", "fzoo", "batched", "low-rank", bars=NINE),
)
BACKPROPAGATION = tuple(map(published_step, ("SGD", "SGD, recomputed", "AdamW", "AdamW, recomputed")))


def cpu(model: str) -> list[Pair]:
    """All pairs of one model on a processor."""
    full = Setup(model)
    ends = (ONE, SIXTEEN)
    return [
        Pair("mezo", full, (*MEZO, published_step("MeZO"))),
        Pair("lozo", full, (*LOZO, published_step("LOZO"))),
        Pair("fzoo", full, (*FZOO, published_step("FZOO")), (ONE, FOUR)),
        Pair("hizoo", full, (zoplat_step("hizoo", "hizoo", bars=STATEFUL), published_step("HiZOO")), ends),
        Pair("zo-adam", full, (zoplat_step("zo-adam", "zo-adam", bars=STATEFUL), published_step("ZO-Adam")), ends),
        Pair("zo-sgd-mmt", full, (zoplat_step("zo-sgd-mmt", "zo-sgd-mmt"), published_step("ZO-SGD-MMT")), ends),
        Pair("zo-sgd-sign", full, (zoplat_step("zo-sgd-sign", "zo-sgd-sign"), published_step("ZO-SGD-Sign")), ends),
        Pair("zo-sgd-cons", full, (zoplat_step("zo-sgd-cons", "zo-sgd-cons"), published_step("ZO-SGD-Cons")), ends),
        Pair("backpropagation", full, BACKPROPAGATION),
        *narrow(model),
        *(lora(model, dtype) for dtype in ("float32", "bfloat16")),
    ]


def narrow(model: str) -> list[Pair]:
    """All weights in bfloat16: probes beside the weights or in place, updates rounded to nearest or stochastically."""
    gaussian = zoplat_step("mezo, gaussian", "mezo", bars=NARROW)
    others = tuple(replace(variant, usual=False, bars={}) for variant in (MEZO[2], *LOZO))
    options: tuple[tuple[dict[str, Any], tuple[Variant, ...]], ...] = (
        ({"restore": "exact", "rounding": "nearest"}, (gaussian, *others)),
        ({"restore": "exact", "rounding": "stochastic"}, (gaussian,)),
        ({"restore": "in-place"}, (gaussian, published_step("MeZO"))),
    )
    return [
        Pair("mezo", Setup(model, dtype="bfloat16", device=device), variants, (ONE, SIXTEEN))
        for device, variants in options
    ]


def lora(model: str, dtype: str) -> Pair:
    """LoRA adapters in float32 on a base of another precision."""
    variants = (
        zoplat_step("mezo, gaussian", "mezo"),
        zoplat_step("mezo, gaussian", "mezo", "batched", bars=BATCHED),
        zoplat_step("fzoo, rademacher", "fzoo"),
        zoplat_step("fzoo, rademacher", "fzoo", "batched", bars=NINE),
    )
    return Pair("lora", Setup(model, "lora", dtype), variants, (ONE, FOUR))


PACKAGED = ("full/float32/mezo", "full/float32/lozo", "lora/bfloat16/lora")
"""Pairs of the packaged model that `make bench` measures; the others need --all."""


def usual(pairs: Iterable[Pair], every: bool = False) -> list[Pair]:
    """The pairs and variants that `make bench` measures; with `every`, the others too."""
    chosen = [pair for pair in pairs if every or pair.setup.model != "smollm2-135m" or pair.key.endswith(PACKAGED)]
    return [
        replace(pair, variants=tuple(variant for variant in pair.variants if every or variant.usual)) for pair in chosen
    ]


@dataclass(frozen=True)
class Engine:
    """A runtime that evaluates the losses of steps on adapters.

    Attributes:
        name: in tables.
        device: its registered name.
        options: of the device.
        dtype, base: as the flags of `zoplat run`.
        times: bar: the least speed-up of its quicker strategy over PyTorch in float32.
        peak: bar: the most that its peak memory divided by that of PyTorch in float32 may be.
    """

    name: str
    device: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    dtype: str = "float32"
    base: Base = "plain"
    times: float | None = None
    peak: float | None = None


PACKED = {"prepack": True}
TORCH = Engine("PyTorch, float32", "cpu")
ENGINES = (
    TORCH,
    Engine("PyTorch, bfloat16 base", "cpu", dtype="bfloat16"),
    Engine("ONNX Runtime, float32", "onnx", times=2.0),
    Engine("ONNX Runtime, float32, packed", "onnx", PACKED, times=2.0),
    Engine("ONNX Runtime, int8 base", "onnx", base="int8", times=3.5, peak=0.5),
    Engine("ONNX Runtime, int8 base, packed", "onnx", PACKED, base="int8", times=3.5),
)
STRATEGIES = ("sequential", "batched")

ON_CPU = ("opt-125m", "smollm2-135m")

"""What is measured, and the bars it is held against: one table for both programs, the tests and the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from zoplat.core.model_spec import Base
from zoplat.space.parameter_space import MAX_DEFERRED_TERMS

Shape = tuple[int, int]
"""Rows and tokens of a batch."""
ONE, FOUR, SIXTEEN = (1, 32), (4, 64), (16, 64)
ALL = (ONE, FOUR, SIXTEEN)
ON_GPU = (16, 128)

PUBLISHED_GAINS = {ONE: 10.0, FOUR: 3.5, SIXTEEN: 1.0}
"""Bars: how many times as fast as the published step, at least."""
STATELESS = 0.02
"""Bar: memory above inference beside declared state and kernels, in shares of the weights."""


@dataclass(frozen=True)
class Setup:
    """How a model is opened.

    Attributes:
        model: one of `models.SHAPES`, or what `zoplat run --model` takes.
        tune, dtype: as flags.
        device: options of the device.
    """

    model: str
    tune: str = "full"
    dtype: str = "float32"
    device: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its rows, and in --only."""
        return "/".join([self.model, self.tune, self.dtype, *map(str, self.device.values())])


@dataclass(frozen=True)
class Way:
    """One way to make a step.

    Attributes:
        name: in tables.
        settings: of zoplat, as keywords of `zoplat.run`; empty for a published step.
        strategy: how its losses are found.
        steps: that are timed together; more than one where some of them make a pass over the weights for the others.
        published: a name in `published.STEPS`.
        bars: by shape, the most that seconds of a step over those of its forward passes may be.
        peak: the most that its peak memory over that of inference may be, where a bar says so.
        usual: whether `make bench` has it.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    strategy: str = "sequential"
    steps: int = 1
    published: str = ""
    bars: dict[Shape, float] = field(default_factory=dict)
    peak: float | None = None
    usual: bool = True


@dataclass(frozen=True)
class Pair:
    """Ways that are measured together, turn by turn.

    Attributes:
        name: of the pair, in --only.
        setup: what they share.
        ways: zoplat's, and the published ones beside them.
        shapes: of the batches.
    """

    name: str
    setup: Setup
    ways: tuple[Way, ...]
    shapes: tuple[Shape, ...] = ALL

    @property
    def key(self) -> str:
        """Setup and name."""
        return f"{self.setup.name}/{self.name}"

    def label(self, shape: Shape) -> str:
        """What --only is matched against."""
        return f"step/{self.key}/{shape[0]}x{shape[1]}"


def ours(name: str, estimator: str, strategy: str = "sequential", sampler: str | None = None, **given: Any) -> Way:
    """A method of zoplat, with its law of z where that is not its own."""
    parts = {"estimator": estimator, **({"sampler": sampler} if sampler else {})}
    steps = MAX_DEFERRED_TERMS + 1 if strategy == "batched" and estimator == "lozo" else 1
    return Way(f"{name}, batched" if strategy == "batched" else name, parts, strategy, steps, **given)


def peer(name: str) -> Way:
    """A published step."""
    return Way(f"published {name}", published=name)


DENSE = {ONE: 1.30, FOUR: 1.12, SIXTEEN: 1.05}
BATCHED = {ONE: 0.85, FOUR: 1.00}
STATEFUL = {SIXTEEN: 1.15}
NARROW = {SIXTEEN: 1.10}
NINE = {ONE: 0.60}

MEZO = (
    ours("mezo, gaussian", "mezo", bars=DENSE),
    ours("mezo, rademacher", "mezo", sampler="rademacher", bars={**DENSE, ONE: 1.20}),
    ours("mezo, gaussian", "mezo", "batched", usual=False),
    ours("mezo, rademacher", "mezo", "batched", "rademacher", usual=False),
)
LOZO = (ours("lozo", "lozo", bars=DENSE), ours("lozo", "lozo", "batched", bars=BATCHED))
FZOO = (
    ours("fzoo, rademacher", "fzoo"),
    ours("fzoo, rademacher", "fzoo", "batched"),
    ours("fzoo, low-rank", "fzoo", sampler="low-rank", usual=False),
    ours("fzoo, low-rank", "fzoo", "batched", "low-rank", bars=NINE),
)
BACKPROPAGATION = tuple(map(peer, ("SGD", "SGD, recomputed", "AdamW", "AdamW, recomputed")))


def cpu(model: str) -> list[Pair]:
    """All pairs of one model on a processor."""
    full = Setup(model)
    ends = (ONE, SIXTEEN)
    return [
        Pair("mezo", full, (*MEZO, peer("MeZO"))),
        Pair("lozo", full, (*LOZO, peer("LOZO"))),
        Pair("fzoo", full, (*FZOO, peer("FZOO")), (ONE, FOUR)),
        Pair("hizoo", full, (ours("hizoo", "hizoo", bars=STATEFUL), peer("HiZOO")), ends),
        Pair("zo-adam", full, (ours("zo-adam", "zo-adam", bars=STATEFUL), peer("ZO-Adam")), ends),
        Pair("zo-sgd-mmt", full, (ours("zo-sgd-mmt", "zo-sgd-mmt"), peer("ZO-SGD-MMT")), ends),
        Pair("zo-sgd-sign", full, (ours("zo-sgd-sign", "zo-sgd-sign"), peer("ZO-SGD-Sign")), ends),
        Pair("zo-sgd-cons", full, (ours("zo-sgd-cons", "zo-sgd-cons"), peer("ZO-SGD-Cons")), ends),
        Pair("backpropagation", full, BACKPROPAGATION),
        *narrow(model),
        *(lora(model, dtype) for dtype in ("float32", "bfloat16")),
    ]


def narrow(model: str) -> list[Pair]:
    """All weights in bfloat16: probes beside the weights or in them, updates to nearest or by chance."""
    gaussian = ours("mezo, gaussian", "mezo", bars=NARROW)
    others = tuple(replace(way, usual=False, bars={}) for way in (MEZO[2], *LOZO))
    options: tuple[tuple[dict[str, Any], tuple[Way, ...]], ...] = (
        ({"restore": "exact", "rounding": "nearest"}, (gaussian, *others)),
        ({"restore": "exact", "rounding": "stochastic"}, (gaussian,)),
        ({"restore": "in-place"}, (gaussian, peer("MeZO"))),
    )
    return [
        Pair("mezo", Setup(model, dtype="bfloat16", device=device), ways, (ONE, SIXTEEN)) for device, ways in options
    ]


def lora(model: str, dtype: str) -> Pair:
    """Adapters in float32 on a base of some precision."""
    ways = (
        ours("mezo, gaussian", "mezo"),
        ours("mezo, gaussian", "mezo", "batched", bars=BATCHED),
        ours("fzoo, rademacher", "fzoo"),
        ours("fzoo, rademacher", "fzoo", "batched", bars=NINE),
    )
    return Pair("lora", Setup(model, "lora", dtype), ways, (ONE, FOUR))


PACKAGED = ("full/float32/mezo", "full/float32/lozo", "lora/bfloat16/lora")
"""What of the packaged model `make bench` has; the rest of its pairs come with --all."""


def usual(pairs: Iterable[Pair], every: bool = False) -> list[Pair]:
    """Pairs and ways that `make bench` has; with `every`, the others too."""
    chosen = [pair for pair in pairs if every or pair.setup.model != "smollm2-135m" or pair.key.endswith(PACKAGED)]
    return [replace(pair, ways=tuple(way for way in pair.ways if every or way.usual)) for pair in chosen]


def gpu(model: str) -> list[Pair]:
    """All pairs of one model on a GPU, those that hold much state last."""
    full = Setup(model, dtype="bfloat16")
    bars, peak = ({ON_GPU: 1.10}, 1.03) if model == "opt-13b" else ({}, None)
    two_sided = (
        ours("mezo, gaussian", "mezo", bars=bars, peak=peak),
        ours("mezo, rademacher", "mezo", sampler="rademacher", bars=bars, peak=peak),
    )
    return [
        Pair("mezo", full, (*two_sided, peer("MeZO")), (ON_GPU,)),
        Pair("lozo", full, (ours("lozo", "lozo", bars=bars, peak=peak), ours("lozo", "lozo", "batched")), (ON_GPU,)),
        Pair("fzoo", full, (ours("fzoo, rademacher", "fzoo"),), (ON_GPU,)),
        Pair("hizoo", full, (ours("hizoo", "hizoo"),), (ON_GPU,)),
    ]


@dataclass(frozen=True)
class Engine:
    """What answers the losses of steps on adapters.

    Attributes:
        name: in tables.
        device: as a flag, and options of it.
        dtype, base: as flags.
        times: bar: how many times as fast as PyTorch in float32 its quicker strategy is, at least.
        peak: bar: the most that its peak memory over that of PyTorch in float32 may be.
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
ON_CUDA = ("opt-1.3b", "opt-13b", "llama-7b")

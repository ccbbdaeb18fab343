"""The numpy device: a small, slow, readable example of all that a device does.

Its model is a two-layer network over a bag of hashed words. It learns any task of the catalogue a little and opens in a
millisecond, which suits tests and first experiments with a plugin.
"""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoplat.core.blocks import Block
from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.memory import MemoryReading
from zoplat.core.model_spec import ModelSpec
from zoplat.hookspecs import hookimpl
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import ParameterSpace, Restore
from zoplat.space.rounding import RoundingName
from zoplat_devices.arrays import ArraySession

WORDS, WIDTH = 512, 24
SHAPES = {"words": (WORDS, WIDTH), "hidden": (WIDTH, WIDTH), "hidden_bias": (WIDTH,), "options": (WORDS, WIDTH)}


@dataclass(frozen=True)
class Reference(Device):
    """numpy on the processor, with a small bag-of-words network as its only model.

    Attributes:
        restore: "in-place" writes each perturbation into the weights and subtracts it again; "exact" evaluates
            perturbed copies, so that the stored weights stay at θ.
        rounding: of updates to float16 weights: "nearest"; "stochastic", up or down at random with the result as
            expected value; "master", from a float32 copy. The latter two need exact restore.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses", "row losses", "features"})
    takes_models: ClassVar[bool] = False
    restore: Restore = "in-place"
    rounding: RoundingName = "nearest"

    def missing(self) -> str | None:
        return None

    def open(self, spec: ModelSpec) -> "ReferenceSession":
        if spec.model is not None:
            raise ZoplatError(
                f"Device 'reference' has only its own bag-of-words model; it can't open '{spec.model}'. "
                "Leave --model out, or use --device cpu."
            )
        if spec.base != "plain":
            raise ZoplatError("Device 'reference' has no frozen weights to hold as int8. Leave --base out.")
        return ReferenceSession(self, spec)

    def reader(self, spec: ModelSpec, fetches: bool = False) -> "ReferenceSession":
        return self.open(spec)


class ReferenceSession(ArraySession):
    """The bag-of-words network, opened."""

    def release(self) -> None:
        """Nothing: it has no tokenizer."""

    def __init__(self, device: Reference, spec: ModelSpec) -> None:
        import numpy as np

        from zoplat_devices.kernels.noise import ReferenceNoise
        from zoplat_devices.memory import HostMemory, empty, mapped

        dtype = "float32" if spec.dtype == "auto" else spec.dtype
        if dtype == "bfloat16":
            raise ZoplatError("Device 'reference' computes with numpy, which has no bfloat16. Use --dtype float32.")
        start = np.random.default_rng(spec.seed)
        self.np = np
        self.weights = {
            name: (start.standard_normal(shape) / math.sqrt(WIDTH)).astype(dtype) for name, shape in SHAPES.items()
        }
        try:
            chosen = [name for name in SHAPES if spec.tune.name == "full" or re.search(spec.tune.name, name)]
        except re.error as problem:
            raise ZoplatError(f"--tune {spec.tune.name}: not a regular expression ({problem}).") from None
        blocks = [device.block(name, self.weights[name], dtype) for name in chosen]
        if not blocks:
            raise ZoplatError(f"--tune {spec.tune.name} finds no weight; there are {', '.join(SHAPES)}.")
        backend = Backend(ReferenceNoise(), empty, mapped)
        self.space = ParameterSpace(blocks, backend, device.restore, device.rounding, spec.seed)
        self.host = HostMemory()
        self.facts = {
            "device": "reference",
            "model": "bag-of-words",
            "dtype": dtype,
            "restore": device.restore,
            "rounding": device.rounding,
            "threads": 1,
            "versions": {"numpy": np.__version__},
            "trainable_parameters": self.space.size,
            "model_bytes": sum(array.nbytes for array in self.weights.values()),
        }

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        return [
            Row(example, len(words), (words, [_hash(option) for option in example.options]))
            for example in examples
            for words in [[_hash(word) for word in re.findall(r"\w+", example.prompt)] or [0]]
        ]

    def forward(self, rows: Sequence[Row]) -> float:
        weights, total = self._perturbed(), 0.0
        for row in rows:
            scores, right = self._scores(row, weights), row.example.label
            if row.example.loss == "tokens":
                scores, right = weights["options"] @ self._hidden(row.tokens[0], weights), row.tokens[1][right]
            total += float(self.np.logaddexp.reduce(scores) - scores[right])
        return total / len(rows)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        weights = self._perturbed()
        return [[float(score) for score in self._scores(row, weights)] for row in rows]

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        weights = self._perturbed()
        return [[float(x) for x in self._hidden(row.tokens[0], weights)] for row in rows]

    def memory(self) -> MemoryReading:
        return MemoryReading(*self.host.read())

    def reset_peak(self) -> None:
        self.host.reset()

    def ledger(self) -> dict[str, int]:
        held = {buffer.owner: buffer.bytes for buffer in self.space.buffers}
        return {"weights": self.facts["model_bytes"], **held, "scratch": self.space.scratch_bytes}

    def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.write(directory / "model.safetensors", self.weights)

    def _scores(self, row: Row, weights: dict[str, Any]) -> Any:
        words, options = row.tokens
        return weights["options"][options] @ self._hidden(words, weights)

    def _hidden(self, words: list[int], weights: dict[str, Any]) -> Any:
        bag = weights["words"][words].astype("float64").mean(axis=0)
        return self.np.tanh(weights["hidden"] @ bag + weights["hidden_bias"])

    def _perturbed(self) -> dict[str, Any]:
        """The weights that a forward pass sees: the arrays, or perturbed copies under exact restore."""
        copies = {block.name: self._perturbed_copy(block) for block in self.space.blocks if self.space.perturbation}
        return {**self.weights, **copies}

    def _perturbed_copy(self, block: Block) -> Any:
        copy: Any = self.np.array(block.array)
        self.space.form(block, self.space.perturbation, copy)
        return copy


def _hash(word: str) -> int:
    return zlib.crc32(word.strip().lower().encode()) % WORDS


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {"reference": Reference()}

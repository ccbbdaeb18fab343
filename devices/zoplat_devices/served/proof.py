"""A proof that a server sees adapters: nothing may change with a zero adapter, and the loss must with others.

A server may leave out what it does not know of an adapter, or answer from the model alone, without a word. Without the
weights of the model effects can't be predicted, but adapters with factors (2A, B) and (A, 2B) have the same one, to the
bit: BA is the same product. And an adapter of each kind of layer alone, and of each layer alone, must have some effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zoplat.core.errors import ZoplatError

TEXT = "The film was long and the food was bad, but we laughed a lot and would go there again with friends."
NUDGE = 0.05
"""Entries of B at first, which are doubled until the loss changes."""
DOUBLINGS = 12
SLACK = 0.02
"""Difference of a loss, relative to it, that 16 bits and other batches may make."""
LEAST = 1e-4
"""Least change of a loss that counts where a server answers to the last digit."""
CLEAR = 5.0
"""An effect is this many times what the same question differs by."""

Arrays = Mapping[str, Any]
Loss = Callable[[Sequence[Arrays | None]], list[float]]
"""Mean of −log p over the tokens of `TEXT` at several points, None for the model without an adapter."""


def check(arrays: Arrays, loss: Loss, where: str) -> dict[str, float]:
    """Measure what adapters do to the loss.

    Args:
        arrays: factors of the adapter by block name; not changed.
        loss: asks the server.
        where: URL of the server, for messages.

    Returns:
        zero_off_by, the change with a zero adapter; noise, by how much the same question differs; product_off_by, the
        difference between two adapters of one product; least_effect, the smallest effect of a part.

    Raises:
        ZoplatError: the server ignores the adapter or a part of it, or mixes up what it was given.
    """
    zero = _with_b(arrays, 0.0)
    base, again, none = loss([None, zero, zero])
    off, slack = abs(again - base), SLACK * max(1.0, abs(base))
    if not off <= slack:
        raise ZoplatError(
            f"The server at {where} has a loss of {base:.6g} without an adapter and {again:.6g} with one of zeros, "
            "which must change nothing. Look at the adapters that it was started with."
        )
    noise = max(off, abs(none - again))
    least = max(LEAST, CLEAR * noise)
    whole, size = _effect(arrays, loss, base, least, [*arrays])
    if abs(whole) < least:
        raise ZoplatError(
            f"The server at {where} has a loss of {base:.6g} with and without an adapter with entries of {size:g}: it "
            "ignores adapters. Start vLLM with --enable-lora, and name the model as the server does."
        )
    left, right = loss([_scaled(arrays, size, 2.0, 1.0), _scaled(arrays, size, 1.0, 2.0)])
    if not abs(left - right) <= max(slack, CLEAR * noise) or max(abs(left - base), abs(right - base)) < least:
        raise ZoplatError(
            f"The server at {where} has losses of {left:.6g} and {right:.6g} for adapters (2A, B) and (A, 2B), which "
            f"are one product, and {base:.6g} without: it does not read both factors as they are published."
        )
    effects = {}
    for part, names in _parts(arrays).items():
        effects[part], size = _effect(arrays, loss, base, least, names)
        if abs(effects[part]) < least:
            raise ZoplatError(
                f"The server at {where} ignores the adapter of {part}: with entries of {size:g} there, the loss stays "
                f"{base:.6g}. Leave that out of the adapter (-o tune.targets=REGEX)."
            )
    return {
        "zero_off_by": off,
        "noise": noise,
        "product_off_by": abs(left - right),
        "least_effect": min(map(abs, effects.values())),
    }


def _effect(arrays: Arrays, loss: Loss, base: float, least: float, names: Sequence[str]) -> tuple[float, float]:
    """(change of the loss, entries of B), with B nudged in some blocks until the change is clear."""
    size, effect = NUDGE, 0.0
    for _ in range(DOUBLINGS):
        [found] = loss([_scaled(arrays, size, 1.0, 1.0, names)])
        effect = found - base
        if not abs(effect) < least:
            break
        size *= 2
    return (effect if np.isfinite(effect) else 0.0), size


def _with_b(arrays: Arrays, size: float, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The same A, and B with entries of a size in some blocks, zero elsewhere."""
    made = {}
    for name, array in arrays.items():
        chosen = names is None or name in names
        pattern = np.where(np.arange(array.size) % 3 == 1, -1.0, 1.0).astype(array.dtype).reshape(array.shape)
        made[name] = array if "lora_B" not in name else pattern * array.dtype.type(size if chosen else 0.0)
    return made


def _scaled(arrays: Arrays, size: float, a: float, b: float, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Factors (a A, b B)."""
    made = _with_b(arrays, size, names)
    return {name: array * array.dtype.type(b if "lora_B" in name else a) for name, array in made.items()}


def _parts(arrays: Arrays) -> dict[str, list[str]]:
    """Names of blocks by kind of layer, such as q_proj, and by number of layer."""
    parts: dict[str, list[str]] = {}
    for name in arrays:
        module = name.partition(".lora_")[0]
        parts.setdefault(module.rpartition(".")[2], []).append(name)
        if number := re.search(r"\.(\d+)\.", module):
            parts.setdefault(f"layer {number.group(1)}", []).append(name)
    return parts

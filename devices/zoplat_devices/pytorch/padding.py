"""Models whose state sees padding, such as RWKV: found by a trial, and read without it.

Attention skips the positions that a mask names. A recurrent state runs over them, and many such models ignore the mask,
so that a row has another answer beside a longer one than alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LENGTHS = (5, 29)
"""Tokens of the two sequences of the trial."""
TOLERANCE = {4: 1e-3, 2: 0.15}
"""Bytes of a number → mean difference of logits, relative to their spread, that rounding explains."""
ABOUT_PADDING = ("input_ids", "attention_mask", "position_ids")
"""Inputs of a model that are made anew without padding."""


def trial_sequences(vocabulary: int, pad: int) -> list[list[int]]:
    """Two sequences of token ids of different lengths, without the padding token."""
    usual = [token for token in range(min(vocabulary, 256)) if token != pad] or [pad]
    return [[usual[(7 * i + 3) % len(usual)] for i in range(length)] for length in LENGTHS]


def differs(alone: Any, beside: Any) -> bool:
    """Whether logits of a sequence alone differ from those that it has beside a longer one by more than rounding.

    Args:
        alone: (…, n) logits of some positions.
        beside: those of the same positions.
    """
    one, other = alone.float(), beside.float()
    spread = float(one.std(correction=0)) or 1.0
    return float((one - other).abs().mean()) / spread > TOLERANCE.get(alone.element_size(), TOLERANCE[4])


def run_without(run: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> Any:
    """The logits of sequences that are padded on the left, from one forward pass for each length.

    Args:
        run: runs the model.
        inputs: of the model, with padding.

    Returns:
        (sequences, positions, vocabulary), as the padded pass has them; or (sequences, classes).
    """
    import torch

    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    others = {name: value for name, value in inputs.items() if name not in ABOUT_PADDING}
    places, parts = list[int](), list[Any]()
    for length in sorted(set(lengths)):
        which = [i for i, own in enumerate(lengths) if own == length]
        parts.append(run({"input_ids": inputs["input_ids"][which, -length:], **others}).logits)
        places += which
    if parts[0].dim() == 3:
        width = max(part.shape[1] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
    back = sorted(range(len(places)), key=places.__getitem__)
    return torch.cat(parts)[torch.tensor(back, device=parts[0].device)]

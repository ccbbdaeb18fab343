"""QLoRA as a yardstick: what backpropagation through LoRA would take on a 4-bit base, which zoplat does not have."""

from __future__ import annotations

from dataclasses import replace

from zoplat.planning.fixed import Share
from zoplat.planning.memory import OPENING, Planned
from zoplat.planning.modes import Mode

QLORA = Mode("QLoRA by arithmetic, not in zoplat", {}, "backward")
BLOCK, BLOCKS = 64, 256
"""Weights that share a scale; scales that share one of their own."""
NF4 = 0.5 + 1 / BLOCK + 4 / (BLOCK * BLOCKS)
"""Bytes a weight: 4 bits, its share of an 8-bit scale, and of the float32 scale of the scales.

NF4 with double quantisation, as bitsandbytes stores it: Dettmers et al., "QLoRA", 2023, section 3.
"""
FROZEN, UNPACKED = "frozen weights", "one layer's weights, unpacked"


def as_qlora(lora: Planned) -> Planned | None:
    """The plan of LoRA by backpropagation with the weights of linear layers, but for the head, in NF4.

    Args:
        lora: on a plain base.

    Returns:
        The plan; None where the peak of `lora` is that of opening its file, so that it does not say what steps take.
    """
    owners = {share.owner: share for share in lora.shares}
    if OPENING in owners or FROZEN not in owners:
        return None
    width = 4 if lora.facts["dtype"] == "float32" else 2
    packed = int(lora.facts["linear_parameters"] * (width - NF4))
    unpacked = lora.facts["largest_linear"] * width
    frozen = Share.counted(FROZEN, owners[FROZEN].expected - packed)
    others = (share for share in lora.shares if share.owner != FROZEN)
    change = unpacked - packed
    return replace(
        lora,
        shares=(frozen, Share.counted(UNPACKED, unpacked), *others),
        inference=lora.inference + change,
        training=lora.training + change,
        scoring=lora.scoring + change,
    )

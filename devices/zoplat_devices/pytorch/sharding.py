"""A model whose layers lie on several cards: which goes where, what moves its weights, and what each card holds.

accelerate places the layers and carries activations from card to card (`dispatch_model`). Its hooks take the logits
back to the card of the inputs, where losses are computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat.space.backend import Backend
from zoplat.space.sharded import ShardedBackend
from zoplat_devices.pytorch.backends import backend_for
from zoplat_devices.pytorch.hiding import hidden
from zoplat_devices.pytorch.parameters import address, tensor_of
from zoplat_devices.pytorch.quiet import quiet

Map = Mapping[str, int | str]
"""Name of a module → its card."""
ENDLESS = 1 << 50
"""Bytes of a card, where only the shares of cards are asked for."""
ELSEWHERE = ("cpu", "disk")
"""Places that accelerate uses where cards are full."""


def spread(model: Any, inner: Any, how: str | Map) -> torch.device:
    """Place a model on cards; returns the one that its inputs are on.

    Args:
        model: on the host, inside its adapter where it has one.
        inner: the model of transformers.
        how: of `HOW`, or a card for each module.

    Raises:
        ZoplatError: it does not fit on the cards, or a module has no card.
    """
    found = inferred(inner, how, free()) if isinstance(how, str) else {name: _card(card) for name, card in how.items()}
    with quiet(), hidden("torchao"):
        from accelerate import dispatch_model
        from accelerate.utils import check_device_map, find_tied_parameters

        try:
            check_device_map(inner, found)
        except ValueError as problem:
            raise ZoplatError(f"-o device.map: {problem} Name every module or its parent, or use auto.") from None
        _check_tied(find_tied_parameters(inner), found)
        home = next(card for name, card in found.items() if _has(inner, name, inner.get_input_embeddings()))
        skipped = getattr(inner, "_skip_keys_device_placement", None)
        dispatch_model(inner, found, main_device=home, skip_keys=skipped, force_hooks=True)
    own = {id(parameter) for parameter in inner.parameters()}
    for module in model.modules():  # virtual tokens, which belong to peft's model around it
        if module is not model and any(id(p) not in own for p in module.parameters(recurse=False)):
            module.to(home)
    return torch.device(home)


def check_spread(spec: ModelSpec) -> None:
    """Raise ZoplatError where what is trained can't lie on several cards."""
    if spec.tune.name == "prefix":
        raise ZoplatError("--tune prefix gives all layers keys on one card. With device.map use --tune lora or prompt.")


def inferred(model: Any, how: str, cards: Mapping[int, int]) -> dict[str, str]:
    """A card for each module: layers whole and in order, evenly or card after card.

    Args:
        model: of transformers; may be on the meta device.
        how: "auto" and "balanced", evenly; "balanced_low_0", with little on the first card; "sequential", each card
            filled before the next.
        cards: number of a card → bytes that are free on it.

    Raises:
        ZoplatError: it does not fit.
    """
    with quiet(), hidden("torchao"):
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory

        whole = getattr(model, "_no_split_modules", None)
        memory: dict[int, int] = dict(cards)
        if how != "sequential" and len(memory) > 1:
            low = how == "balanced_low_0"
            memory = get_balanced_memory(model, memory, no_split_module_classes=whole, low_zero=low)
        memory = {card: size for card, size in memory.items() if card in cards}
        found = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    if left := [name for name, card in found.items() if card in ELSEWHERE]:
        sizes = ", ".join(f"{size / 2**30:.1f} GiB" for size in cards.values())
        raise ZoplatError(
            f"-o device.map={how}: the weights don't fit on the cards, which have {sizes} free; "
            f"{left[0] or 'all of it'} is left over. Use --dtype bfloat16, more cards, or "
            "-o device.strategy=streaming without a map, which leaves weights in memory of the host."
        )
    return {name: _card(card) for name, card in found.items()}


def shares(model: Any, how: str | Map) -> dict[str, int]:
    """Bytes of a model's weights by card, as they would lie; on two cards where there are none here.

    Args:
        model: of transformers; may be on the meta device.
        how: as for `spread`.
    """
    if isinstance(how, str):
        how = inferred(model, how, dict.fromkeys(range(torch.cuda.device_count() or 2), ENDLESS))
    found = Counter[str]()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if card := _place(name, how):
            found[card] += int(tensor.nbytes)
    return dict(found)


def free() -> dict[int, int]:
    """Number of each card → bytes that are free on it."""
    return {card: int(torch.cuda.mem_get_info(card)[0]) for card in range(torch.cuda.device_count())}


def sharded_backend(blocks: Sequence[Block]) -> Backend:
    """The backend of blocks on several cards: for each card one of its own, with kernels that are launched there."""
    names: dict[torch.device, list[str]] = {}
    for block in blocks:
        names.setdefault(tensor_of(block).device, []).append(block.name)
    placed = {block.name: block for block in blocks}
    parts = [(frozenset(own), backend_for([placed[n] for n in own], str(card))) for card, own in names.items()]
    home = next(iter(names))

    def at_home(array: Any) -> Any:
        return array.to(home)

    return ShardedBackend(parts, at_home)


def held(tensors: Iterable[Any]) -> Counter[str]:
    """Bytes of some tensors by device; those that share memory count once."""
    found = {(str(tensor.device), address(tensor)): int(tensor.nbytes) for tensor in tensors}
    sizes = Counter[str]()
    for (device, _), size in found.items():
        sizes[device] += size
    return sizes


def _place(name: str, how: Map) -> str:
    """The card of a weight, that of the innermost module that has one; empty where none has."""
    modules = [module for module in how if module == "" or f"{name}.".startswith(f"{module}.")]
    return _card(how[max(modules, key=len)]) if modules else ""


def _check_tied(groups: Sequence[Sequence[str]], found: Map) -> None:
    """Raise ZoplatError where weights that are one lie on two cards."""
    for names in groups:
        by_card = {_place(name, found): name for name in names}
        if len(by_card) > 1:
            raise ZoplatError(
                f"-o device.map: {' and '.join(sorted(by_card.values()))} are the same weights, and can't be on "
                f"{' and '.join(sorted(by_card))}. Give their modules one GPU."
            )


def _card(card: int | str) -> str:
    return f"cuda:{card}" if isinstance(card, int) else card


def _has(model: Any, name: str, module: Any) -> bool:
    """Whether a module is the one of this name in a model, or inside it."""
    named = dict(model.named_modules()).get(name)
    return named is not None and any(module is inside for inside in named.modules())

"""The parameters of a model that are blocks of a space, and other tensors in their place for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from zoplat.core.blocks import Block
from zoplat.space.parameter_space import ParameterSpace


def tensor_of(block: Block) -> Any:
    """The tensor that holds a block's weights."""
    return block.array


def weights_digest(space: ParameterSpace) -> str:
    """sha256 of all weights of a space as they are stored; equal digests mean equal bits."""
    import torch

    digest = sha256()
    for block in space.blocks:
        digest.update(tensor_of(block).reshape(-1).view(torch.uint8).cpu().numpy().data)
        space.release(block)
    return f"sha256:{digest.hexdigest()}"


def address(tensor: Any) -> int:
    """What tells the memory of a tensor from that of others, also of one on the meta device, which has none."""
    return id(tensor.untyped_storage()) if tensor.is_meta else tensor.data_ptr()


def by_address(blocks: Iterable[Block]) -> dict[int, Block]:
    """Blocks by the address of their weights, which the parameters of a model share."""
    return {address(tensor_of(block)): block for block in blocks}


@dataclass(frozen=True)
class Slot:
    """A place where a module holds a parameter; tied weights have several.

    Attributes:
        held: the module's parameters by name; torch offers no public way to put a plain tensor there.
        name: of the parameter in the module.
        parameter: what belongs there.
        block: the trained weights that it is.
    """

    held: dict[str, Any]
    name: str
    parameter: Any
    block: Block


def slots(model: Any, blocks: Mapping[int, Block]) -> list[Slot]:
    """Every place that holds one of the blocks, given by address, in the order of the modules."""
    return [slot for module in model.modules() for slot in slots_of(module, blocks)]


def slots_of(module: Any, blocks: Mapping[int, Block]) -> list[Slot]:
    """The places of a module itself that hold one of the blocks, given by address."""
    return [
        Slot(module._parameters, name, parameter, blocks[address(parameter)])
        for name, parameter in module._parameters.items()
        if parameter is not None and address(parameter) in blocks
    ]


@contextmanager
def replaced(chosen: list[Slot], substitute: Callable[[Slot], Any]) -> Iterator[None]:
    """Put a substitute into each slot, and the parameters back afterwards."""
    try:
        for slot in chosen:
            slot.held[slot.name] = substitute(slot)
        yield
    finally:
        for slot in chosen:
            slot.held[slot.name] = slot.parameter

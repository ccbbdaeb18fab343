"""The pieces of a model that run one after the other: its layers, and the modules with weights beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch.parameters import address

CONTAINERS = ("ParameterDict", "ParameterList", "ModuleDict", "ModuleList")
"""Modules that hold others and have no forward pass; what they hold is used by the module around them."""


def pieces(model: Any, blocks: Mapping[int, Block] = MappingProxyType({})) -> Iterator[tuple[str, Any]]:
    """(name, module) of each layer of a list and of each module with weights of its own beside them; none is nested.

    Args:
        model: of transformers, inside an adapter of peft or not.
        blocks: the trained weights by address.

    Raises:
        ZoplatError: a trained weight belongs to a module that contains a list of layers.
    """
    from torch.nn import ModuleList

    layers = {id(layer) for holder in model.modules() if isinstance(holder, ModuleList) for layer in holder}
    seen: set[int] = set()

    def visit(name: str, module: Any) -> Iterator[tuple[str, Any]]:
        own = [*_own_parameters(module)]
        contains_layers = any(id(inner) in layers for inner in module.modules() if inner is not module)
        is_layer = id(module) in layers and type(module).__name__ not in CONTAINERS
        if is_layer or (own and not contains_layers):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module
            return
        trained = [blocks[address(p)].name for p in own if address(p) in blocks]
        if trained:
            raise ZoplatError(
                f"The streaming strategy needs every trained weight in a layer or beside the list of layers, and "
                f"{trained[0]} belongs to a module that contains them all. Use -o device.strategy=sequential, or leave "
                "it out of --tune."
            )
        for child, inner in module.named_children():
            yield from visit(f"{name}.{child}".strip("."), inner)

    return visit("", model)


def _own_parameters(module: Any) -> Iterator[Any]:
    """The parameters of a module and of the containers directly inside it."""
    yield from module.parameters(recurse=False)
    for child in module.children():
        if type(child).__name__ in CONTAINERS:
            yield from child.parameters(recurse=False)

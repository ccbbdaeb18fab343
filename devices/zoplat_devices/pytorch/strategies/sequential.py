"""Exact restore: while a layer runs, its parameters point to a scratch array that holds θ + perturbation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.parameters import Slot, by_address, slots_of
from zoplat_devices.pytorch.pieces import CONTAINERS


class ExactRestore:
    """Forms the perturbed weights of a layer while it runs, so that the stored weights stay at θ.

    Args:
        model: gets a pair of hooks on every module that owns trained weights.
        space: its `perturbation` is what is added to θ.

    Attributes:
        on: whether weights are formed; the strategies switch it from point to point.
        bytes: of the scratch arrays, which are reused.
    """

    def __init__(self, model: Any, space: ParameterSpace) -> None:
        self.on = False
        self.bytes = 0
        self._space = space
        self._pool: dict[tuple[Any, ...], list[Any]] = {}
        self._formed: set[str] = set()
        self._depth: dict[str, int] = {}
        self._held: dict[str, Any] = {}
        self._hooks: list[Any] = []
        for module, owned in _owners(model, by_address(space.blocks)):
            self._hooks.append(module.register_forward_pre_hook(self._form_weights(owned)))
            self._hooks.append(module.register_forward_hook(self._restore_weights(owned), always_call=True))

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run the model at θ + perturbation.

        Raises:
            ZoplatError: a weight was used outside the module that owns it, or not at all.
        """
        self.on, self._formed, self._depth = True, set(), {}
        try:
            yield
        finally:
            self.on = False
        missed = {block.name for block in self._space.blocks} - self._formed
        if missed:
            raise ZoplatError(
                f"Restore 'exact' could not form {min(missed)}: the model uses it outside the module that owns it. "
                "Use -o device.restore=in-place, or leave it out of --tune."
            )

    def _form_weights(self, owned: list[Slot]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any) -> None:
            if not self.on:
                return
            for slot in owned:
                block, name = slot.block, slot.block.name
                depth = self._depth[name] = self._depth.get(name, 0) + 1
                if depth == 1:  # a module inside another may own the same tensor
                    self._space.settle_block(block)
                    parameter = slot.held[slot.name]  # a copy of θ stands there, where the array is not on the device
                    self._held[name] = theta = parameter.data
                    scratch = self._take_scratch(parameter)
                    is_copy = parameter is not slot.parameter
                    shape = block.array.shape
                    source = replace(block, array=theta.view(shape)) if is_copy else block
                    self._space.form(source, self._space.perturbation, scratch.view(shape))
                    self._formed.add(name)
                    parameter.data = scratch

        return hook

    def _restore_weights(self, owned: list[Slot]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not self.on:
                return
            for slot in owned:
                name, parameter = slot.block.name, slot.held[slot.name]
                self._depth[name] -= 1
                if self._depth[name] == 0:
                    self._pool[_layout(parameter)].append(parameter.data)
                    parameter.data = self._held.pop(name)

        return hook

    def _take_scratch(self, parameter: Any) -> Any:
        free = self._pool.setdefault(_layout(parameter), [])
        if not free:
            with torch.inference_mode(False):  # the meta device exchanges data of one kind of tensors only
                free.append(parameter.data.clone())
            self.bytes += int(parameter.nbytes)
        return free.pop()


def _owners(model: Any, blocks: dict[int, Block]) -> Iterator[tuple[Any, list[Slot]]]:
    """Modules with a forward pass, and the trained parameters of each and of the containers inside it."""
    modules = dict(model.named_modules())
    found: dict[str, list[Slot]] = {}
    for name, module in modules.items():
        owned = slots_of(module, blocks)
        while type(modules[name]).__name__ in CONTAINERS:
            name = name.rpartition(".")[0]
        if owned:
            found.setdefault(name, []).extend(owned)
    for name, owned in found.items():
        yield modules[name], owned


def _layout(parameter: Any) -> tuple[Any, ...]:
    """What scratch arrays must have in common with a parameter."""
    return (tuple(parameter.shape), parameter.dtype, parameter.device)

"""Exact restore: while a layer runs, its parameters point to a scratch array that holds θ + probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat.space.parameter_space import ParameterSpace

HOLDERS = ("ParameterDict", "ParameterList", "ModuleDict", "ModuleList")
"""Modules that hold others and are never run; what they hold is used by the module around them."""


class Probes:
    """Forms the probed weights of a layer while it runs, so that the weights stay at θ.

    Args:
        model: its modules are watched.
        space: its overlay is the probe.
    """

    def __init__(self, model: Any, space: ParameterSpace) -> None:
        self.space = space
        self.pool: dict[tuple[Any, ...], list[Any]] = {}
        self.bytes = 0
        self.on = False
        self.formed: set[str] = set()
        self.depth: dict[str, int] = {}
        for module, owned in _owners(model, {block.array.data_ptr(): block for block in space.blocks}):
            module.register_forward_pre_hook(self._swap(owned))
            module.register_forward_hook(self._back(owned), always_call=True)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model runs at θ + probe.

        Raises:
            ZoplatError: a weight was used outside the module that owns it, or not at all.
        """
        self.on, self.formed, self.depth = True, set(), {}
        try:
            yield
        finally:
            self.on = False
        missed = {block.name for block in self.space.blocks} - self.formed
        if missed:
            raise ZoplatError(
                f"Restore 'exact' could not form {min(missed)}: the model uses it outside the module that owns it. "
                "Use -o device.restore=in-place, or leave it out of --tune."
            )

    def _swap(self, owned: list[tuple[Any, Block]]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any) -> None:
            if not self.on:
                return
            for parameter, block in owned:
                depth = self.depth[block.name] = self.depth.get(block.name, 0) + 1
                if depth == 1:  # a module inside another may own the same tensor
                    self.space.settle_block(block)
                    scratch = self._take(parameter)
                    self.space.form(block, self.space.perturbation, scratch.view(block.shape))
                    self.formed.add(block.name)
                    parameter.data = scratch

        return hook

    def _back(self, owned: list[tuple[Any, Block]]) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not self.on:
                return
            for parameter, block in owned:
                self.depth[block.name] -= 1
                if self.depth[block.name] == 0:
                    self.pool[_like(parameter)].append(parameter.data)
                    parameter.data = block.array.view(parameter.shape)

        return hook

    def _take(self, parameter: Any) -> Any:
        free = self.pool.setdefault(_like(parameter), [])
        if not free:
            free.append(parameter.data.clone())
            self.bytes += int(parameter.nbytes)
        return free.pop()


def _owners(model: Any, blocks: dict[int, Block]) -> Iterator[tuple[Any, list[tuple[Any, Block]]]]:
    """Modules that run, and what is trainable of their own and of their holders."""
    modules = dict(model.named_modules())
    found: dict[str, list[tuple[Any, Block]]] = {}
    for name, module in modules.items():
        owned = [(p, blocks[p.data_ptr()]) for p in module.parameters(recurse=False) if p.data_ptr() in blocks]
        while type(modules[name]).__name__ in HOLDERS:
            name = name.rpartition(".")[0]
        if owned:
            found.setdefault(name, []).extend(owned)
    for name, owned in found.items():
        yield modules[name], owned


def _like(parameter: Any) -> tuple[Any, ...]:
    return (tuple(parameter.shape), parameter.dtype)

"""Packages and parts of torch that libraries would import, and that nothing here runs."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

COMPILER, DISTRIBUTED = "torch._dynamo", "torch.distributed.tensor"
TRITON = "triton"
"""It takes 75 MiB, and nothing runs it on a processor."""
MARKS = ("disable", "allow_in_graph", "assume_constant_result")
"""Names in it that mark a function."""


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """A context in which packages that were not imported yet are not found. They can be imported later nevertheless."""
    modules = cast(dict[str, Any], sys.modules)
    chosen = [name for name in packages if name not in modules]
    modules.update(dict.fromkeys(chosen))
    try:
        yield
    finally:
        for name in chosen:
            del modules[name]


def import_without_compiler(*modules: str) -> None:
    """Import modules without torch's compiler, where they only mark functions for it, nor Triton where there is no GPU.

    Raises:
        ImportError: they are not there.
    """
    import torch

    with hidden(*(() if torch.cuda.is_available() else (TRITON,))), _without_collections(), marks_ignored():
        for name in modules:
            importlib.import_module(name)


def import_transformers() -> None:
    """Import transformers so that it takes scipy and torch's distributed tensors to be missing.

    It would import both for parts that are not used here: losses of object detection, and models cut into pieces. It
    looks for them once, when it is imported; where that was done before, nothing changes.
    """
    if "transformers" in sys.modules:
        return
    with hidden("scipy"), undistributed():
        ask = getattr(importlib.import_module("transformers.utils"), "is_torch_distributed_available", None)
        if ask:  # it keeps the answer; older versions ask torch anew in every module
            ask()


@contextmanager
def undistributed() -> Iterator[None]:
    """A context in which torch seems to be one without `torch.distributed`.

    Others count on transformers to have imported distributed tensors; they are there when they are asked for.
    """
    import torch

    if DISTRIBUTED not in sys.modules and torch.distributed.is_available():
        torch.distributed.tensor = _Later(DISTRIBUTED)
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


class _Later(ModuleType):
    """In place of a module: it is imported when something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def marks_ignored() -> Iterator[None]:
    """A context in which functions are marked for torch's compiler without importing it, so the marks are lost.

    It is imported where more of it is asked for. It takes 70 MiB and a second.
    """
    import torch

    if COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    torch.compiler.disable = _unmarked
    stand_in = sys.modules[COMPILER] = _Marks(COMPILER, Path(torch.__file__).parent / "_dynamo")
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


class _Marks(ModuleType):
    """In place of the compiler: its modules, marks that change nothing, and for all else the compiler."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.__path__ = [str(path)]

    def __getattr__(self, name: str) -> Any:
        import torch

        if name.startswith("__"):
            raise AttributeError(name)
        if name in MARKS:
            return _unmarked
        if name == "is_compiling":
            return torch.compiler.is_compiling
        if importlib.util.find_spec(f"{COMPILER}.{name}"):
            return importlib.import_module(f"{COMPILER}.{name}")
        if sys.modules[COMPILER] is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """The function itself; a decorator where only arguments of one were given."""
    return function or (lambda marked: marked)


@contextmanager
def _without_collections() -> Iterator[None]:
    """A context without the collector of garbage, which looks through thousands of modules that stay, over and over."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

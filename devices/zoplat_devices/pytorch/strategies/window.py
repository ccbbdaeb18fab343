"""A window on a model in the memory of the host: one unit runs on a GPU while the next one is copied there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoplat_devices.pytorch.pieces import pieces

ALIGNED = 256
"""Bytes to which arrays are aligned, as CUDA's own allocator aligns them."""


def to_pinned_memory(model: Any, device: torch.device) -> None:
    """Move the weights of a model's pieces to memory of the host that a GPU can read, and all others to the GPU.

    Weights that share memory go on sharing it. Kernels read and write pinned memory by its address.
    """
    in_pieces = {id(parameter) for _, module in pieces(model) for parameter in module.parameters()}
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            if id(parameter) not in in_pieces:
                setattr(module, name, _parameter(parameter.data.to(device)))
                continue
            address = parameter.data_ptr()
            if address not in moved:
                moved[address] = parameter.data.pin_memory()
            parameter.data = moved[address]
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, buffer.to(device))


@dataclass(frozen=True)
class Place:
    """Where a module holds a parameter, and the copy that stands there while the unit is on the GPU.

    Attributes:
        held: the module's parameters by name; torch offers no public way to exchange them.
        name: of the parameter.
        parameter: in pinned memory.
        copy: in the window.
    """

    held: dict[str, Any]
    name: str
    parameter: Any
    copy: Any


class Window:
    """Two regions on a GPU, for the units with even numbers and for those with odd ones.

    Copies are made on a stream of their own. A copy begins after all work that was queued before it was asked for, so
    after that of the unit that had the region; what uses it waits for it.

    Args:
        modules: that run one after the other, by number; their weights are in pinned memory.
        device: the GPU.

    Attributes:
        bytes: of both regions.
    """

    def __init__(self, modules: Sequence[Any], device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        with torch.inference_mode(False):
            regions = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes(modules)]
        self.bytes = sum(region.numel() for region in regions)
        self._places = [[*_places(module, regions[number % 2])] for number, module in enumerate(modules)]
        self._fetched: int | None = None

    def fetch(self, number: int, beside: int | None = None) -> None:
        """Begin to copy the weights of a unit as they are now; not into the region of another one that is there."""
        if beside is not None and beside % 2 == number % 2:
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for place in {id(place.copy): place for place in self._places[number]}.values():
                place.copy.data.copy_(place.parameter.data, non_blocking=True)
        self._fetched = number

    def forget(self) -> None:
        """Take what was fetched for outdated."""
        self._fetched = None

    def enter(self, number: int) -> None:
        """Let a unit use its weights on the GPU; they are those of its last `fetch`, or of now."""
        if self._fetched != number:
            self.fetch(number)
        self._fetched = None
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        for place in self._places[number]:
            place.held[place.name] = place.copy

    def leave(self, number: int) -> None:
        """Give a unit the weights of the host again."""
        for place in self._places[number]:
            place.held[place.name] = place.parameter


def sizes(modules: Sequence[Any]) -> tuple[int, int]:
    """Bytes of the regions for modules with even numbers and for those with odd ones."""
    each = [sum(_room(parameter) for parameter in module.parameters()) for module in modules]
    return max(each[::2], default=0), max(each[1::2], default=0)


def _places(module: Any, region: torch.Tensor) -> Iterator[Place]:
    """Every place of a module and of those inside it, with views of a region; shared parameters share a view."""
    copies: dict[int, Any] = {}
    begin = 0
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in copies:
                view = region[begin : begin + parameter.nbytes].view(parameter.dtype).view(parameter.shape)
                copies[id(parameter)] = _parameter(view)
                begin += _room(parameter)
            yield Place(inner._parameters, name, parameter, copies[id(parameter)])


def _room(parameter: Any) -> int:
    """Bytes of a parameter in a region."""
    return -(-int(parameter.nbytes) // ALIGNED) * ALIGNED


def _parameter(tensor: torch.Tensor) -> Any:
    return torch.nn.Parameter(tensor, requires_grad=False)

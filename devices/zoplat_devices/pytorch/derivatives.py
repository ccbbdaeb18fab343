"""Exact derivatives by PyTorch, for methods that want one: forward mode, backpropagation, and norms of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from zoplat.core.blocks import Block, Part
from zoplat.core.direction import Direction
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.space.parameter_space import ParameterSpace


class Derivatives:
    """Derivatives of a loss with respect to the blocks of a space; the weights are only read.

    Args:
        model: whose parameters the blocks are.
        space: at θ whenever one of these is called.
    """

    def __init__(self, model: Any, space: ParameterSpace) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.space = space
        blocks = {block.array.data_ptr(): block for block in space.blocks}
        self.owned: list[tuple[Any, Block]] = [
            (parameter, blocks[parameter.data_ptr()])
            for parameter in model.parameters()
            if parameter.data_ptr() in blocks
        ]

    def along(self, direction: Direction, loss: Callable[[], Any]) -> tuple[float, float]:
        """(L, ⟨∇L, d⟩) by pairs of value and tangent; the tangents are one more copy of the blocks meanwhile."""
        from torch.autograd import forward_ad
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with self.torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level(), self._paired(direction):
            value, slope = forward_ad.unpack_dual(loss())
            return float(value), 0.0 if slope is None else float(slope)

    def backward(self, part: Part, recompute: bool, loss: Callable[[], Any]) -> tuple[float, dict[str, Any]]:
        """(L, ∇L by block of the part) by backpropagation; what comes before the part keeps no activations."""
        wanted = [(parameter, block) for parameter, block in self.owned if block in part]
        with self.torch.enable_grad(), self._requiring([parameter for parameter, _ in wanted]), ExitStack() as stack:
            if recompute:
                stack.enter_context(self._recomputed())
            value = loss()
            gradients = self.torch.autograd.grad(value, [p for p, _ in wanted], materialize_grads=True)
        found = {block.name: self._buffered(g, block) for g, (_, block) in zip(gradients, wanted, strict=True)}
        if not all(bool(g.isfinite().all()) for g in found.values()):
            raise NonFinite("The gradient has entries that are not finite.")
        return value.item(), found

    def input_norms(self, present: Any, forward: Callable[[], Any]) -> dict[str, list[float]]:
        """For the linear layers that hold a block, the norm of each input over all rows and tokens of a batch.

        Args:
            present: (rows, tokens), false for padding; None where there is none.
            forward: runs the model on the batch.
        """
        squares: dict[str, Any] = {}
        by_address = {block.array.data_ptr(): block for block in self.space.blocks}

        def note(name: str, module: Any, inputs: Any) -> None:
            flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            if present is not None and (inputs[0].dim() == 3 or len(flat) == present.numel()):
                flat = flat[present[:, -(len(flat) // len(present)) :].reshape(-1)]  # a head sees the last tokens only
            squares[name] = squares.get(name, 0.0) + (flat * flat).sum(dim=0)

        with ExitStack() as stack:
            for module in self.model.modules():
                block = by_address.get(module.weight.data_ptr()) if _is_linear(module) else None
                if block is not None and block.shape[1] == module.in_features:
                    stack.enter_context(_removed(module.register_forward_pre_hook(partial(note, block.name))))
            forward()
        return {name: [float(x) for x in square.sqrt()] for name, square in squares.items()}

    @contextmanager
    def _paired(self, direction: Direction) -> Iterator[None]:
        """Parameters replaced by pairs of themselves and their entries of the direction."""
        from torch.autograd import forward_ad

        pairs = {
            parameter: forward_ad.make_dual(
                parameter.detach(), self._entries(direction, block).view(parameter.shape).to(parameter.dtype)
            )
            for parameter, block in self.owned
        }
        swapped = [
            (module._parameters, name, parameter)
            for module in self.model.modules()
            for name, parameter in module._parameters.items()
            if parameter in pairs
        ]
        try:
            for parameters, name, parameter in swapped:
                parameters[name] = pairs[parameter]
            yield
        finally:
            for parameters, name, parameter in swapped:
                parameters[name] = parameter

    def _buffered(self, gradient: Any, block: Block) -> Any:
        """In the shape and precision that a buffer of the space has."""
        wide = self.torch.float64 if block.dtype == "float64" else self.torch.float32
        return gradient.reshape(block.shape).to(wide).contiguous()

    def _entries(self, direction: Direction, block: Block) -> Any:
        tangent = self.torch.empty(block.shape, dtype=self.torch.float32, device=block.array.device)
        for tile in block.tiles():
            tile.of(tangent)[:] = self.space.entries(direction, tile)
        return tangent

    @contextmanager
    def _requiring(self, parameters: list[Any]) -> Iterator[None]:
        """Exactly these parameters require a gradient."""
        before = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter, needed in before:
                parameter.requires_grad_(needed)

    @contextmanager
    def _recomputed(self) -> Iterator[None]:
        """The layers of the model's largest list keep their inputs only."""
        from torch.utils.checkpoint import checkpoint

        lists: list[Any] = [m for m in self.model.modules() if isinstance(m, self.torch.nn.ModuleList)]
        if not lists:
            raise ZoplatError("The model has no list of layers, so none can be recomputed. Use -o recompute=false.")
        layers: list[Any] = list(max(lists, key=_size))
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    """A hook that is gone afterwards."""
    try:
        yield
    finally:
        handle.remove()


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_linear(module: Any) -> bool:
    return hasattr(module, "in_features") and getattr(module, "weight", None) is not None

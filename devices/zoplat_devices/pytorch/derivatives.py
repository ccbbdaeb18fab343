"""Exact derivatives by PyTorch: forward mode and backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from zoplat.core.blocks import Block, Part
from zoplat.core.codes import PACKED
from zoplat.core.direction import Direction
from zoplat.core.errors import NonFinite, ZoplatError
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.hiding import marks_ignored
from zoplat_devices.pytorch.parameters import address, by_address, replaced, slots, tensor_of


class Derivatives:
    """Derivatives of a loss with respect to the blocks of a space; the weights are only read.

    Args:
        model: whose parameters the blocks are.
        space: whose arrays hold θ whenever a method is called.
        is_windowed: whether only some layers are on the device at a time; then there are none.
    """

    def __init__(self, model: Any, space: ParameterSpace, is_windowed: bool = False) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.space = space
        self._is_windowed = is_windowed
        self._blocks = by_address(space.blocks)
        self._trained: list[tuple[Any, Block]] = [
            (parameter, self._blocks[address(parameter)])
            for parameter in model.parameters()
            if address(parameter) in self._blocks
        ]

    def jvp(self, direction: Direction, loss: Callable[[], Any]) -> tuple[float, float]:
        """(L, ⟨∇L, d⟩) by dual numbers; the tangents take as much memory as the blocks in float32."""
        self._check_derivable()
        from torch.autograd import forward_ad
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with self.torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level(), self._duals(direction):
            value, slope = forward_ad.unpack_dual(loss())
            return float(value), 0.0 if slope is None else float(slope)

    def gradient(self, part: Part, recompute: bool, loss: Callable[[], Any]) -> tuple[float, dict[str, Any]]:
        """(L, ∇L by block of the part) by backpropagation; layers before the part keep no activations.

        Args:
            part: the blocks to differentiate with respect to.
            recompute: whether layers keep their inputs only and run again in the backward pass.
            loss: computes the loss as a tensor.

        Raises:
            NonFinite: the gradient has an entry that is not finite.
        """
        self._check_derivable()
        wanted = [(parameter, block) for parameter, block in self._trained if block in part]
        with self.torch.enable_grad(), self._requiring([parameter for parameter, _ in wanted]), ExitStack() as stack:
            if recompute:
                stack.enter_context(self._recomputed())
            value = loss()
            gradients = self.torch.autograd.grad(value, [p for p, _ in wanted], materialize_grads=True)
        found = {block.name: self._as_buffer(g, block) for g, (_, block) in zip(gradients, wanted, strict=True)}
        self.check_finite(found)
        return value.item(), found

    def _check_derivable(self) -> None:
        if self._is_windowed:
            raise ZoplatError(
                "Derivatives need all weights on the GPU, and strategy=streaming has two layers there. Use a method of "
                "forward passes alone, or --device cpu."
            )
        if any(block.dtype == PACKED for block in self.space.blocks):
            raise ZoplatError(
                "Codes are whole numbers and have no derivatives. Use a method of losses, or --tune scales."
            )

    def check_finite(self, found: dict[str, Any]) -> None:
        """Raise NonFinite where a gradient has an entry that is not finite."""
        if not all(bool(g.isfinite().all()) for g in found.values()):
            raise NonFinite("The gradient has entries that are not finite.")

    @contextmanager
    def _duals(self, direction: Direction) -> Iterator[None]:
        """Parameters are dual numbers, whose tangents are their entries of the direction."""
        from torch.autograd import forward_ad

        duals = {
            parameter: forward_ad.make_dual(
                parameter.detach(), self._entries(direction, block).view(parameter.shape).to(parameter.dtype)
            )
            for parameter, block in self._trained
        }
        with replaced(slots(self.model, self._blocks), lambda slot: duals[slot.parameter]):
            yield

    def _as_buffer(self, gradient: Any, block: Block) -> Any:
        """A gradient in the shape and precision of the space's buffers."""
        wide = self.torch.float64 if block.dtype == "float64" else self.torch.float32
        return gradient.reshape(block.shape).to(wide).contiguous()

    def _entries(self, direction: Direction, block: Block) -> Any:
        """A direction on a block, float32 and of its shape."""
        tangent = self.torch.empty(block.shape, dtype=self.torch.float32, device=tensor_of(block).device)
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
        """The layers of the model's largest list are checkpointed: they keep their inputs only."""
        from torch.utils.checkpoint import checkpoint

        lists: list[Any] = [m for m in self.model.modules() if isinstance(m, self.torch.nn.ModuleList)]
        if not lists:
            raise ZoplatError("The model has no list of layers, so none can be recomputed. Use -o recompute=false.")
        layers: list[Any] = list(max(lists, key=_size))
        before = [vars(layer).get("forward") for layer in layers]  # hooks may have put one there
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            with marks_ignored():
                yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                del layer.forward
                if own is not None:
                    layer.forward = own


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

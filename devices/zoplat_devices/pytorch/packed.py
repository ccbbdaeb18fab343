"""Linear layers whose weights are packed in 4 bits: whole numbers from 0 to 15, with a scale and a zero for each group.

    W = max(s, 0) · (q − zero)          s, zero: one for each group of neighbouring columns of a row

The weights are unpacked whenever the layer runs, some rows at a time, and multiplied as floats. It is written in
operations of torch, so that it runs wherever torch does, has derivatives by s, and is seen by a rehearsal on shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.codes import LEVELS, paired, unpaired
from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch.heads import head_modules
from zoplat_devices.pytorch.mapped import evict, files, lies_in

GROUPS = (128, 64, 32)
"""Columns of a group: the first of these that divides the columns of a matrix."""
ENTRIES = 1 << 22
"""About how many weights are unpacked at a time: whole rows, at least one."""


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]  # torch has no types here
    """A linear layer with weights in 4 bits. Nothing of it requires a gradient at first.

    Args:
        like: the layer whose shape and bias it takes; its weights are left to `pack`.
        group: columns of a group; divides those of the matrix.
        dtype: of the scales, and of what is computed with them.

    Attributes:
        codes: q, uint8 (rows, columns / 2), two of them a byte as `zoplat.core.codes` pairs them.
        scales: s, (rows, groups); in float32 where they are trained, whatever the model computes in.
        zeros: uint8 (rows, groups).
        trains_codes: whether q is trained; whole numbers can't be marked by `requires_grad`.
    """

    def __init__(self, like: Any, group: int, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)  # that of Linear would make weights
        rows, columns, device = like.out_features, like.in_features, like.weight.device
        self.in_features, self.out_features, self.group, self.trains_codes = columns, rows, group, False
        for name, width, kind in (
            ("codes", columns // 2, torch.uint8),
            ("scales", columns // group, dtype),
            ("zeros", columns // group, torch.uint8),
        ):
            held = torch.empty((rows, width), dtype=kind, device=device)
            self.register_parameter(name, torch.nn.Parameter(held, requires_grad=False))
        self.register_parameter("bias", like.bias)

    @property
    def weight(self) -> torch.Tensor:  # where Linear has a parameter
        """The weights as floats, (rows, columns), made anew."""
        return torch.cat([self.unpacked(rows) for rows in self._tiles()])

    def pack(self, weight: torch.Tensor) -> None:
        """Take weights, each group's range cut in 15 equal steps, zero being a whole number of them."""
        for rows in self._tiles():
            w = weight[rows].float().view(-1, self.in_features // self.group, self.group)
            low, high = (end(-1).clamp(*limit) for end, limit in ((w.amin, (None, 0)), (w.amax, (0, None))))
            step = ((high - low) / (LEVELS - 1)).clamp_(min=torch.finfo(torch.float32).tiny)
            step = step.to(self.scales.dtype)  # as it is stored, so that q is the nearest for what is multiplied
            zero = (-low / step.float()).round_().clamp_(0, LEVELS - 1)
            q = (w / step.float()[..., None]).add_(zero[..., None]).round_().clamp_(0, LEVELS - 1)
            self.codes.data[rows] = paired(q.view(-1, self.in_features).to(torch.uint8))
            self.scales.data[rows], self.zeros.data[rows] = step, zero.to(torch.uint8)

    def unpacked(self, rows: slice) -> torch.Tensor:
        """Some rows of the weights, in the precision of the scales."""
        scales = self.scales[rows].clamp(min=0)
        q = torch.empty((len(scales), self.in_features), dtype=scales.dtype, device=scales.device)
        unpaired(self.codes[rows], q)
        q = q.view(len(scales), -1, self.group).sub_(self.zeros[rows][..., None])
        # in place where nothing is differentiated, as a product keeps its factors for that
        is_plain = type(scales) is torch.Tensor and torch.is_inference_mode_enabled()
        return (q.mul_(scales[..., None]) if is_plain else q * scales[..., None]).view(len(scales), -1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # its name in torch
        tiles = [*self._tiles()]
        if len(tiles) == 1:
            return functional.linear(input, self.unpacked(tiles[0]).to(input.dtype), self.bias)
        y = torch.cat([functional.linear(input, self.unpacked(rows).to(input.dtype)) for rows in tiles], -1)
        return y if self.bias is None else y + self.bias

    def _tiles(self) -> Iterator[slice]:
        stride = max(1, ENTRIES // self.in_features)
        for start in range(0, self.out_features, stride):
            yield slice(start, min(self.out_features, start + stride))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """A checkpoint has plain weights, which any library opens."""
        destination[f"{prefix}weight"] = self.weight
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()


def pack(model: Any, dtype: Any, new: frozenset[str] = frozenset()) -> None:
    """Pack the linear layers of a model but for its head, one after the other, and give what stays float a dtype.

    Args:
        model: of transformers; weights that are mapped from files are read once, some rows at a time, and evicted.
        dtype: of scales, and of all weights that are not packed.
        new: names of parameters that the checkpoint does not have.

    Raises:
        ZoplatError: it has no linear layer whose columns can be grouped.
    """
    known = files()
    for parent, name, layer in packable(model, new):
        made = PackedLinear(layer, _group(layer), dtype)
        if not layer.weight.is_meta:
            made.pack(layer.weight.detach())
            if lies_in(known, layer.weight):
                evict(layer.weight)
        setattr(parent, name, made.train(layer.training))
    if not packed_layers(model):
        raise ZoplatError(
            f"--base int4: {type(model).__name__} has no linear layer whose columns are a multiple of {GROUPS[-1]}, "
            "so none can be packed. Use --base plain or int8."
        )
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def packed_layers(model: Any) -> dict[str, PackedLinear]:
    """The packed layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def packable(model: Any, new: frozenset[str] = frozenset()) -> list[tuple[Any, str, Any]]:
    """(module, name in it, layer) of the linear layers whose columns can be grouped, those of the head left out."""
    head = model.get_output_embeddings()
    tops = () if head is not None else tuple(head_modules(model, new))
    found = []
    for path, parent in model.named_modules():
        for name, layer in parent.named_children():
            is_top = f"{path}.{name}".lstrip(".").startswith(tops) if tops else layer is head
            if type(layer) is torch.nn.Linear and not is_top and _group(layer):
                found.append((parent, name, layer))
    return found


def _group(layer: Any) -> int:
    """Columns of a group; 0 where none of `GROUPS` divides the columns."""
    return next((size for size in GROUPS if layer.in_features % size == 0), 0)

"""The parameters of an optimizer as blocks: each storage once, edited where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import torch

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.tuning import block_of, packed_type

Group: TypeAlias = dict[str, Any]
"""A parameter group of torch, with "params" and mostly "param_names"."""


def groups_of(params: Any, model: Any) -> tuple[list[Any], Any]:
    """(What `torch.optim.Optimizer` takes, the module): parameters with names, wherever those are known.

    Args:
        params: a module, parameters, (name, parameter) pairs, or groups of either.
        model: the module that has the parameters; None where it is not known.

    Raises:
        ZoplatError: there are none.
    """
    if isinstance(params, torch.nn.Module):
        return list(params.named_parameters()), params
    given = list(params)
    if not given:
        raise ZoplatError("ZerothOrder has no parameters. Give it a module, or parameters of one.")
    if model is None:
        return given, None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if not isinstance(given[0], dict):
        return _named(given, names), model
    return [{**group, "params": _named(_listed(group["params"]), names)} for group in given], model


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, torch.Tensor) else list(params)


def _named(params: Sequence[Any], names: Mapping[int, str]) -> list[Any]:
    """Parameters with their names in a module; as they are where one is not in it."""
    if all(isinstance(one, torch.Tensor) and id(one) in names for one in params):
        return [(names[id(one)], one) for one in params]
    return list(params)


def trained(groups: Iterable[Group]) -> Iterator[tuple[int, str, Any]]:
    """(number of the group, name, parameter) for all that are trained: not frozen, with entries, each storage once."""
    count, seen = 0, set()
    for number, group in enumerate(groups):
        names = group.get("param_names") or [f"parameter.{count + i}" for i in range(len(group["params"]))]
        count += len(group["params"])
        for name, parameter in zip(names, group["params"], strict=True):
            place = (parameter.data_ptr(), tuple(parameter.shape))
            if parameter.requires_grad and parameter.numel() and (parameter.is_meta or place not in seen):
                seen.add(place)
                yield number, name, parameter


def mark(groups: Iterable[Group]) -> tuple[tuple[int, bool], ...]:
    """What tells whether parameters were added, frozen or moved since."""
    return tuple((one.data_ptr(), one.requires_grad) for group in groups for one in group["params"])


def blocks_of(groups: Sequence[Group]) -> tuple[list[Block], list[set[str]], torch.device]:
    """(The blocks, for each group the names of its own, the device of all of them).

    Raises:
        ZoplatError: nothing is trained, names occur twice, or a parameter can't be moved by small steps in place.
    """
    blocks: list[Block] = []
    names: list[set[str]] = [set() for _ in groups]
    devices: dict[torch.device, str] = {}
    for number, name, parameter in trained(groups):
        settings = PyTorch(kind_of(parameter.device, name))
        block = block_of(settings, name, _in_order(name, parameter))
        if any(block.name in some for some in names):
            raise ZoplatError(f"Two parameters are named {block.name}. Give (name, parameter) pairs with other names.")
        blocks.append(block)
        names[number].add(block.name)
        devices.setdefault(parameter.device, name)
    if not blocks:
        raise ZoplatError("All parameters of ZerothOrder are frozen: requires_grad is False. Set it for some of them.")
    if len(devices) > 1:
        where = " and ".join(f"{name} on {device}" for device, name in devices.items())
        raise ZoplatError(f"Trained parameters are on different devices: {where}. Put those that are trained on one.")
    return blocks, names, next(iter(devices))


def kind_of(device: torch.device, name: str) -> Literal["cpu", "cuda", "mps"]:
    """The kind of a device that has kernels or a reference backend; raises ZoplatError for another one."""
    if device.type not in ("cpu", "cuda", "mps"):
        raise ZoplatError(f"{name} is on the device '{device}'. ZerothOrder moves weights on cpu, cuda and mps.")
    return cast(Literal["cpu", "cuda", "mps"], device.type)


def _in_order(name: str, parameter: Any) -> Any:
    """A contiguous view of a parameter's memory, axes in the order in which they lie there."""
    if stored := packed_type(parameter):
        raise ZoplatError(
            f"{name} holds values of the type {stored}, which can't move by small steps. Freeze it "
            "(requires_grad_(False)) and train an adapter beside it."
        )
    axes = sorted(range(parameter.dim()), key=lambda axis: -parameter.stride(axis))
    view = parameter.detach().permute(axes)
    if not view.is_contiguous():
        raise ZoplatError(
            f"{name} is a view with gaps or overlaps in its memory, strides {parameter.stride()}. Give it memory of "
            "its own first: parameter.data = parameter.data.contiguous()."
        )
    return view

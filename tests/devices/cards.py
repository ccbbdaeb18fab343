"""Stand-ins for several cards: tensors that say that they are on one, and fail beside those of another, as CUDA's do.

Their numbers are on the processor, so results can be compared bit by bit with a model that is there as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from zoplat_devices.kernels.tables import TERMS

COPIES = {
    "aten::copy_",
    "aten::to",
    "aten::_to_copy",
    "aten::_has_compatible_shallow_copy_type",
    "aten::set_.source_Storage",
}
"""What takes numbers from one place to another."""


OWNERS: dict[int, str] = {}
"""Address of the numbers of a tensor → its card, the newest one's."""


class OfCard:
    """Kernels that fail where a job or a term is of a tensor of another card.

    Args:
        kernels: that do the work.
        card: whose tensors they may read and write.
    """

    def __init__(self, kernels: Any, card: str) -> None:
        self._kernels, self._card = kernels, card
        self.launches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def run(self, jobs: Any, sums: Any, *more: Any, **options: Any) -> None:
        """Run the jobs, once their addresses are known to be of the card."""
        used = [sums.terms[name][sums.terms["kind"] == TERMS[kind]] for kind, name in POINTERS]
        for address in {int(a) for some in (jobs.rows["source"], jobs.rows["target"], *used) for a in some.reshape(-1)}:
            assert OWNERS.get(address, self._card) == self._card, f"kernels of {self._card} on {OWNERS[address]}"
        self.launches += 1
        self._kernels.run(jobs, sums, *more, **options)

    def move(self, jobs: Any, sums: Any, factor: float = 1.0, is_stochastic: bool = False) -> None:
        """`run` in place."""
        self.run(jobs, sums, factor, is_stochastic=is_stochastic)


POINTERS = (("low-rank", "u"), ("low-rank", "v"), ("values", "u"))
"""Kinds of terms that point to arrays, and where."""


class CardTensor(torch.Tensor):
    """A tensor of a card.

    Attributes:
        numbers: on the processor.
        card: the device that it says it is on.
    """

    numbers: Any
    card: torch.device
    is_cuda, is_meta = True, False
    device = property(lambda self: self.card)

    @staticmethod
    def __new__(cls, numbers: Any, device: torch.device) -> Any:
        """Around some numbers."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device("meta", device.index),  # for torch's own code, which has no cards here
            requires_grad=numbers.requires_grad,
        )
        made.numbers, made.card = numbers, device
        OWNERS[numbers.data_ptr()] = str(device)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return performed(func, args, kwargs or {})

    def data_ptr(self) -> int:
        """The address of the numbers, which the kernels of the processor read."""
        return int(self.numbers.data_ptr())

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Itself where nothing is to change, as torch has it."""
        if kwargs.pop("copy", False):
            return super().to(*args, **kwargs).clone()
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        is_there = device is None or (device.type == "cuda" and (device.index or 0) == self.card.index)
        return self if is_there and dtype in (None, self.dtype) else super().to(*args, **kwargs)

    def tolist(self) -> Any:
        """The numbers."""
        return self.numbers.tolist()

    @property  # type: ignore[override]  # parameters are made to share memory by it
    def data(self) -> Any:
        """The same memory, without derivatives."""
        return self.detach()

    @data.setter
    def data(self, other: Any) -> None:
        assert other.card == self.card, f"a parameter of {self.card} is to point to an array of {other.card}"
        self.numbers = other.numbers

    def untyped_storage(self) -> Any:
        """That of the numbers."""
        return self.numbers.untyped_storage()

    def __repr__(self, **_: Any) -> str:
        return f"{self.numbers!r} on {self.device}"


def performed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the numbers, its results on the card of its arguments, or on that which is asked for."""
    flat, _ = tree_flatten((args, kwargs))
    places = {one.device for one in flat if isinstance(one, torch.Tensor) and (one.dim() or one.device.type == "cuda")}
    name = func._schema.name
    if len(places) > 1 and name not in COPIES and not (name == "aten::index" and _by_host(flat)):
        raise AssertionError(f"{name} on tensors of {', '.join(sorted(map(str, places)))}")
    cards = [one.device for one in flat if isinstance(one, CardTensor)]
    asked = [one for one in flat if isinstance(one, torch.device)]
    target = (asked or cards or [torch.device("cpu")])[0]
    if target.type == "meta" and target.index is not None:
        target = torch.device("cuda", target.index)
    if target.type == "cuda" and target.index is None:
        target = torch.device("cuda:0")
    plain = tree_map(_on_processor, (args, kwargs))
    if name == "aten::_pin_memory":
        return args[0]
    found = func(*plain[0], **plain[1])
    if func._schema.is_mutable:
        return args[0] if name.endswith("_") else kwargs.get("out", found)

    def placed(one: Any) -> Any:
        return CardTensor(one, target) if type(one) is torch.Tensor and target.type == "cuda" else one

    return tree_map(placed, found)


def _on_processor(one: Any) -> Any:
    if isinstance(one, torch.device):
        return torch.device("cpu")
    return one.numbers if isinstance(one, CardTensor) else one


def _by_host(flat: list[Any]) -> bool:
    """Whether all tensors but the first are on the host, as indices may be."""
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    return all(one.device.type == "cpu" for one in tensors[1:])


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """torch's attention by the kernel of the processor; otherwise torch's own code would choose one for its devices."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    function = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return function(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


STATS = {name: {"all": {"current": 0, "peak": 0}} for name in ("allocated_bytes", "reserved_bytes")}


class Cards(TorchDispatchMode):
    """Operations that make tensors of cards, which have none among their arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return performed(func, args, kwargs or {})


@contextmanager
def cards(monkeypatch: Any) -> Iterator[None]:
    """A context in which there seem to be cards; their number and sizes are not asked for."""
    fakes = {
        "_lazy_init": lambda: None,
        "max_memory_allocated": lambda card=None: 0,
        "memory_stats_as_nested_dict": lambda device=None: STATS,
        "reset_peak_memory_stats": lambda card=None: None,
        "synchronize": lambda card=None: None,
        "empty_cache": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    without = {True: torch.no_grad, False: nullcontext}  # a tensor of inference can't be a stand-in
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: without[mode]())
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…) is made on the processor, and copied
    try:
        with Cards():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)

"""What memory tensors take, traced operation by operation: bytes alive now and at peak, by owner.

A tensor that comes out of an operation with memory of its own counts from then on, rounded up as the allocator does,
until nothing refers to that memory any more. So the peak is that of the very operations of a forward pass, whether its
tensors have entries or are on the meta device. What an operation takes for itself and gives back before it returns is
not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoplat_devices.pytorch.nested import tensors_in

LINEAR, READ, COPY = (
    torch.ops.aten.linear.default,
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten._to_copy.default,
)
PRODUCTS = {"aten::mm": (0, 1), "aten::bmm": (0, 1), "aten::addmm": (1, 2), "aten::baddbmm": (1, 2)}
"""Name of a product of matrices, without its overload → which of its arguments the factors are.

`torch.utils.flop_counter` knows more of them, and imports Triton, which takes 75 MiB.
"""
ROUNDING = {"cuda": 512, "cpu": 64}
"""Kind of device → bytes that its allocator rounds up to."""
MAPPED = 32 << 20
"""Bytes from which on glibc gives freed memory back at once (DEFAULT_MMAP_THRESHOLD_MAX)."""
FORWARD, LOGITS, GRADIENTS, UNCOUNTED = "activations", "logits", "gradients", "not counted"
"""Owners of what a forward pass makes; of what backpropagation finds for trained weights; of what is not counted."""


FORMS: dict[Any, tuple[list[Any], bool]] = {}
"""Operation and what it is given → (shape, strides and type of each tensor that it makes, whether they are several).

All traces share it: the modes of a plan ask for the same operations again.
"""
IN_PLACE: tuple[list[Any], bool] = ([], False)
"""The entry of an operation whose result is its first argument."""
ALIASING: set[Any] = set()
"""Operations whose results share memory with what they are given."""


class Allocations(TorchDispatchMode):  # type: ignore[misc]  # torch has no types here
    """A context in which the memory of all new tensors is counted.

    Args:
        kind: of the device whose allocator rounds.
        vocabulary: tensors whose last dimension is this long are logits.
        trained: shapes of the trained weights: tensors of these shapes are gradients, when backpropagation makes them.
        adopts: whether tensors that an operation is given and that were there before count for nothing.

    Attributes:
        now: bytes alive.
        peak: the most since the last `reset`.
        at_peak: bytes alive then, by owner.
        most_held: the most since the last `reset` with arrays below `MAPPED` at their most so far, freed or not.
        products: multiplications and additions in products of matrices since the last `reset`.
        truth: what a condition on a tensor without entries gives.
    """

    def __init__(
        self, kind: str, vocabulary: int, trained: frozenset[tuple[int, ...]] = frozenset(), adopts: bool = False
    ) -> None:
        super().__init__()
        self.now = self.peak = self.most_held = self.products = 0
        self.at_peak: Counter[str] = Counter()
        self.truth, self.trained, self._adopts = False, trained, adopts
        self._block, self._vocabulary = ROUNDING.get(kind, 64), vocabulary
        self._alive: Counter[str] = Counter()
        self._small = self._most_small = 0
        self._known: dict[int, Any] = {}
        self._owner = ""
        self._random = Random(0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch puts its compiler around `__torch_dispatch__`, which would import it: 70 MiB, and a second."""
        return False

    def reset(self) -> None:
        """Begin a new peak from what is alive."""
        self.peak, self.at_peak, self.products = self.now, Counter(self._alive), 0
        self.most_held = self._held

    @contextmanager
    def owned(self, owner: str) -> Iterator[None]:
        """New tensors inside belong to this owner."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    @property
    def _held(self) -> int:
        """Bytes alive, and those of small arrays that were freed."""
        return self.now - self._small + self._most_small

    def enter(self, tensor: Any, owner: str) -> None:
        """Count the memory of a tensor that is there already."""
        with self.owned(owner):
            for part in parts(tensor):
                self._note(part)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind not in (torch.Tensor, torch.nn.Parameter) for kind in types):
            return NotImplemented  # a tensor of several parts first says what is to be done with them
        if func is LINEAR and args[0].is_meta and args[0].is_contiguous():
            found = args[0].new_empty(*args[0].shape[:-1], args[1].shape[0])  # what it is made of takes no more
            self._note(found)
            self.products += 2 * args[0].numel() * args[1].shape[0]
            return found
        if _is_composite(func):
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if func is READ:
                return self._answer(args[0])
            if func is COPY and torch.device(kwargs.get("device") or "meta").type == "cpu":
                return self._entries(args[0])
        if self._adopts:
            with self.owned(UNCOUNTED):
                for tensor in tensors_in((args, kwargs)):
                    self._note(tensor)
        found = self._made(func, args, kwargs)
        if factors := _factors(func):
            left, right = (args[index] for index in factors)
            self.products += 2 * left.numel() * right.shape[-1]
        for tensor in tensors_in(found):
            self._note(tensor)
        return found

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation; on shapes, made from those that it had before with arguments like these."""
        given = [*tensors_in((args, kwargs))]
        if not given or not all(one.is_meta for one in given) or func in ALIASING:
            return func(*args, **kwargs)
        try:
            name = (func, torch.is_inference_mode_enabled(), *map(_like, args), *map(_like, kwargs.items()))
            known = FORMS.get(name)
        except TypeError:  # an argument that can't be a key
            return func(*args, **kwargs)
        if known is None:
            found = func(*args, **kwargs)
            made = found if isinstance(found, tuple) else (found,)
            if found is args[0]:
                FORMS[name] = IN_PLACE
            elif not all(isinstance(one, torch.Tensor) for one in made):
                return found
            elif {id(one.untyped_storage()) for one in given} & {id(one.untyped_storage()) for one in made}:
                ALIASING.add(func)
            else:
                FORMS[name] = [(one.shape, one.stride(), one.dtype) for one in made], isinstance(found, tuple)
            return found
        if known is IN_PLACE:
            return args[0]
        forms, is_several = known
        again = tuple(torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in forms)
        return again if is_several else again[0]

    def _note(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known or not storage.nbytes():
            return
        size = 0 if self._owner == UNCOUNTED else -(-storage.nbytes() // self._block) * self._block
        own = LOGITS if tensor.dim() and tensor.shape[-1] == self._vocabulary else FORWARD
        if self.trained and tuple(tensor.shape) in self.trained and _is_backward():
            own = GRADIENTS
        owner = self._owner or own
        self._known[id(storage)] = weakref.finalize(storage, self._freed, id(storage), size, owner)
        self.now += size
        self._alive[owner] += size
        if size < MAPPED:
            self._small += size
            self._most_small = max(self._most_small, self._small)
        self.most_held = max(self.most_held, self._held)
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, Counter(self._alive)

    def _freed(self, name: int, size: int, owner: str) -> None:
        del self._known[name]
        self.now -= size
        self._small -= size if size < MAPPED else 0
        self._alive[owner] -= size

    def _answer(self, tensor: Any) -> Any:
        """A number in place of one that has to be read: losses differ, and lengths and counts are 0."""
        if tensor.dtype is torch.bool:
            return self.truth
        return 2 + self._random.gauss(0, 1) if tensor.is_floating_point() else 0

    def _entries(self, tensor: Any) -> Any:
        """Numbers in place of those of a small tensor that has to be read."""
        made = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
        own = torch.Generator().manual_seed(self._random.getrandbits(62))  # two equal losses would be no slope
        return made.normal_(2, 1, generator=own) if made.is_floating_point() else made


def _is_backward() -> bool:
    """Whether an operation is one of a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def _like(value: Any) -> Any:
    """All that the form of a result depends on, of an argument."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype
    return tuple(map(_like, value)) if isinstance(value, list | tuple) else (type(value), value)


@cache
def _factors(func: Any) -> tuple[int, int] | None:
    """Which arguments of an operation are the factors of a product; None for what is no product."""
    return PRODUCTS.get(func.name().partition(".")[0].rstrip("_"))


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is made of others."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def parts(tensor: Any) -> list[Any]:
    """The plain tensors that a tensor consists of: itself, or the values and scales of a quantised one."""
    held = tensor.data if isinstance(tensor, torch.nn.Parameter) else tensor
    names = held.__tensor_flatten__()[0] if hasattr(held, "__tensor_flatten__") else []
    return [part for name in names for part in parts(getattr(held, name))] or [held]

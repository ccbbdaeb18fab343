"""Stand-ins for trainable parameters: tensors that dispatch every use of them to the weights of all branches.

The batch is stacked once for each branch, branch after branch. Whatever a layer computes from a stand-in and rows of
the stack is computed for each branch with its own weights; all else in the model runs once on the whole stack. Uses are
recognised by function of torch, not by family of models; a use that is not in the tables below is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch.nested import tensors_in
from zoplat_devices.pytorch.strategies import products
from zoplat_devices.pytorch.strategies.branch_weights import BranchWeights

ROWWISE = {
    "linear": 0,
    "embedding": 0,
    "layer_norm": 0,
    "rms_norm": 0,
    "group_norm": 0,
    "conv1d": 0,
    "matmul": 0,
    "__matmul__": 0,
    "mm": 0,
    "addmm": 1,
}
"""Functions of rows and weights that treat every row alike, and the argument that holds the rows."""

ELEMENTWISE = {
    *("mul", "multiply", "__mul__", "__rmul__", "add", "__add__", "__radd__"),
    *("sub", "subtract", "__sub__", "rsub", "__rsub__", "div", "divide", "true_divide", "__truediv__"),
}
"""Functions of two operands that broadcast one along the rows of the other."""

METADATA = {"size", "dim", "ndimension", "numel", "nelement", "stride", "__len__", "element_size", "get_device"} | {
    *("is_floating_point", "is_complex", "is_contiguous", "is_inference", "__get__"),
}
"""Methods and attributes that describe a tensor without its entries, unless what they return is a tensor."""


class StandIn(torch.Tensor):  # type: ignore[misc]  # torch has no types here
    """A trainable tensor, or one computed from such, whose uses are dispatched.

    Attributes:
        dispatcher: handles every function that gets this tensor.
        stored: the tensor at θ.
        block_names: those that it depends on.
        block: the one that it is; None where it was computed.
        value: branch → the tensor at θ + d of that branch.
    """

    dispatcher: Dispatcher
    stored: Any
    block_names: frozenset[str]
    block: Block | None
    value: Callable[[int], Any]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of any of its functions that gets a stand-in."""
        if func is functional.linear and not kwargs and isinstance(args[1], StandIn):
            done = args[1].dispatcher.linear(args[0], args[1], args[2] if len(args) > 2 else None)
            if done is not None:
                return done
        found = [x for x in tensors_in((args, kwargs)) if isinstance(x, StandIn)]
        return found[0].dispatcher.call(func, args, kwargs or {}, found)


class Dispatcher:
    """Computes the functions of torch that get stand-ins, in forward passes over n copies of a batch.

    Attributes:
        expected: names of the blocks that some branch probes; all of them in a trial run.
        seen: names of those that met rows of the stack.
    """

    expected: set[str]
    seen: set[str]

    def __init__(self) -> None:
        self._stand_ins: dict[int, StandIn] = {}
        self._views: dict[int, tuple[Any, Any]] = {}

    def begin(self, weights: BranchWeights, rows: int, checks: bool) -> None:
        """Get ready for a pass.

        Args:
            weights: of all branches.
            rows: sequences of all copies together.
            checks: whether this is a trial run on equal branches, in which rows out of order are found.
        """
        self.expected = {name for name, branches in weights.probed.items() if branches or checks}
        self.seen = set()
        self._weights, self._n, self._rows, self._checks = weights, weights.count, rows, checks

    def stand_in(self, parameter: Any, block: Block) -> Any:
        """A stand-in for a parameter; for a single branch the weights themselves, where they are formed."""
        formed = self._weights.formed(block) if self._n == 1 else None
        if formed is not None:
            self.seen.add(block.name)
            known = self._views.get(id(parameter))
            if known is None or known[0] is not formed:
                known = self._views[id(parameter)] = formed, formed.view(parameter.shape)
            return known[1]
        if id(parameter) not in self._stand_ins:
            stored = parameter.detach()
            value = partial(self._value, block, stored)
            self._stand_ins[id(parameter)] = self._made(stored, frozenset({block.name}), value, block)
        return self._stand_ins[id(parameter)]

    def _value(self, block: Block, stored: Any, branch: int) -> Any:
        return self._weights.of(branch, block, stored)

    def linear(self, x: Any, weight: StandIn, bias: Any) -> Any:
        """What `torch.nn.functional.linear` gives for all branches, in the usual case; None in any other.

        That is a pass that is no trial, rows of the whole stack, a matrix that is a block, and a bias that is one or
        is not trained.
        """
        block, stored = weight.block, weight.stored
        if block is None or self._checks or not _is_plain(x) or x.shape[0] % self._rows or stored.dim() != 2:
            return None
        if isinstance(bias, StandIn):
            formed = self._weights.formed(bias.block) if bias.block is not None else None
            if formed is None:
                return None
            self.seen |= bias.block_names
            bias = formed.view(self._n, 1, -1)
        self.seen.add(block.name)
        stack = x if self._n == 1 and x.dim() == 3 and len(x) == 1 else x.reshape(self._n, -1, x.shape[-1])
        y = products.matrix_product(self._weights, block, stored, stack, True, bias)
        return y.view(*x.shape[:-1], -1)

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], found: list[StandIn]
    ) -> Any:
        """The results of a function for all branches, stacked; or another stand-in where no rows are involved.

        Raises:
            ZoplatError: the function is not known, or it reads entries of the weights.
        """
        name = getattr(func, "__name__", str(func))
        if name in METADATA:
            fact = func(*_replaced(args), **_replaced(kwargs))
            if not isinstance(fact, torch.Tensor):
                return fact
        if name == "embedding" and isinstance(args[0], StandIn):  # torch's own has the weight first
            func, args, kwargs = functional.embedding, (args[1], args[0], *args[2:3]), {}
        place = ROWWISE.get(name)
        if place is not None and place < len(args) and _is_plain(args[place]):
            self._see(found)
            return self._rowwise(func, name, place, args, kwargs)
        if name in ELEMENTWISE and len(args) == 2 and any(self._spans(x, found[0]) for x in args):
            self._see(found)
            return self._elementwise(func, args, kwargs, found[0])
        is_in_place = name.endswith("_") and (not name.endswith("__") or name.startswith(("__i", "__set")))
        others = tensors_in(kwargs if name in ELEMENTWISE else (args, kwargs))
        if is_in_place or any(_is_plain(x) and x.dim() for x in others):
            raise self._unknown(name, found)
        return self._deferred(func, name, args, kwargs, found)

    def _rowwise(
        self, func: Callable[..., Any], name: str, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A function of `ROWWISE`: the costly ones for all branches at once, any other one branch after the other."""
        stack = self._by_branch(args[place])
        weight: Any = args[2] if name == "addmm" else args[1] if len(args) > 1 else None
        is_block = isinstance(weight, StandIn) and weight.block is not None and len(weight.block.shape) == weight.dim()
        if name == "linear" and (is_block or _is_plain(weight)):
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return self._product(stack, weight, bias, transposed=True)
        if name == "addmm" and is_block and not kwargs:
            return self._product(stack, weight, args[0], transposed=False)
        if name == "embedding":
            if kwargs.get("max_norm") is not None:
                raise self._unknown("embedding with max_norm", [weight])
            if is_block:
                found = products.embedding(self._weights, weight.block, stack.reshape(self._n, -1))
                return found.view(*stack.shape, -1).flatten(0, 1)
        each = []
        for branch in range(self._n):
            given = [*args[:place], stack[branch], *args[place + 1 :]]
            each.append(func(*_replaced(given, branch), **_replaced(kwargs, branch)))
        return torch.cat(each)

    def _product(self, stack: Any, weight: Any, bias: Any, transposed: bool) -> Any:
        """Rows (n, …, in) times a matrix, or times its transpose, plus a bias; the branches one after the other."""
        x = stack.reshape(self._n, -1, stack.shape[-1])
        if isinstance(bias, StandIn):
            bias = self._side_by_side(bias, 3)
        if isinstance(weight, StandIn) and weight.block is not None:
            y = products.matrix_product(self._weights, weight.block, weight.stored, x, transposed, bias)
        else:
            y = functional.linear(x, weight)
            y = y if bias is None else y.add_(bias)
        return y.view(-1, *stack.shape[2:-1], y.shape[-1])

    def _elementwise(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weight: StandIn
    ) -> Any:
        stack = self._by_branch(next(x for x in args if _is_plain(x)))
        values = self._side_by_side(weight, stack.dim())
        return func(*(stack if _is_plain(x) else values for x in args), **kwargs).flatten(0, 1)

    def _deferred(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        found: list[StandIn],
    ) -> Any:
        """A function of weights alone: a stand-in, computed for a branch when it meets rows."""
        names = frozenset[str]().union(*(weight.block_names for weight in found))

        def made(stored: Any, choose: Callable[[Any], Any]) -> Any:
            if isinstance(stored, tuple | list):
                return type(stored)(made(item, partial(_item, choose, i)) for i, item in enumerate(stored))
            if not isinstance(stored, torch.Tensor):  # a number read from the weights
                raise self._unknown(name, found)
            return self._made(stored, names, lambda i: choose(func(*_replaced(args, i), **_replaced(kwargs, i))))

        return made(func(*_replaced(args), **_replaced(kwargs)), lambda value: value)

    def _made(
        self, stored: Any, names: frozenset[str], value: Callable[[int], Any], block: Block | None = None
    ) -> StandIn:
        made: StandIn = stored.as_subclass(StandIn)
        made.dispatcher, made.stored, made.block_names, made.value, made.block = self, stored, names, value, block
        return made

    def _by_branch(self, x: Any) -> Any:
        """Rows of the stack as (n, …); what all sequences share, such as positions, is repeated."""
        if x.shape[0] == 1:
            x = x.expand(self._rows, *x.shape[1:])
        if x.shape[0] % self._rows:
            raise ZoplatError(
                f"A layer that is trained sees {x.shape[0]} rows where the batched strategy has stacked {self._rows} "
                "sequences. Use -o device.strategy=sequential."
            )
        stack = x.unflatten(0, (self._n, -1))
        if self._checks:
            one, other = stack[0].double(), stack[1].double()
            if (one - other).norm() > 0.1 * one.norm():
                raise ZoplatError(
                    "A layer that is trained sees the rows of the batch in an order that the batched strategy can't "
                    "follow. Use -o device.strategy=sequential."
                )
        return stack

    def _spans(self, x: Any, weight: StandIn) -> bool:
        """Whether an operand has rows of the stack along which a weight is broadcast."""
        if not _is_plain(x) or x.dim() < max(1, weight.dim()):
            return False
        return bool(x.dim() > weight.dim() or (weight.shape[0] == 1 and x.shape[0] % self._rows == 0))

    def _side_by_side(self, weight: StandIn, dimensions: int) -> Any:
        """A weight of all branches, (n, 1, …, its shape), with so many dimensions."""
        stacked = self._weights.formed(weight.block) if weight.block is not None else None
        if stacked is None:
            stacked = torch.stack([weight.value(branch) for branch in range(self._n)])
        return stacked.view(self._n, *[1] * (dimensions - 1 - weight.dim()), *weight.stored.shape)

    def _see(self, found: Sequence[StandIn]) -> None:
        for weight in found:
            self.seen |= weight.block_names

    def _unknown(self, function: str, found: Sequence[StandIn]) -> ZoplatError:
        return ZoplatError(
            f"The model uses {min(found[0].block_names)} in '{function}', which the batched strategy does not know. "
            "Use -o device.strategy=sequential, or leave it out of --tune."
        )


def _item(choose: Callable[[Any], Any], index: int, whole: Any) -> Any:
    return choose(whole)[index]


def _is_plain(x: Any) -> bool:
    """Whether x is a tensor and no stand-in."""
    return isinstance(x, torch.Tensor) and not isinstance(x, StandIn)


def _replaced(x: Any, branch: int | None = None) -> Any:
    """The same with stand-ins replaced by the tensors of a branch, or by those at θ."""
    if isinstance(x, tuple | list):
        return type(x)(_replaced(item, branch) for item in x)
    if isinstance(x, dict):
        return {name: _replaced(item, branch) for name, item in x.items()}
    if isinstance(x, StandIn):
        return x.stored if branch is None else x.value(branch)
    return x

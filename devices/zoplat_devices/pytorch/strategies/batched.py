"""The batched strategy: losses at several points near θ by one forward pass, with the weights left alone.

The batch is stacked once for each point, branch after branch. While the model runs, stand-ins take the place of
its trainable parameters: tensors that know where they are used. Whatever a layer computes with a stand-in and
rows of the stack is computed for each branch with θ + d of that branch: a low-rank direction as a side term
beside one product for all branches, any other by weights that are formed a tile at a time in scratch. All else in
the model runs once on the whole stack. It is told by functions, not by families of models: a use that is not one
of those below is an error, and so is a parameter that was to be probed and never met a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from zoplat.core.blocks import Block, Tile
from zoplat.core.direction import ZERO, Direction, Draw
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.text.layout import cut

FORMED = 1 << 22
"""Entries of weights that are formed at a time, over all branches, about: what a last-level cache holds."""

ROWS = {
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

ENTRYWISE = {
    *("mul", "multiply", "__mul__", "__rmul__", "add", "__add__", "__radd__"),
    *("sub", "subtract", "__sub__", "rsub", "__rsub__", "div", "divide", "true_divide", "__truediv__"),
}
"""Functions of two operands that broadcast one along the rows of the other."""

FACTS = {"size", "dim", "ndimension", "numel", "nelement", "stride", "__len__", "element_size", "get_device"} | {
    *("is_floating_point", "is_complex", "is_contiguous", "is_inference", "__get__"),
}
"""Methods and attributes that tell what a tensor is, and nothing of its entries; unless they are tensors themselves."""


class Branches:
    """Losses at θ + d for several d, for the models of one session.

    Args:
        model: whose parameters the blocks are.
        space: at θ whenever losses are asked.
        scorer: runs the model on a batch.
    """

    def __init__(self, model: Any, space: ParameterSpace, scorer: Scorer) -> None:
        self.space = space
        self.scorer = scorer
        self.checked = False
        self.scratch: dict[torch.dtype, Any] = {}
        blocks = {block.array.data_ptr(): block for block in space.blocks}
        self.owned = [
            (module._parameters, name, parameter, blocks[parameter.data_ptr()])
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.data_ptr() in blocks
        ]

    @property
    def bytes(self) -> int:
        """Memory held between calls."""
        return sum(int(array.nbytes) for array in self.scratch.values())

    def check(self, rows: Sequence[Row]) -> None:
        """Raise ZoplatError when a use of a trainable parameter can't be followed."""
        self._pass(rows, [ZERO, ZERO], checks=True)
        self.checked = True

    def losses(self, rows: Sequence[Row], directions: Sequence[Direction]) -> list[float]:
        """L(θ + d) for each d, in as few passes as `TOKENS` allows.

        Raises:
            ZoplatError: a trainable parameter is used in a way that can't be followed.
        """
        if not self.checked:
            self.check(rows)
        tokens = self.scorer.sequences(rows) * max(row.length for row in rows)
        return [loss for some in cut(directions, tokens) for loss in self._pass(rows, some, checks=False)]

    def _pass(self, rows: Sequence[Row], directions: Sequence[Direction], checks: bool) -> list[float]:
        with torch.inference_mode():
            stack = _Stack(self, directions, self.scorer.sequences(rows), checks)
            with self._standing_in(stack):
                losses = self.scorer.losses(rows, len(directions))
        missed = stack.expected - stack.seen
        if missed:
            raise ZoplatError(
                f"{min(missed)} has no part in the forward pass that could be seen, so the batched strategy can't probe "
                "it. Use -o device.strategy=sequential, or leave it out of --tune."
            )
        return losses

    @contextmanager
    def _standing_in(self, stack: _Stack) -> Iterator[None]:
        """Stand-ins in the place of every parameter that differs between branches."""
        owned = [(held, name, p, block) for held, name, p, block in self.owned if block.name in stack.expected]
        try:
            for held, name, parameter, block in owned:
                held[name] = stack.stand_in(parameter, block)
            yield
        finally:
            for held, name, parameter, _ in owned:
                held[name] = parameter


class StandIn(torch.Tensor):  # type: ignore[misc]  # torch has no types here
    """A trainable tensor, or one made of such, whose uses are answered by the stack.

    Attributes:
        stack: answers.
        plain: the tensor at θ.
        names: of the blocks that it depends on.
        block: the one that it is, None where it was computed.
        value: branch → the tensor at θ + d of that branch.
    """

    stack: _Stack
    plain: Any
    names: frozenset[str]
    block: Block | None
    value: Callable[[int], Any]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Whatever torch is asked to do with it."""
        found = [x for x in _tensors((args, kwargs)) if isinstance(x, StandIn)]
        return found[0].stack.answer(func, args, kwargs or {}, found)


class _Stack:
    """One pass over n copies of a batch.

    Attributes:
        n: branches.
        rows: sequences of all copies.
        expected: names of the blocks that some branch probes; all of them in a check.
        seen: names of those that met rows of the stack.
    """

    def __init__(self, strategy: Branches, directions: Sequence[Direction], sequences: int, checks: bool) -> None:
        self.strategy, self.space, self.directions, self.checks = strategy, strategy.space, directions, checks
        self.n = len(directions)
        self.rows = self.n * sequences
        self.probed = {
            block.name: [i for i, direction in enumerate(directions) if direction.touches(block)]
            for block in self.space.blocks
        }
        self.expected = {name for name, branches in self.probed.items() if branches or checks}
        self.seen: set[str] = set()
        self.draws = list(dict.fromkeys(draw for direction in directions for draw, _ in direction))
        self.shares: dict[Any, Any] = {}
        self.points = self.space.points(directions)
        self.formed = self._ahead()

    def stand_in(self, parameter: Any, block: Block) -> StandIn:
        """For a parameter."""

        def value(branch: int) -> Any:
            if block.name in self.formed:
                return self.formed[block.name][branch].view(parameter.shape)
            if branch not in self.probed[block.name]:
                return plain
            whole = torch.empty_like(plain)
            self.points.write([Tile(block, 0, block.shape[0])], [branch], whole.view(1, -1))
            return whole

        plain = parameter.detach()
        return self._made(plain, frozenset({block.name}), value, block)

    def answer(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weights: list[StandIn]
    ) -> Any:
        """What a function gives for the branches, stacked; or another stand-in where no row is involved."""
        name = getattr(func, "__name__", str(func))
        if name in FACTS:
            fact = func(*_replaced(args), **_replaced(kwargs))
            if not isinstance(fact, torch.Tensor):
                return fact
        if name == "embedding" and isinstance(args[0], StandIn):  # torch's own has the weight first
            func, args, kwargs = functional.embedding, (args[1], args[0], *args[2:3]), {}
        place = ROWS.get(name)
        if place is not None and place < len(args) and _is_plain(args[place]):
            self._see(weights)
            return self._of_rows(func, name, place, args, kwargs)
        if name in ENTRYWISE and len(args) == 2 and any(self._spans(x, weights[0]) for x in args):
            self._see(weights)
            return self._entrywise(func, args, kwargs, weights[0])
        changes = name.endswith("_") and (not name.endswith("__") or name.startswith(("__i", "__set")))
        others = _tensors(kwargs if name in ENTRYWISE else (args, kwargs))
        if changes or any(_is_plain(x) and x.dim() for x in others):
            raise self._unknown(name, weights)
        return self._computed(func, name, args, kwargs, weights)

    def _of_rows(
        self, func: Callable[..., Any], name: str, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A function of `ROWS`: those that matter at once for all branches, any other one branch after the other."""
        parts = self._parts(args[place])
        weight: Any = args[2] if name == "addmm" else args[1] if len(args) > 1 else None
        own = isinstance(weight, StandIn) and weight.block is not None and len(weight.block.shape) == weight.dim()
        if name == "linear" and (own or _is_plain(weight)):
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return self._plus(self._product(parts, weight, across=True), bias).flatten(0, 1)
        if name == "addmm" and own and not kwargs:
            return self._plus(self._product(parts, weight, across=False), args[0]).flatten(0, 1)
        if name == "embedding":
            if kwargs.get("max_norm") is not None:
                raise self._unknown("embedding with max_norm", [weight])
            if own:
                return self._looked_up(parts, weight.block).flatten(0, 1)
        each = []
        for branch in range(self.n):
            given = [*args[:place], parts[branch], *args[place + 1 :]]
            each.append(func(*_replaced(given, branch), **_replaced(kwargs, branch)))
        return torch.cat(each)

    def _product(self, parts: Any, weight: Any, across: bool) -> Any:
        """Rows (n, …, in) times a matrix, or times its transpose when `across`; (n, …, out)."""
        x = parts.reshape(self.n, -1, parts.shape[-1])
        return self._matrix_product(x, weight, across).view(*parts.shape[:-1], -1)

    def _matrix_product(self, x: Any, weight: Any, across: bool) -> Any:
        if not isinstance(weight, StandIn):
            return functional.linear(x, weight)
        block: Block = weight.block  # type: ignore[assignment]
        if block.name in self.formed:
            formed = self.formed[block.name].view(self.n, *block.shape)
            return torch.bmm(x, formed.transpose(1, 2) if across else formed)
        matrix = weight.plain.t() if across else weight.plain
        probed = self.probed[block.name]
        factors = self._factors(block, x.dtype) if probed else None
        if factors is not None or not probed:
            y = torch.matmul(x, matrix)
            if factors is not None:
                u, v, shares = factors
                first, second = (v, u) if across else (u, v)
                side = torch.matmul(x, first).mul_(shares)
                y.view(-1, y.shape[-1]).addmm_(side.flatten(0, 1), second.t())
            return y
        y = x.new_empty(self.n, x.shape[1], matrix.shape[1])
        others = [branch for branch in range(self.n) if branch not in probed]
        if others:
            y[_selected(others)] = torch.matmul(x[_selected(others)], matrix)
        chosen = _selected(probed)
        for tile in block.tiles(FORMED // len(probed)):
            formed = self._form([tile], probed).view(len(probed), *tile.shape)
            if across:
                y[chosen, :, tile.start : tile.stop] = torch.bmm(x[chosen], formed.transpose(1, 2))
            else:
                share = torch.bmm(x[chosen][:, :, tile.start : tile.stop], formed)
                y[chosen] = share if tile.start == 0 else y[chosen] + share
        return y

    def _looked_up(self, parts: Any, block: Block) -> Any:
        """Rows of an embedding; only those that are needed are formed."""
        ids = parts.reshape(self.n, -1)
        matrix, probed = block.array, self.probed[block.name]
        if block.name in self.formed:
            formed = self.formed[block.name].view(self.n, *block.shape)
            found = torch.stack([functional.embedding(ids[branch], formed[branch]) for branch in range(self.n)])
            return found.view(*parts.shape, -1)
        found = functional.embedding(ids, matrix)
        factors = self._factors(block, found.dtype) if probed else None
        if factors is not None:
            u, v, shares = factors
            rows = functional.embedding(ids, u).mul_(shares)
            found.view(-1, found.shape[-1]).addmm_(rows.flatten(0, 1), v.t())
        elif probed:
            chosen = _selected(probed)
            needed, where = torch.unique(ids[chosen], return_inverse=True)
            tiles = [Tile(block, row, row + 1) for row in needed.tolist()]
            formed = self._form(tiles, probed).view(len(probed), len(tiles), -1)
            found[chosen] = formed[torch.arange(len(probed), device=ids.device)[:, None], where]
        return found.view(*parts.shape, -1)

    def _plus(self, y: Any, bias: Any) -> Any:
        if isinstance(bias, StandIn):
            bias = self._side_by_side(bias, y.dim())
        return y if bias is None else y.add_(bias)

    def _entrywise(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], weight: StandIn
    ) -> Any:
        parts = self._parts(next(x for x in args if _is_plain(x)))
        stacked = self._side_by_side(weight, parts.dim())
        return func(*(parts if _is_plain(x) else stacked for x in args), **kwargs).flatten(0, 1)

    def _computed(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        weights: list[StandIn],
    ) -> Any:
        """A function of weights alone: it is put off until its result meets rows."""
        names = frozenset[str]().union(*(weight.names for weight in weights))

        def made(plain: Any, choose: Callable[[Any], Any]) -> Any:
            if isinstance(plain, tuple | list):
                return type(plain)(made(part, partial(_part_of, choose, i)) for i, part in enumerate(plain))
            if not isinstance(plain, torch.Tensor):  # a number read from the weights
                raise self._unknown(name, weights)
            return self._made(plain, names, lambda i: choose(func(*_replaced(args, i), **_replaced(kwargs, i))))

        return made(func(*_replaced(args), **_replaced(kwargs)), lambda value: value)

    def _made(
        self, plain: Any, names: frozenset[str], value: Callable[[int], Any], block: Block | None = None
    ) -> StandIn:
        made: StandIn = plain.as_subclass(StandIn)
        made.stack, made.plain, made.names, made.value, made.block = self, plain, names, value, block
        return made

    def _parts(self, x: Any) -> Any:
        """Rows of the stack as (n, …); what is the same for all sequences, such as positions, is repeated."""
        if x.shape[0] == 1:
            x = x.expand(self.rows, *x.shape[1:])
        if x.shape[0] % self.rows:
            raise ZoplatError(
                f"A layer that is trained sees {x.shape[0]} rows where the batched strategy has stacked {self.rows} "
                "sequences. Use -o device.strategy=sequential."
            )
        parts = x.unflatten(0, (self.n, -1))
        if self.checks:
            one, other = parts[0].double(), parts[1].double()
            if (one - other).norm() > 0.1 * one.norm():
                raise ZoplatError(
                    "A layer that is trained sees the rows of the batch in an order that the batched strategy can't "
                    "follow. Use -o device.strategy=sequential."
                )
        return parts

    def _spans(self, x: Any, weight: StandIn) -> bool:
        """Whether an operand has rows of the stack along which a weight is broadcast."""
        if not _is_plain(x) or x.dim() < max(1, weight.dim()):
            return False
        return bool(x.dim() > weight.dim() or (weight.shape[0] == 1 and x.shape[0] % self.rows == 0))

    def _side_by_side(self, weight: StandIn, dimensions: int) -> Any:
        """A weight of all branches, (n, 1, …, its shape)."""
        if weight.block is not None and weight.block.name in self.formed:
            stacked = self.formed[weight.block.name]
        else:
            stacked = torch.stack([weight.value(branch) for branch in range(self.n)])
        return stacked.view(self.n, *[1] * (dimensions - 1 - weight.dim()), *weight.plain.shape)

    def _factors(self, block: Block, dtype: torch.dtype) -> tuple[Any, Any, Any] | None:
        """U (rows, k) and V (columns, k), those of all draws side by side, and what each branch has of them (n, 1, k).

        None where a draw has no factors here.
        """
        draws = [draw for draw in self.draws if draw.part is None or block in draw.part]
        found = []
        for draw in draws:
            factors = self.space.factors(draw, block)
            if factors is None:
                return None
            found.append(factors)
        u, v = (side[0] if len(side) == 1 else torch.cat(side, dim=1) for side in zip(*found, strict=True))
        return u.to(dtype), v.to(dtype), self._shares(draws, tuple(each.shape[1] for each, _ in found), dtype)

    def _shares(self, draws: Sequence[Draw], ranks: tuple[int, ...], dtype: torch.dtype) -> Any:
        """Coefficients of some draws in each branch, as often as the draws have factors, (n, 1, k)."""
        name = (tuple(map(id, draws)), ranks, dtype)
        if name not in self.shares:
            held = [dict(direction) for direction in self.directions]
            lines = [
                [one.get(draw, 0.0) for draw, rank in zip(draws, ranks, strict=True) for _ in range(rank)]
                for one in held
            ]
            self.shares[name] = torch.tensor(lines, dtype=dtype, device=self.space.blocks[0].array.device)[:, None]
        return self.shares[name]

    def _form(self, tiles: Sequence[Tile], branches: Sequence[int]) -> Any:
        """θ + d on some tiles for some branches, (branches, entries), in scratch: valid until the next call."""
        entries, like = sum(tile.size for tile in tiles), tiles[0].block.array
        scratch = self.strategy.scratch.get(like.dtype)
        if scratch is None or len(scratch) < len(branches) * entries:
            scratch = self.strategy.scratch[like.dtype] = like.new_empty(len(branches) * entries)
        target = scratch[: len(branches) * entries].view(len(branches), entries)
        self.points.write(tiles, branches, target)
        return target

    def _ahead(self) -> dict[str, Any]:
        """The vectors of all branches, and the matrices too where all that is trained is little: (n, …) by name."""
        blocks = [block for block in self.space.blocks if self.probed[block.name]]
        if self.n * sum(block.size for block in blocks) > FORMED:
            blocks = [block for block in blocks if len(block.shape) == 1]
        formed = {}
        for dtype in {block.array.dtype for block in blocks}:
            alike = [block for block in blocks if block.array.dtype == dtype]
            lines = alike[0].array.new_empty(self.n, sum(block.size for block in alike))
            self.points.write([Tile(block, 0, block.shape[0]) for block in alike], range(self.n), lines)
            for block, line in zip(alike, lines.split([block.size for block in alike], dim=1), strict=True):
                formed[block.name] = line
        return formed

    def _see(self, weights: Sequence[StandIn]) -> None:
        for weight in weights:
            self.seen |= weight.names

    def _unknown(self, function: str, weights: Sequence[StandIn]) -> ZoplatError:
        return ZoplatError(
            f"The model uses {min(weights[0].names)} in '{function}', which the batched strategy does not know. "
            "Use -o device.strategy=sequential, or leave it out of --tune."
        )


def _selected(branches: Sequence[int]) -> Any:
    """A slice where the branches follow one another, for views in place of copies."""
    first, last = branches[0], branches[-1]
    return slice(first, last + 1) if last - first + 1 == len(branches) else list(branches)


def _part_of(choose: Callable[[Any], Any], index: int, whole: Any) -> Any:
    return choose(whole)[index]


def _is_plain(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not isinstance(x, StandIn)


def _tensors(x: Any) -> Iterator[Any]:
    """Tensors of any kind in tuples, lists and dictionaries."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for part in x:
            yield from _tensors(part)
    elif isinstance(x, dict):
        yield from _tensors(tuple(x.values()))


def _replaced(x: Any, branch: int | None = None) -> Any:
    """The same with the tensors of a branch, or those at θ, in the place of stand-ins."""
    if isinstance(x, tuple | list):
        return type(x)(_replaced(part, branch) for part in x)
    if isinstance(x, dict):
        return {name: _replaced(part, branch) for name, part in x.items()}
    if isinstance(x, StandIn):
        return x.plain if branch is None else x.value(branch)
    return x

"""A proof that a graph sees edits of its weights: one weight of each block is moved, and the loss must change.

An inference engine may repack or fold weights when it opens a graph, and then silently ignore what is written into
their arrays. When a graph is made, each move must change its loss as it changes PyTorch's. Whenever it is opened, the
same weights are moved again, several at once and a tenth as far, and the loss must change as it did then. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example

EXAMPLE = Example("The film was long and the food was bad. It was", (" great",), 0, loss="tokens")
"""The example whose loss is taken: short, for it is evaluated many times."""

NUDGE = 0.1  # size of the entries of zero blocks during the proof: LoRA's A has no effect while B is zero
AIM = 0.02  # effect of a move on the loss that is aimed for, a thousand times that of rounding
DOUBLINGS = 10  # most times that a move with too little effect is doubled
LEAST_EFFECT = 1e-3  # least effect that counts; rounding errors are far smaller
TENTH = 0.1  # share of each move where several are made at once: so short that their effects add up
TOGETHER = 8  # moves that are made at once


@dataclass(frozen=True)
class Move:
    """A change of one weight.

    Attributes:
        block: name of its block.
        entry: index of the weight in the flattened block.
        by: the number that is added to it.
        effect: change of the loss; 0 where no move of a weight in this block changes it measurably.
    """

    block: str
    entry: int
    by: float
    effect: float


Losses: TypeAlias = "Callable[[Sequence[Sequence[Move]], float], list[float]]"
"""Sets of moves, and the share of each that is made → the loss with each set of weights moved."""


@dataclass(frozen=True)
class Group:
    """Moves that are made at once.

    Attributes:
        blocks: names of their blocks.
        share: factor of each move.
        effect: change of the graph's loss.
        least: smallest effect among the moves made alone, at that share.
    """

    blocks: tuple[str, ...]
    share: float
    effect: float
    least: float


@dataclass(frozen=True)
class Proof:
    """Moves with their effects on the loss.

    Attributes:
        moves: one for each block.
        groups: of the moves that have an effect.
    """

    moves: tuple[Move, ...]
    groups: tuple[Group, ...] = ()

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Proof:
        """The proof that `dataclasses.asdict` turned into these fields, possibly through JSON."""
        moves = tuple(Move(**move) for move in fields["moves"])
        return cls(moves, tuple(Group(**group) for group in fields["groups"]))

    @property
    def without_effect(self) -> list[str]:
        """Blocks in which no weight changes the loss, such as a bias that is the same for all keys."""
        return [move.block for move in self.moves if not move.effect]

    @property
    def with_effect(self) -> list[Move]:
        """The moves in all other blocks."""
        return [move for move in self.moves if move.effect]

    def compare(self, arrays: Mapping[str, Any], losses: Losses, where: str, slack: float) -> float:
        """Make each move on its own; returns the largest relative error of an effect.

        Args:
            arrays: the trained weights, with the values that they had for `prove`.
            losses: of the graph.
            where: folder of the graph, for the message.
            slack: relative error that is allowed.

        Raises:
            ZoplatError: an edit is ignored, or has another effect than in PyTorch.
        """
        worst = 0.0
        with nudged(arrays):
            [base] = losses([[]], 1.0)
            moved = losses([[move] for move in self.with_effect], 1.0)
            for move, effect in ((move, loss - base) for move, loss in zip(self.with_effect, moved, strict=True)):
                worst = max(worst, abs(effect / move.effect - 1))
                if not worst <= slack:
                    raise ZoplatError(_ignored([move.block], move.effect, effect, where))
        return worst

    def grouped(self, arrays: Mapping[str, Any], losses: Losses) -> Proof:
        """The same proof with groups, and their effects on the graph's loss."""
        with nudged(arrays):
            [base] = losses([[]], 1.0)
            moved = losses([[move] for move in self.with_effect], TENTH)
            alone = {move: loss - base for move, loss in zip(self.with_effect, moved, strict=True)}
            faint = [move for move in self.with_effect if abs(alone[move]) < TENTH * LEAST_EFFECT]
            strong = [move for move in self.with_effect if move not in faint]
            chosen = [(strong[i : i + TOGETHER], TENTH) for i in range(0, len(strong), TOGETHER)]
            chosen += [([move], 1.0) for move in faint]
            groups = []
            for moves, share in chosen:
                total = losses([moves], share)[0] - base
                least = min(abs(alone[move]) for move in moves) if share == TENTH else abs(total)
                groups.append(Group(tuple(move.block for move in moves), share, total, least))
        return Proof(self.moves, tuple(groups))

    def check(self, arrays: Mapping[str, Any], loss: Callable[[], float], where: str) -> float:
        """Make the moves of each group; returns the largest error of an effect, relative to the group's smallest one.

        Raises:
            ZoplatError: an edit is ignored.
        """
        worst, moves = 0.0, {move.block: move for move in self.moves}
        with nudged(arrays):
            base = loss()
            for group in self.groups:
                effect = _moved(arrays, [moves[block] for block in group.blocks], group.share, loss) - base
                worst = max(worst, abs(effect - group.effect) / group.least)
                if not worst <= 0.5:
                    raise ZoplatError(_ignored(group.blocks, group.effect, effect, where))
        return worst


def _ignored(blocks: Sequence[str], expected: float, effect: float, where: str) -> str:
    which = "this weight" if len(blocks) == 1 else "some of these weights"
    return (
        f"Edits of {', '.join(blocks)} should change the loss of the graph in {where} by {expected:.6f}, and change it "
        f"by {effect:.6f}: what is written into {which} is ignored. Delete that folder to have it made again; if that "
        "does not help, use --device cpu."
    )


def prove(arrays: Mapping[str, Any], loss: Callable[[], float], slopes: Callable[[], Mapping[str, Any]]) -> Proof:
    """Find a move in each block that changes the loss, and measure its effect.

    Args:
        arrays: the trained weights by name; edited and restored.
        loss: at what the arrays hold now.
        slopes: gradient of the loss by name.
    """
    with nudged(arrays):
        base, slope = loss(), slopes()
        moves = [
            _move(name, arrays, slope[name], lambda move: _moved(arrays, [move], 1.0, loss) - base) for name in arrays
        ]
    found = [move if move.effect >= LEAST_EFFECT else Move(move.block, 0, 0.0, 0.0) for move in moves]
    return Proof(tuple(found))


def _move(name: str, arrays: Mapping[str, Any], slope: Any, effect: Callable[[Move], float]) -> Move:
    """The weight of a block with the steepest slope, moved far enough to raise the loss, within reason."""
    entry = int(np.abs(slope).argmax())
    steep = float(slope.reshape(-1)[entry])
    most = 100 * max(1.0, float(np.abs(arrays[name]).max()))
    by = float(np.clip(AIM / steep, -most, most)) if steep else most
    tried = []
    for _ in range(DOUBLINGS):
        rise = effect(Move(name, entry, by, 0.0))
        tried.append(Move(name, entry, by, rise if np.isfinite(rise) else 0.0))
        if rise >= AIM / 2 or abs(by) >= most:
            break
        by = float(np.clip(2 * by, -most, most))
    return max(tried, key=lambda move: move.effect)


def one_by_one(arrays: Mapping[str, Any], loss: Callable[[], float]) -> Losses:
    """Losses with weights moved in place, one set of moves after the other.

    Args:
        arrays: the trained weights.
        loss: at what the arrays hold now.
    """
    return lambda several, share: [_moved(arrays, moves, share, loss) for moves in several]


def _moved(arrays: Mapping[str, Any], moves: Sequence[Move], share: float, loss: Callable[[], float]) -> float:
    """The loss with some weights moved; they are restored."""
    weights = [(arrays[move.block].reshape(-1), move.entry, move.by) for move in moves]
    before = [flat[entry] for flat, entry, _ in weights]
    for flat, entry, by in weights:
        flat[entry] += np.float32(share * by)
    moved = loss()
    for (flat, entry, _), value in zip(weights, before, strict=True):
        flat[entry] = value
    return moved


@contextmanager
def nudged(arrays: Mapping[str, Any]) -> Iterator[None]:
    """Within the context, blocks of zeros hold small numbers."""
    zeros = [array for array in arrays.values() if not array.any()]
    for array in zeros:
        array[...] = NUDGE * np.sin(np.arange(array.size, dtype=np.float64)).reshape(array.shape)
    try:
        yield
    finally:
        for array in zeros:
            array[...] = 0

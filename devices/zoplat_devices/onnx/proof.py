"""Whether a graph sees edits of its weights: one weight of each block is moved, and the loss must answer.

An engine may pack or fold weights when it opens a graph and then ignore what is written into them, silently. When a
graph is made, each move must do to its loss what it does in PyTorch. At every opening the same weights are moved again,
several at once and a tenth as far, and the loss must change as it did then. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example

EXAMPLE = Example("The film was long and the food was bad. It was", (" great",), 0, loss="tokens")
"""What the loss of a proof is taken on: short, for it is read many times."""

NUDGE = 0.1  # what blocks of zeros get before the proof, for the other factor of LoRA has no effect beside zeros
AIM = 0.02  # of a move: how far it raises the loss, a thousand times more than rounding does
DOUBLINGS = 10  # of a move that raises the loss too little
FELT = 1e-3  # the least effect that counts
TENTH = 0.1  # of a move, where several are made at once: so short that what they do adds up
TOGETHER = 8  # moves that are made at once


@dataclass(frozen=True)
class Move:
    """A weight that is moved.

    Attributes:
        block: its name.
        entry: number of the weight in it.
        by: what is added.
        effect: what that does to the loss; 0 where no move of a weight was felt.
    """

    block: str
    entry: int
    by: float
    effect: float


@dataclass(frozen=True)
class Group:
    """Moves that are made at once.

    Attributes:
        blocks: of the moves.
        share: of each move that is made.
        effect: what they do to the loss of the graph.
        least: the smallest effect that one of them has.
    """

    blocks: tuple[str, ...]
    share: float
    effect: float
    least: float


@dataclass(frozen=True)
class Proof:
    """What edits do to the loss.

    Attributes:
        moves: one for each block.
        groups: of those that are felt.
    """

    moves: tuple[Move, ...]
    groups: tuple[Group, ...] = ()

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Proof:
        """From what `dataclasses.asdict` and JSON made of it."""
        return cls(tuple(Move(**move) for move in told["moves"]), tuple(Group(**group) for group in told["groups"]))

    @property
    def unfelt(self) -> list[str]:
        """Blocks of which no weight changes the loss, such as a bias that all keys share."""
        return [move.block for move in self.moves if not move.effect]

    @property
    def felt(self) -> list[Move]:
        """The moves of all other blocks."""
        return [move for move in self.moves if move.effect]

    def compare(self, arrays: Mapping[str, Any], loss: Callable[[], float], where: str, slack: float) -> float:
        """Make each move on its own; returns the largest share of an effect that an answer is off by.

        Args:
            arrays: hold what they held for `found`.
            loss: of the graph.
            where: it is.
            slack: the share that is allowed.

        Raises:
            ZoplatError: an edit is ignored, or does something else than it should.
        """
        worst = 0.0
        with nudged(arrays):
            base = loss()
            for move in self.felt:
                told = _moved(arrays, [move], 1.0, loss) - base
                worst = max(worst, abs(told / move.effect - 1))
                if not worst <= slack:
                    raise ZoplatError(_ignored([move.block], move.effect, told, where))
        return worst

    def grouped(self, arrays: Mapping[str, Any], loss: Callable[[], float]) -> Proof:
        """The same with groups, and with what they do to the loss of the graph."""
        with nudged(arrays):
            base = loss()

            def effect(moves: Sequence[Move], share: float) -> float:
                return _moved(arrays, moves, share, loss) - base

            alone = {move: effect([move], TENTH) for move in self.felt}
            faint = [move for move in self.felt if abs(alone[move]) < TENTH * FELT]
            strong = [move for move in self.felt if move not in faint]
            chosen = [(strong[i : i + TOGETHER], TENTH) for i in range(0, len(strong), TOGETHER)]
            chosen += [([move], 1.0) for move in faint]
            groups = []
            for moves, share in chosen:
                told = effect(moves, share)
                least = min(abs(alone[move]) for move in moves) if share == TENTH else abs(told)
                groups.append(Group(tuple(move.block for move in moves), share, told, least))
        return Proof(self.moves, tuple(groups))

    def check(self, arrays: Mapping[str, Any], loss: Callable[[], float], where: str) -> float:
        """Make the moves of each group; returns the largest share of a smallest effect that an answer is off by.

        Raises:
            ZoplatError: an edit is ignored.
        """
        worst, moves = 0.0, {move.block: move for move in self.moves}
        with nudged(arrays):
            base = loss()
            for group in self.groups:
                told = _moved(arrays, [moves[block] for block in group.blocks], group.share, loss) - base
                worst = max(worst, abs(told - group.effect) / group.least)
                if not worst <= 0.5:
                    raise ZoplatError(_ignored(group.blocks, group.effect, told, where))
        return worst


def _ignored(blocks: Sequence[str], effect: float, told: float, where: str) -> str:
    which = "this weight" if len(blocks) == 1 else "some of these weights"
    return (
        f"Edits of {', '.join(blocks)} should change the loss of the graph in {where} by {effect:.6f}, and change it "
        f"by {told:.6f}: what is written into {which} is ignored. Delete that folder to have it made again; if that "
        "does not help, use --device cpu."
    )


def found(arrays: Mapping[str, Any], loss: Callable[[], float], slopes: Callable[[], Mapping[str, Any]]) -> Proof:
    """Moves that are felt, and what they do.

    Args:
        arrays: the trained weights by name, edited and put back.
        loss: at the weights as they stand.
        slopes: its gradient by name.
    """
    with nudged(arrays):
        base, slope = loss(), slopes()
        moves = [
            _move(name, arrays, slope[name], lambda move: _moved(arrays, [move], 1.0, loss) - base) for name in arrays
        ]
    felt = [move if move.effect >= FELT else Move(move.block, 0, 0.0, 0.0) for move in moves]
    return Proof(tuple(felt))


def _move(name: str, arrays: Mapping[str, Any], slope: Any, effect: Callable[[Move], float]) -> Move:
    """The weight with the steepest slope of a block, moved until the loss has risen enough or the move is absurd."""
    entry = int(np.abs(slope).argmax())
    steep = float(slope.reshape(-1)[entry])
    most = 100 * max(1.0, float(np.abs(arrays[name]).max()))
    by = float(np.clip(AIM / steep, -most, most)) if steep else most
    tried = []
    for _ in range(DOUBLINGS):
        told = effect(Move(name, entry, by, 0.0))
        tried.append(Move(name, entry, by, told if np.isfinite(told) else 0.0))
        if told >= AIM / 2 or abs(by) >= most:
            break
        by = float(np.clip(2 * by, -most, most))
    return max(tried, key=lambda move: move.effect)


def _moved(arrays: Mapping[str, Any], moves: Sequence[Move], share: float, loss: Callable[[], float]) -> float:
    """The loss with some weights moved, which are then put back."""
    places = [(arrays[move.block].reshape(-1), move.entry, move.by) for move in moves]
    before = [flat[entry] for flat, entry, _ in places]
    for flat, entry, by in places:
        flat[entry] += np.float32(share * by)
    told = loss()
    for (flat, entry, _), value in zip(places, before, strict=True):
        flat[entry] = value
    return told


@contextmanager
def nudged(arrays: Mapping[str, Any]) -> Iterator[None]:
    """Blocks of zeros hold a few small numbers meanwhile."""
    zeros = [array for array in arrays.values() if not array.any()]
    for array in zeros:
        array[...] = NUDGE * np.sin(np.arange(array.size, dtype=np.float64)).reshape(array.shape)
    try:
        yield
    finally:
        for array in zeros:
            array[...] = 0

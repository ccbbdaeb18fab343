"""Whether a graph sees edits of its weights: one weight of each block is moved, and the loss must answer.

An engine may pack or fold weights when it opens a graph and then ignore what is written into them, silently. The
moves and what they do to the loss are found once in PyTorch. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoplat.device import Example
from zoplat.errors import ZoplatError

EXAMPLE = Example("The film was long and the food was bad. It was", (" great",), 0, loss="tokens")
"""What the loss of a proof is taken on: short, for it is read many times."""

NUDGE = 0.1  # what blocks of zeros get before the proof, for the other factor of LoRA has no effect beside zeros
AIM = 0.02  # of a move: how far it raises the loss, a thousand times more than rounding does
DOUBLINGS = 10  # of a move that raises the loss too little
FELT = 1e-3  # the least effect that counts


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
class Proof:
    """What edits do to the loss.

    Attributes:
        moves: one for each block.
        slack: share of an effect that an answer may be off by.
    """

    moves: tuple[Move, ...]
    slack: float

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Proof:
        """From what `dataclasses.asdict` and JSON made of it."""
        return cls(tuple(Move(**move) for move in told["moves"]), told["slack"])

    @property
    def unfelt(self) -> list[str]:
        """Blocks of which no weight changes the loss, such as a bias that all keys share."""
        return [move.block for move in self.moves if not move.effect]

    def check(self, arrays: Mapping[str, Any], loss: Callable[[], float], where: str) -> float:
        """The largest share of an effect that an answer is off by, where arrays hold what they held for `found`.

        Raises:
            ZoplatError: an edit is ignored, or does something else than it should.
        """
        worst = 0.0
        with nudged(arrays):
            base = loss()
            for move in (move for move in self.moves if move.effect):
                told = _moved(arrays, move, loss) - base
                off = abs(told / move.effect - 1)
                if not off <= self.slack:
                    raise ZoplatError(_ignored(move, told, where))
                worst = max(worst, off)
        return worst


def _ignored(move: Move, told: float, where: str) -> str:
    return (
        f"An edit of {move.block} should change the loss of the graph in {where} by {move.effect:.6f}, and changes it "
        f"by {told:.6f}: what is written into this weight is ignored. Delete that folder to have it made again; if "
        "that does not help, use --device cpu."
    )


def found(
    arrays: Mapping[str, Any], loss: Callable[[], float], slopes: Callable[[], Mapping[str, Any]], slack: float
) -> Proof:
    """Moves that are felt, and what they do.

    Args:
        arrays: the trained weights by name, edited and put back.
        loss: at the weights as they stand.
        slopes: its gradient by name.
        slack: of the proof.
    """
    with nudged(arrays):
        base, slope = loss(), slopes()
        moves = [_move(name, arrays, slope[name], lambda move: _moved(arrays, move, loss) - base) for name in arrays]
    felt = [move if move.effect >= FELT else Move(move.block, 0, 0.0, 0.0) for move in moves]
    return Proof(tuple(felt), slack)


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


def _moved(arrays: Mapping[str, Any], move: Move, loss: Callable[[], float]) -> float:
    """The loss with a weight moved, which is then put back."""
    flat = arrays[move.block].reshape(-1)
    before = flat[move.entry]
    flat[move.entry] += np.float32(move.by)
    told = loss()
    flat[move.entry] = before
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

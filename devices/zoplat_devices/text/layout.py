"""Where the tokens of a batch stand that its scores are taken from: lists of numbers, for any runtime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from zoplat.core.direction import Direction
from zoplat.core.example import Row
from zoplat.core.model_spec import Head

TOKENS = 512
"""Of a pass over several copies of a batch, about: products of matrices gain nothing from more rows, and activations
cost memory. Batches of so many tokens are asked one point after the other."""


class Place(NamedTuple):
    """A token that is scored.

    Attributes:
        sequence: its number.
        position: where it is predicted; of a causal model counted from the end of its sequence, so negative.
        token: its id.
        slot: row · options + option.
        share: its part in the score of its option: 1 / tokens, or 1 where they are summed.
    """

    sequence: int
    position: int
    token: int
    slot: int
    share: float


@dataclass(frozen=True)
class Layout:
    """Rows as sequences, and what is asked of them.

    Attributes:
        sequences: token ids, of the encoder where there is one.
        decoder: token ids of the decoder's; empty without one.
        owner: row of each sequence of a decoder.
        options: the most that a row has.
        places: the tokens that are scored; none of a classifier.
    """

    sequences: list[list[int]]
    decoder: list[list[int]]
    owner: list[int]
    options: int
    places: list[Place]


def laid_out(rows: Sequence[Row], head: Head, right: bool) -> Layout:
    """The sequences of a batch, of all options or of the right ones alone where the loss is that of their tokens."""
    made = Layout([], [], [], max(len(row.example.options) for row in rows), [])
    for index, row in enumerate(rows):
        tokens = row.tokens
        chosen = [row.example.label] if right and right_only(row) else range(len(tokens.targets))
        lines = [0] if tokens.is_shared else list(chosen)
        first = len(made.decoder) if tokens.decoder else len(made.sequences)
        if tokens.decoder:
            made.decoder.extend(tokens.decoder[line] for line in lines)
        made.owner.extend(index for _ in lines)
        made.sequences.extend(tokens.inputs if len(tokens.inputs) == 1 else [tokens.inputs[line] for line in lines])
        for number, option in enumerate(chosen):
            target = tokens.targets[option]
            share = 1.0 if row.example.score == "sum" else 1 / len(target)
            sequence = first if tokens.is_shared else first + number
            for place, token in enumerate(target):
                at = place - len(target) if head == "causal" else place
                made.places.append(Place(sequence, at, token, index * made.options + option, share))
    return made


def right_only(row: Row) -> bool:
    """Whether the loss of a row needs its right option alone."""
    return row.example.loss == "tokens" and bool(row.tokens.targets)


def cut(directions: Sequence[Direction], tokens: int) -> Iterator[Sequence[Direction]]:
    """Directions in as few passes as `TOKENS` allows, for a batch of so many tokens."""
    passes = math.ceil(len(directions) / max(1, TOKENS // tokens))
    ends = [len(directions) * i // passes for i in range(passes + 1)]
    for begin, end in pairwise(ends):
        yield directions[begin:end]

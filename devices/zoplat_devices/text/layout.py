"""The layout of a batch: its sequences and the positions of scored tokens, as plain lists for any runtime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

from zoplat.core.example import Row
from zoplat.core.model_spec import Head

T = TypeVar("T")
TOKENS = 512
"""Target number of tokens in one forward pass over several copies of a batch: matrix products gain nothing from more
rows, and activations cost memory. A batch of this many tokens is evaluated at one point at a time."""
GPU_TOKENS = 2048
"""The same on a GPU, which takes more rows to be busy."""


class Place(NamedTuple):
    """A token that is scored.

    Attributes:
        sequence: index of its sequence.
        position: where it is predicted; for causal models counted from the end of the sequence, so negative.
        token: its id.
        slot: row · options + option, the index of the score that it belongs to.
        share: its weight in the score of its option: 1 / tokens for the mean, 1 for the sum.
    """

    sequence: int
    position: int
    token: int
    slot: int
    share: float


@dataclass(frozen=True)
class Layout:
    """The rows of a batch as sequences, and the tokens that are scored.

    Attributes:
        sequences: token ids; for seq2seq models, of the encoder.
        decoder: token ids of the decoder; empty for other models.
        owner: for each sequence of the decoder (or of the model), the row that it belongs to.
        options: the most options of a row.
        places: the tokens that are scored; empty for a classifier.
    """

    sequences: list[list[int]]
    decoder: list[list[int]]
    owner: list[int]
    options: int
    places: list[Place]


def laid_out(rows: Sequence[Row], head: Head, right: bool) -> Layout:
    """The layout of a batch.

    Args:
        rows: of the batch, encoded for the head.
        head: of the model.
        right: lay out the right option alone, in rows whose loss is that of its tokens.
    """
    layout = Layout([], [], [], max(len(row.example.options) for row in rows), [])
    for index, row in enumerate(rows):
        tokens = row.tokens
        chosen = [row.example.label] if right and right_only(row) else range(len(tokens.targets))
        lines = [0] if tokens.is_shared else list(chosen)
        first = len(layout.decoder) if tokens.decoder else len(layout.sequences)
        if tokens.decoder:
            layout.decoder.extend(tokens.decoder[line] for line in lines)
        layout.owner.extend(index for _ in lines)
        layout.sequences.extend(tokens.inputs if len(tokens.inputs) == 1 else [tokens.inputs[line] for line in lines])
        for number, option in enumerate(chosen):
            target = tokens.targets[option]
            share = 1.0 if row.example.score == "sum" else 1 / len(target)
            sequence = first if tokens.is_shared else first + number
            for index_in_target, token in enumerate(target):
                position = index_in_target - len(target) if head == "causal" else index_in_target
                layout.places.append(Place(sequence, position, token, index * layout.options + option, share))
    return layout


def right_only(row: Row) -> bool:
    """Whether the loss of a row depends on its right option alone."""
    return row.example.loss == "tokens" and bool(row.tokens.targets)


def cut(points: Sequence[T], tokens: int, most: int | None = None) -> Iterator[Sequence[T]]:
    """Points in groups of about equal size, one group per forward pass, as few as possible.

    Args:
        points: to evaluate: their directions, or those of each row.
        tokens: of the batch.
        most: target number of tokens in one forward pass; `TOKENS` when None.
    """
    passes = math.ceil(len(points) / max(1, (most or TOKENS) // tokens))
    ends = [len(points) * i // passes for i in range(passes + 1)]
    for begin, end in pairwise(ends):
        yield points[begin:end]

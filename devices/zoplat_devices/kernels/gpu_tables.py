"""Tables that the kernels of a GPU read: which kinds of terms a line has, and which program takes which entries.

What a launch needs besides numbers, its structure, is the same from step to step, so tables of entries are made once
and stay on the device; the numbers, keys, coefficients and addresses of terms, are sent before each pass in one copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from zoplat_devices.kernels.tables import JOB, TERM, TERMS, Sums

MIXED, MANY = -1, -1
"""In place of the one kind of all terms of a line, and of a number that is not known when a program is compiled."""
FIXED_RANK = 32
"""The largest rank that a program is compiled for; programs for larger ones read it."""
GROUP, TILE, TILES = 512, 2048, 8
"""Entries of a group and of a tile; tiles of a program."""
DOWN, ACROSS = 64, 128
"""Rows of a program where matrices have factors, and columns of a tile there."""

LINE = np.dtype(
    [
        ("kind", np.int32),
        ("count", np.int32),
        ("rank", np.int32),
        ("has_scales", np.int32),
        ("columns", np.int32),
        ("is_aligned", np.int32),
    ]
)
"""What programs must know of a line: `rank` of factors and their `columns`, whether rows of V begin at 16 bytes."""


RULE_LINE = np.dtype(
    [
        *((name, LINE[name]) for name in LINE.names or ()),
        *((name, np.int32) for name in ("other_kind", "other_count", "other_scales")),
    ]
)
"""The same of an update, and of the direction that a rule is given."""


class Structure:
    """The kinds of terms of every line of a table of sums, and the place on the device for what the table holds.

    Args:
        lines: of `LINE`.
        stride: terms that a line has room for.
        laws: numbers of the laws that terms compute with.
        room: words on the device, at one address for as long as this lives.
    """

    def __init__(self, lines: np.ndarray, stride: int, laws: tuple[int, ...], room: Any) -> None:
        self.lines, self.stride, self.laws, self.room = lines, stride, laws, room
        self._held: tuple[weakref.ref[Sums], float] | None = None

    def holds(self, sums: Sums, factor: float) -> bool:
        """Whether the room has the numbers of these sums, and of this factor of the weights."""
        return self._held is not None and self._held[0]() is sums and self._held[1] == factor

    def note(self, sums: Sums, factor: float) -> None:
        """Remember whose numbers the room has."""
        self._held = weakref.ref(sums), factor

    def forget(self) -> None:
        """Remember that the room may have any numbers."""
        self._held = None


def lines_of(sums: Sums) -> tuple[np.ndarray, tuple[int, ...]]:
    """What programs must know of each line, and the laws that terms compute with."""
    terms, lines = sums.terms, np.zeros(len(sums.counts), LINE)
    is_used = np.arange(terms.shape[1]) < sums.counts[:, None]
    lines["count"] = np.where(sums.counts < 3, sums.counts, MANY)
    if not terms.shape[1]:
        return lines, ()
    first, low_rank = terms[:, 0], TERMS["low-rank"]
    alike = terms["kind"] == first["kind"][:, None]
    has_factors = first["kind"] == low_rank
    for name in ("rank", "columns"):
        alike &= (terms[name] == first[name][:, None]) | ~has_factors[:, None]
    is_one_kind = (alike | ~is_used).all(axis=1)
    lines["kind"] = np.where(is_one_kind, first["kind"], MIXED)
    lines["kind"][sums.counts == 0] = 0
    has_factors = lines["kind"] == low_rank
    lines["rank"] = np.where(has_factors, np.where(first["rank"] <= FIXED_RANK, first["rank"], MANY), 0)
    lines["columns"] = np.where(has_factors, first["columns"], 0)
    lines["is_aligned"] = has_factors & ((terms["v"] % 16 == 0) | ~is_used).all(axis=1)
    lines["has_scales"] = ((terms["scale"] != 0) & is_used).any(axis=1)
    return lines, tuple(np.unique(terms["rank"][is_used & (terms["kind"] == TERMS["computed"])]).tolist())


def words_of(sums: Sums, factor: float) -> np.ndarray:
    """The table as programs read it: for each line a word with the number of terms and the factor, then the terms."""
    lines, stride = sums.terms.shape
    table = np.zeros((lines, 1 + stride * (TERM.itemsize // 8)), np.int64)
    heads = np.zeros(lines, [("count", np.int32), ("factor", np.float32)])
    heads["count"], heads["factor"] = sums.counts, factor
    table[:, 0] = heads.view(np.int64)
    table[:, 1:] = np.ascontiguousarray(sums.terms).view(np.int64).reshape(lines, -1)
    return table.reshape(-1)


def lines_of_rule(update: Structure, direction: Structure) -> np.ndarray:
    """What the program of a rule must know of each line, of `RULE_LINE`."""
    lines = np.zeros(len(update.lines), RULE_LINE)
    for name in ("kind", "count", "has_scales"):
        lines[name] = update.lines[name]
    for name in ("kind", "count"):
        lines[f"other_{name}"] = direction.lines[name]
    lines["other_scales"] = direction.lines["has_scales"]
    return lines


class Batch(NamedTuple):
    """Pieces of one launch.

    Attributes:
        pieces: of `JOB`, whose last field is the number of their first program.
        owners: for each program, its piece.
        dtype: one of the conversions of `tables.py`.
        line: what their lines have in common; of matrices in factors if `in_factors`.
        is_whole: whether pieces consist of whole tiles and begin at multiples of 16 bytes.
        in_factors: whether bands of rows are moved, and not groups of entries.
    """

    pieces: np.ndarray
    owners: np.ndarray
    dtype: int
    line: np.void
    is_whole: bool
    in_factors: bool

    def words(self) -> np.ndarray:
        """Owners, filled up to 16 bytes, then pieces, as one array of words."""
        owners = np.zeros(self.owner_words * 2, np.int32)
        owners[: len(self.owners)] = self.owners
        return np.concatenate([owners.view(np.int64), self.pieces.view(np.int64)])

    @property
    def owner_words(self) -> int:
        """Words that owners take."""
        return -(-len(self.owners) // 4) * 2


def batches(jobs: np.ndarray, lines: np.ndarray, keeps_bands: bool, origin: int) -> Iterator[Batch]:
    """Cut jobs into pieces that can be launched together.

    Args:
        jobs: of `JOB`.
        lines: of `LINE`, for all lines that jobs name.
        keeps_bands: whether matrices in factors may be moved in bands, not where rounding is stochastic.
        origin: of targets.
    """
    jobs = _joined(jobs)
    found = lines[jobs["line"]]
    begins_at_16 = ((jobs["source"] | (jobs["target"] + origin)) & 15) == 0
    columns = np.maximum(found["columns"], 1)
    in_factors = (found["kind"] == TERMS["low-rank"]) & (found["has_scales"] == 0) & keeps_bands
    in_factors &= (jobs["start"] % columns == 0) & (jobs["stop"] % columns == 0)
    is_whole = begins_at_16 & (found["is_aligned"] == 1) & (columns % 8 == 0)
    for name in ("columns", "is_aligned"):
        found[name] = 0
    for line in np.unique(found):
        for dtype in np.unique(jobs["dtype"]):
            same = (found == line) & (jobs["dtype"] == dtype)
            for whole in (True, False):
                some = same & in_factors & (is_whole == whole)
                programs = -(-(jobs["stop"] - jobs["start"]) // columns // DOWN)
                yield from _batch(jobs[some], programs[some], int(dtype), line, whole, True)
            some = same & ~in_factors
            whole_tiles, rest = _split(jobs[some], begins_at_16[some])
            for pieces, whole in ((whole_tiles, True), (rest, False)):
                groups = -(-pieces["stop"] // GROUP) - pieces["start"] // GROUP
                yield from _batch(pieces, -(-groups * GROUP // (TILE * TILES)), int(dtype), line, whole, False)


def _batch(
    pieces: np.ndarray, programs: np.ndarray, dtype: int, line: np.void, is_whole: bool, in_factors: bool
) -> Iterator[Batch]:
    """The batch of some pieces and the number of programs that each takes; none where there are no pieces."""
    if len(pieces):
        pieces = pieces.copy()
        pieces["dtype"] = np.cumsum(programs) - programs
        owners = np.repeat(np.arange(len(pieces), dtype=np.int32), programs)
        yield Batch(pieces, owners, dtype, line, is_whole, in_factors)


def _joined(jobs: np.ndarray) -> np.ndarray:
    """Jobs with those joined that go on where the one before ends."""
    before, after = jobs[:-1], jobs[1:]
    goes_on = before["stop"] == after["start"]
    for name in ("source", "target", "line", "dtype"):
        goes_on &= before[name] == after[name]
    firsts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    joined = jobs[firsts].copy()
    joined["stop"] = jobs["stop"][np.append(firsts[1:], len(jobs)) - 1]
    return joined


def _split(jobs: np.ndarray, is_aligned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of whole tiles, and what is left of each job before and after them."""
    first = -(-jobs["start"] // GROUP) * GROUP
    tiles = np.where(is_aligned, np.maximum(jobs["stop"] - first, 0) // TILE, 0)
    first = np.where(tiles > 0, first, jobs["stop"])
    last = first + tiles * TILE
    whole, head, tail = jobs.copy(), jobs.copy(), jobs.copy()
    whole["start"], whole["stop"] = first, last
    head["stop"], tail["start"] = first, last
    rest = np.concatenate([head, tail])
    return whole[tiles > 0], rest[rest["stop"] > rest["start"]]


assert JOB.itemsize % 8 == TERM.itemsize % 8 == 0

"""Moves of matrices by terms in factors, in bands of rows; with the bits of `kernels.c`.

A tile of U V is a product in which U and V are loaded once. Matrices that are rounded stochastically, and terms that
are scaled or mixed with others, are moved by `gpu_kernels.py`, entry by entry.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import triton
import triton.language as tl

from zoplat_devices.kernels import gpu_tables
from zoplat_devices.kernels.gpu_weights import SUM, TERM, added, coefficient, count_of, factor_of, line_of, opened

MANY = tl.constexpr(gpu_tables.MANY)
DOWN, ACROSS = tl.constexpr(gpu_tables.DOWN), tl.constexpr(gpu_tables.ACROSS)


@triton.jit
def factor_u(term, top, rows):
    """Addresses of the first column of U in rows that exist, and the rank."""
    rank = tl.load(term.to(tl.pointer_type(tl.int32)) + 1)
    return tl.load(term + 6).to(tl.pointer_type(tl.float32)) + top * rank + rows * rank, rank


@triton.jit
def factor_v(term, across, is_whole: tl.constexpr):
    """Addresses of the first row of V."""
    v = tl.load(term + 7).to(tl.pointer_type(tl.float32))
    if is_whole:
        v = tl.multiple_of(v, 16)
    return v + across


@triton.jit
def product(u, v, columns, in_columns, some, rank: tl.constexpr, like):
    """A tile of U V, summed over the rank in order; U and V are loaded once for the tile.

    Sums in loops begin with `like`, which only names the layout that Triton is to keep them in.
    """
    if rank == MANY:
        z = like
        for k in range(some):
            part = tl.load(u) * tl.load(v, mask=in_columns)
            z = tl.where(k == 0, part, z + part)
            u += 1
            v += columns
    else:
        z = tl.load(u) * tl.load(v, mask=in_columns)
        for _ in tl.static_range(1, rank):
            u += 1
            v += columns
            z = z + tl.load(u) * tl.load(v, mask=in_columns)
    return z


@triton.jit(do_not_specialize=["stride", "origin"])
def move_factors(
    pieces,
    owners,
    lines,
    origin: tl.int64,
    stride,
    rank: tl.constexpr,
    count: tl.constexpr,
    dtype: tl.constexpr,
    is_whole: tl.constexpr,
):
    """A band of rows of a matrix: target ← factor·source + the sum of its terms, all of them in factors.

    Pieces are whole rows. With `is_whole`, arrays begin at multiples of 16 bytes, and so do rows of eight entries.
    """
    source, target, start, stop, number, index = opened(pieces, owners, origin, dtype, is_whole)
    line = line_of(lines, index, stride)
    factor, terms = factor_of(line), count_of(line) if count == MANY else count
    one, two = line + 1, line + 1 + TERM
    columns = tl.load(one.to(tl.pointer_type(tl.int32)) + 11)
    if is_whole:
        columns = tl.multiple_of(columns, 8)
    top = start // columns + number * DOWN
    rows, across = tl.arange(0, DOWN)[:, None], tl.arange(0, ACROSS)[None, :]
    place = rows * columns + across
    entry = top * columns
    height = tl.minimum(stop // columns - top, DOWN).to(tl.int32)
    in_rows, held_rows = rows < height, tl.minimum(rows, height - 1)
    c, d = coefficient(one), 0.0
    u, some = factor_u(one, top, held_rows)
    v = factor_v(one, across, is_whole)
    if count == 2:
        d = coefficient(two)
        t, other = factor_u(two, top, held_rows)
        w = factor_v(two, across, is_whole)
    for at in range(0, columns, ACROSS):
        in_columns = across < columns - at
        inside = in_rows & in_columns
        if dtype == SUM:
            held = tl.full((DOWN, ACROSS), 0.0, tl.float32)
        else:
            held = tl.load(source + (entry + at) + place, mask=inside)
        like = held.to(tl.float32)
        if count == MANY:
            total = like
            for k in range(terms):
                term = one + k * TERM
                x, other = factor_u(term, top, held_rows)
                z = product(x, factor_v(term, across, is_whole) + at, columns, in_columns, other, rank, like)
                z = coefficient(term) * z
                total = tl.where(k == 0, z, total + z)
        else:
            total = c * product(u, v + at, columns, in_columns, some, rank, like)
            if count == 2:
                total = total + d * product(t, w + at, columns, in_columns, other, rank, like)
        tl.store(target + (entry + at) + place, added(held, factor, total, 0, dtype, False), mask=inside)

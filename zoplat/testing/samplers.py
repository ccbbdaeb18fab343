"""What every sampler promises, as tests to inherit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import numpy as np

from zoplat.core.blocks import Block
from zoplat.core.direction import Direction
from zoplat.core.noise import Key
from zoplat.core.sampler import Sampler
from zoplat.space.parameter_space import ParameterSpace
from zoplat.testing.kept import nothing_kept_aside
from zoplat.testing.measures import mean_is
from zoplat.testing.noise import Vector
from zoplat.testing.parts import PartContract, density_of, random_states_untouched, variations
from zoplat.testing.portable import on_torch
from zoplat.testing.problems import SHAPES, linear
from zoplat.testing.toys import Toy, as_numpy

KEY = Key(seed=11, step=3, draw=1)


class SamplerContract(PartContract):
    """Inherit, and set `sampler`; it fills matrices and vectors of 7 to 40 entries.

    Attributes:
        sampler: the sampler, as it is registered.
    """

    sampler: Sampler

    def part(self) -> Sampler:
        """The sampler."""
        return self.sampler

    def test_the_numbers_do_not_depend_on_how_a_block_is_cut_or_visited(self) -> None:
        """The same to the bit in tiles of 1, 7, 16 and 64 entries, filled from the last to the first."""
        space = _toy().space
        whole = {block.name: numbers(self.sampler, space, block, block.size) for block in space.blocks}
        for entries in (1, 7, 16, 64):
            for block in reversed(space.blocks):
                cut = numbers(self.sampler, space, block, entries)
                differ = int((cut != whole[block.name]).sum())
                assert not differ, (
                    f"{differ} of {block.size} numbers of '{block.name}' differ when it is cut in tiles of "
                    f"{entries} entries and visited backwards. Address noise by key and tile."
                )

    def test_another_seed_step_or_draw_gives_other_numbers(self) -> None:
        space = _toy().space
        for what in ("seed", "step", "draw"):
            key = replace(KEY, **{what: getattr(KEY, what) + 1})
            for block in (block for block in space.blocks if block.size >= 16):
                same = numbers(self.sampler, space, block, 64) == numbers(self.sampler, space, block, 64, key)
                assert not same.all(), f"Another {what} gives the same {block.size} numbers for '{block.name}'."

    def test_two_blocks_of_one_shape_get_different_numbers(self) -> None:
        space = _toy().space
        one, other = (
            numbers(self.sampler, space, block, 64)
            for block in space.blocks
            if block.name in ("square.weight", "twin.weight")
        )
        assert (one != other).any(), (
            f"Two blocks of one shape get the same {one.size} numbers: the address lacks the tile."
        )

    def test_entries_have_mean_zero_and_the_variance_that_is_claimed(self) -> None:
        """`variance(shape)`, over 150 seeds; within five standard errors, of the spread between draws."""
        self._has_its_moments(self.sampler)

    def test_its_other_forms_have_the_variance_that_they_claim_too(self) -> None:
        """The same for each other value of its switches and closed choices, one changed at a time."""
        for how, other in variations(self.sampler).items():
            self._has_its_moments(other, f"With {how}: ")

    def test_the_share_of_entries_that_are_not_zero_is_its_density(self) -> None:
        """Within five standard errors of as many independent choices."""
        density, space = density_of(self.sampler), _toy().space
        draws = [numbers(self.sampler, space, block, 64, Key(k, 5, 0)) for block in space.blocks for k in range(60)]
        share, count = sum(map(np.count_nonzero, draws)) / sum(map(np.size, draws)), sum(map(np.size, draws))
        spread = 5 * math.sqrt(density * (1 - density) / count)
        assert abs(share - density) <= spread, (
            f"density is {density:g}, and {share:.4g} of {count} entries are not zero; "
            f"{density:g} ± {spread:.2g} is expected."
        )

    def test_entries_are_whole_numbers_where_it_says_so(self) -> None:
        """With `is_whole`, which codes of `--tune codes` need: every entry, before the law's `scale`."""
        if not self.sampler.is_whole:
            raise SkipTest(f"{type(self.sampler).__name__} does not say so.")
        space = _toy().space
        for block in space.blocks:
            z = numbers(self.sampler, space, block, 64)
            broken = int((z % 1 != 0).sum())
            assert not broken, (
                f"is_whole is true, and {broken} of {z.size} entries of '{block.name}' are no whole numbers."
            )

    def test_factors_agree_with_fill(self) -> None:
        space = _toy().space
        for block in space.blocks:
            for tile in block.tiles(16):
                factors = self.sampler.factors(tile, KEY, space.noise)
                if factors is None:
                    continue
                u, v = (np.asarray(factor) for factor in factors)
                filled: Any = np.empty(tile.shape, np.float32)
                self.sampler.fill(filled, tile, KEY, space.noise)
                off = np.abs(filled - u @ v.T).max()
                assert off <= 1e-5, f"On '{block.name}', U Vᵀ and what `fill` writes differ by {off:.3g}."

    def test_a_probe_and_a_sweep_see_the_same_numbers(self) -> None:
        """Weights that were zero and are perturbed by z hold what a kernel then gets as z, to the bit."""
        toy = _toy()
        for block in toy.blocks:
            block.array[:] = 0.0
        toy.space.reset()
        z = toy.space.draw(self.sampler, KEY)
        toy.space.at(z)
        probed, swept = toy.held, []
        toy.space.sweep(lambda theta, g: swept.append(np.array(g, np.float64).reshape(-1)), z)
        differ = int((probed != np.concatenate(swept)).sum())
        assert not differ, f"{differ} of {probed.size} numbers differ between a probe along z and a sweep over z."

    def test_it_fills_arrays_of_torch_with_the_same_numbers(self) -> None:
        """To 10⁻⁵; most devices have arrays of torch."""
        with on_torch():
            space, other = _toy().space, _toy().anew(library="torch").space
            for block, twin in zip(space.blocks, other.blocks, strict=True):
                off = np.abs(numbers(self.sampler, space, block, 64) - numbers(self.sampler, other, twin, 64)).max()
                assert off <= 1e-5, f"Numbers for '{block.name}' on torch and on numpy differ by {off:.3g}."
                tile = next(iter(twin.tiles()))
                self.sampler.fill(tile.of(twin.array), tile, KEY, other.noise)

    def test_nothing_is_kept_from_draw_to_draw(self) -> None:
        """No variable of its module and of its class changes."""
        space = _toy().space
        with nothing_kept_aside(self.sampler):
            for key in (KEY, Key(12, 3, 1)):
                numbers(self.sampler, space, space.blocks[0], 16, key, scaled=True)

    def test_drawing_leaves_the_global_random_states_alone(self) -> None:
        space = _toy().space
        with random_states_untouched():
            numbers(self.sampler, space, space.blocks[0], 16, scaled=True)

    def _has_its_moments(self, sampler: Sampler, how: str = "") -> None:
        space = _toy().space
        for block in space.blocks:
            zs = [numbers(sampler, space, block, 64, Key(k, 5, 0), scaled=True) for k in range(150)]
            mean_is(0.0, [z.mean() for z in zs], f"{how}The mean of the entries of '{block.name}'")
            squares = [(z**2).mean() for z in zs]
            mean_is(sampler.variance(block.shape), squares, f"{how}The variance of the entries of '{block.name}'")


def numbers(
    sampler: Sampler, space: ParameterSpace, block: Block, entries: int, key: Key = KEY, scaled: bool = False
) -> Vector:
    """A block's entries of z, filled in tiles of so many entries, from the last to the first."""
    z = space.draw(sampler, key) if scaled else Direction.of(sampler, key)
    filled: Any = np.empty(block.shape)
    for tile in reversed(list(Block(block.name, block.array, block.dtype).tiles(entries))):
        tile.of(filled)[:] = as_numpy(space.entries(z, tile))
    return filled  # type: ignore[no-any-return]


def _toy() -> Toy:
    return linear({**SHAPES, "twin.weight": SHAPES["square.weight"]}, dtype="float32")

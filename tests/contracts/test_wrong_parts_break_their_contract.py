"""Parts that are wrong on purpose: each fails the contract that is there for it, and says why."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest

from zoplat import Buffer, Estimate, Estimator, Key, Noise, Oracle, Sampler, Schedule, StepRule, Tile
from zoplat.testing import EstimatorContract, SamplerContract, StepRuleContract
from zoplat.testing.toys import Plain
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.mezo import MeZO


@dataclass(frozen=True)
class NextNumbers(Sampler):
    """Draws "the next numbers", so that every visit gets others."""

    visits: Any = field(default_factory=count, compare=False)

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile, str(next(self.visits)))


@dataclass(frozen=True)
class SameEverywhere(Sampler):
    """Leaves the tile out of the address, so that blocks of one shape are the same."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.block.shape, key)[tile.start : tile.stop]


@dataclass(frozen=True)
class Narrow(Sampler):
    """Uniform on numbers of size up to 1, whose variance is a third."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = 2 * noise.uniform(tile.shape, key, tile) - 1


@dataclass(frozen=True)
class HalfFactors(Sampler):
    """Offers factors of something else than it fills."""

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal(tile.shape, key, tile)

    def factors(self, tile: Tile, key: Key, noise: Noise) -> tuple[Any, Any] | None:
        if not tile.is_matrix:
            return None
        return noise.normal((tile.shape[0], 1), key, tile), noise.normal((tile.shape[1], 1), key)


@dataclass(frozen=True)
class Base(Estimator):
    """Central differences, to be spoilt.

    Attributes:
        eps: smoothing radius.
        sampler: law of z.
        rule: step rule.
    """

    eps: float = 1e-3
    sampler: Sampler = Gaussian()
    rule: StepRule = Plain()

    def slope(self, oracle: Oracle, z: Any) -> float:
        up, down = oracle.losses(self.eps * z, -self.eps * z)
        return (up - down) / (2 * self.eps)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        yield Estimate(self.slope(oracle, z) * z)


class FreshDirection(Base):
    """Probes one vector and steps along another."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        z, other = oracle.draw(self.sampler, 2)
        yield Estimate(self.slope(oracle, z) * other)


class RenewsWrongly(Base):
    """Steps along another vector on one step in fifty, as LOZO's released code does when it renews V."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        z, other = oracle.draw(self.sampler, 2)
        yield Estimate(self.slope(oracle, z) * (other if oracle.step == 50 else z))


class HalfTheScale(Base):
    """Forgets the 2 of 2ε on the way back."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        yield Estimate(2 * self.slope(oracle, z) * z)


class Uphill(Base):
    """Has the sign wrong, which g² does not see and the loss does."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        yield Estimate(-self.slope(oracle, z) * z)


@dataclass
class Momentum:
    """State that the ledger can't see."""

    m: Any


class OwnArray(Base):
    """Allocates its state itself."""

    def init(self, space: Any) -> Momentum:
        return Momentum(np.zeros(space.size))


class OwnBuffer(Base):
    """Makes a Buffer behind the space's back."""

    def init(self, space: Any) -> Momentum:
        return Momentum([Buffer("mine", {block.name: np.zeros(block.shape) for block in space.blocks})])


class HiddenState(Base):
    """Keeps what it saw on itself."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        object.__setattr__(self, "last", self.slope(oracle, z))
        yield Estimate(vars(self)["last"] * z)


class RemembersAcrossRuns(Base):
    """Its class keeps count, so that a replay takes other steps."""

    runs = count(1)

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        yield Estimate(self.slope(oracle, z) * next(self.runs) * z)


class GlobalDice(Base):
    """Throws the dice that everybody shares."""

    def estimate(self, oracle: Oracle, state: Any) -> Iterator[Estimate]:
        [z] = oracle.draw(self.sampler, 1)
        yield Estimate(self.slope(oracle, z) * random.choice([1, 1]) * z)


@dataclass(frozen=True)
class Unwritten(Gaussian):
    """Has a field that nobody explains, of a kind that TOML does not know."""

    bounds: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class DecaysAll(Schedule):
    """Decays vectors too."""

    def curve(self, progress: float) -> float:
        return 1.0

    def apply(self, estimate: Estimate, oracle: Oracle, state: Any) -> None:
        lr = self.rate(oracle)

        def kernel(theta: Any, g: Any) -> None:
            theta *= 1 - lr * self.decay
            theta -= lr * g

        oracle.space.sweep(kernel, estimate.direction)


LINEAR = "test_a_constant_step_lowers_a_linear_loss_by_exactly_h_times_g_squared"
STATE = "test_every_byte_of_state_came_from_the_space"
REPLAY = "test_a_recorded_run_replays_to_the_same_bits"
DICE = "test_a_step_leaves_the_global_random_states_alone"
DECAY = "test_decay_shrinks_matrices_by_one_minus_eta_lambda_and_leaves_vectors"
CUT = "test_the_numbers_do_not_depend_on_how_a_block_is_cut_or_visited"
OTHER = "test_another_seed_step_draw_or_block_gives_other_numbers"
MOMENTS = "test_entries_have_mean_zero_and_the_variance_that_is_claimed"
NEVER = "the estimate holds vectors that were never probed"


@pytest.mark.parametrize(
    ("contract", "part", "test", "complaint"),
    [
        (SamplerContract, NextNumbers(), CUT, "Address noise by key and tile"),
        (SamplerContract, SameEverywhere(), OTHER, "Two blocks of one shape"),
        (SamplerContract, Narrow(), MOMENTS, "variance 0.33"),
        (SamplerContract, HalfFactors(), "test_factors_agree_with_fill", "differ by"),
        (SamplerContract, Unwritten(), "test_every_field_is_documented", "bounds"),
        (SamplerContract, Unwritten(), "test_every_field_survives_a_trip_through_toml", "tuple"),
        (EstimatorContract, FreshDirection(), LINEAR, f"Step 0: {NEVER}"),
        (EstimatorContract, RenewsWrongly(), LINEAR, f"Step 50: {NEVER}"),
        (EstimatorContract, HalfTheScale(), LINEAR, "not the vector that was probed, or its scale"),
        (EstimatorContract, Uphill(), LINEAR, "the loss fell by -"),
        (EstimatorContract, Uphill(), "test_the_loss_falls_on_a_quadratic", "should fall below"),
        (EstimatorContract, MeZO(sampler=NextNumbers()), LINEAR, "different numbers on different visits"),
        (EstimatorContract, OwnArray(), STATE, "state.m is a ndarray"),
        (EstimatorContract, OwnBuffer(), STATE, r"state.m\[0\] is a Buffer that"),
        (EstimatorContract, HiddenState(), STATE, "keeps .* on itself"),
        (EstimatorContract, RemembersAcrossRuns(), REPLAY, "other weights"),
        (EstimatorContract, GlobalDice(), DICE, "Python's `random`"),
        (StepRuleContract, DecaysAll(), DECAY, "long.bias"),
    ],
)
def test_a_wrong_part_fails_the_contract_meant_for_it(contract: type, part: Any, test: str, complaint: str) -> None:
    field_name = {SamplerContract: "sampler", EstimatorContract: "estimator", StepRuleContract: "rule"}[contract]
    made = type("Wrong", (contract,), {field_name: part})()
    with pytest.raises(AssertionError, match=complaint):
        getattr(made, test)()


@pytest.mark.parametrize("test", [LINEAR, STATE, REPLAY, DICE, "test_the_loss_falls_on_a_quadratic"])
def test_the_estimator_that_is_spoilt_above_is_sound_before(test: str) -> None:
    getattr(type("Right", (EstimatorContract,), {"estimator": Base()})(), test)()


def test_a_mutable_part_is_no_part() -> None:
    @dataclass(eq=True, unsafe_hash=True)
    class Mutable(Sampler):
        """Can be changed."""

        def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
            out[:] = 0.0

    made = type("Wrong", (SamplerContract,), {"sampler": Mutable()})()
    with pytest.raises(AssertionError, match="frozen=True"):
        made.test_the_part_is_a_frozen_dataclass()

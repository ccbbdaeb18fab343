"""The rows of a batch: a function of seed and step, each row at most once per epoch, similar lengths together."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from zoplat import Example, Row
from zoplat.config.layers import resolve
from zoplat.config.seeds import derived_seed
from zoplat.evaluation.predictions import by_length
from zoplat.training.batches import WINDOW, Batches, batches_of

LENGTHS = random.Random(3)
ROWS = [Row(Example("", (), 0), LENGTHS.randrange(5, 200), number) for number in range(1003)]


def numbers(batches: Batches, step: int) -> list[int]:
    return [row.tokens for row in batches.at(step)]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = Batches(ROWS, 16, seed=1), Batches(ROWS, 16, seed=1)
    forwards = [numbers(one, step) for step in range(150)]
    backwards = [numbers(other, step) for step in reversed(range(150))]
    assert forwards == backwards[::-1]


def test_another_seed_or_epoch_has_another_order() -> None:
    one, other = Batches(ROWS, 16, seed=1), Batches(ROWS, 16, seed=2)
    per_epoch = len(ROWS) // 16
    first = [numbers(one, step) for step in range(per_epoch)]
    assert first != [numbers(other, step) for step in range(per_epoch)]
    assert first != [numbers(one, step) for step in range(per_epoch, 2 * per_epoch)]


@pytest.mark.parametrize("size", [1, 7, 16, 128, 1003])
def test_every_row_comes_at_most_once_an_epoch_and_all_batches_are_full(size: int) -> None:
    batches = Batches(ROWS, size, seed=5)
    per_epoch = len(ROWS) // size
    for epoch in range(3):
        chosen = [numbers(batches, epoch * per_epoch + index) for index in range(per_epoch)]
        assert {len(batch) for batch in chosen} == {size}
        seen = Counter(number for batch in chosen for number in batch)
        assert max(seen.values()) == 1
        assert len(seen) == per_epoch * size


def test_rows_left_over_differ_from_epoch_to_epoch() -> None:
    batches = Batches(ROWS, 16, seed=5)
    per_epoch = len(ROWS) // 16
    seen = [{n for i in range(per_epoch) for n in numbers(batches, e * per_epoch + i)} for e in range(8)]
    assert set.union(*seen) == set(range(len(ROWS)))


@pytest.mark.parametrize(("count", "size"), [(100, 16), (54, 16), (20, 16), (150, 16), (64, 16)])
def test_of_few_rows_each_is_trained_on_and_epochs_have_other_batches(count: int, size: int) -> None:
    """54 are those of WSC; windows of many batches would hold all of them in every epoch, sorted by length."""
    batches = Batches(ROWS[:count], size, seed=5)
    per_epoch, epochs = count // size, 100
    chosen = [numbers(batches, step) for step in range(epochs * per_epoch)]
    times = Counter(number for batch in chosen for number in batch)
    assert set(times) == set(range(count))
    most, least = max(times.values()), min(times.values())
    assert most - least < 0.4 * epochs, "no row is left out much more often than another"
    assert len({frozenset(batch) for batch in chosen}) > 0.9 * len(chosen)


def test_the_rows_that_are_left_out_are_no_longer_than_others() -> None:
    batches = Batches(ROWS, 16, seed=5)
    per_epoch = len(ROWS) // 16
    left: list[int] = []
    for epoch in range(40):
        seen = {n for index in range(per_epoch) for n in numbers(batches, epoch * per_epoch + index)}
        left += [row.length for row in ROWS if row.tokens not in seen]
    assert len(left) == 40 * (len(ROWS) % 16)
    assert abs(sum(left) / len(left) - sum(row.length for row in ROWS) / len(ROWS)) < 8


def test_rows_of_similar_length_share_a_batch() -> None:
    """The spread of lengths within a batch is about 1/WINDOW of that of a plain shuffle."""
    batches = Batches(ROWS, 16, seed=5)

    def spread(rows: list[Row]) -> int:
        return max(row.length for row in rows) - min(row.length for row in rows)

    per_epoch = len(ROWS) // 16
    sorted_in_windows = sum(spread(batches.at(step)) for step in range(per_epoch)) / per_epoch
    shuffled = random.Random(5).sample(ROWS, len(ROWS))
    plain = sum(spread(shuffled[i : i + 16]) for i in range(0, 16 * per_epoch, 16)) / per_epoch
    assert sorted_in_windows < 2 * plain / WINDOW


def test_short_batches_do_not_all_come_first() -> None:
    batches = Batches(ROWS, 16, seed=5)
    per_epoch = len(ROWS) // 16
    means = [sum(row.length for row in batches.at(step)) / 16 for step in range(per_epoch)]
    assert means != sorted(means)
    halves = (
        sum(means[: per_epoch // 2]) / (per_epoch // 2),
        sum(means[per_epoch // 2 :]) / (per_epoch - per_epoch // 2),
    )
    assert abs(halves[0] - halves[1]) < 30


def test_evaluation_visits_every_row_once_longest_first() -> None:
    batches = by_length(ROWS, 32)
    assert sorted(index for batch in batches for index in batch) == list(range(len(ROWS)))
    lengths = [ROWS[index].length for batch in batches for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert {len(batch) for batch in batches[:-1]} == {32}


def test_purposes_of_a_seed_never_share_a_stream() -> None:
    seeds = {derived_seed(seed, purpose) for seed in range(200) for purpose in ("data", "noise", "init")}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("estimator", "stay"), [("dp", True), ("mezo", False)])
def test_where_rows_are_hidden_a_longer_one_moves_no_other_row_to_another_batch(estimator: str, stay: bool) -> None:
    """By the length of a row, sorted batches show what it was exchanged for, in several batches of an epoch."""
    config = resolve({"estimator": estimator, "device": "reference", "steps": 1, "batch_size": 16})
    at = min(range(len(ROWS)), key=lambda i: ROWS[i].length)
    changed = [*ROWS[:at], replace(ROWS[at], length=10_000), *ROWS[at + 1 :]]
    one, other = batches_of(config, ROWS), batches_of(config, changed)
    same = [set(numbers(one, step)) == set(numbers(other, step)) for step in range(len(ROWS) // 16)]
    assert all(same) is stay

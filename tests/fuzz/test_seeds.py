"""Every seed of the fuzzer, whole and cut short, is read or refused in plain words."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, suppressed

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_read_or_refused(target: str) -> None:
    seeds = sorted((SEEDS / target).iterdir())
    assert seeds
    for seed in seeds:
        data = seed.read_bytes()
        for part in (data, data[: len(data) // 2], data[len(data) // 2 :], data[:-1]):
            suppressed(TARGETS[target], part)


def test_what_is_not_refused_is_a_finding() -> None:
    with pytest.raises(ZeroDivisionError):
        suppressed(lambda: 1 // 0)

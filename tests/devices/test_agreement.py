"""`zoplat profile --agreement`: cosines of estimates with the true gradient."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def agreement(checkpoint: Callable[..., Path], rows: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    data = rows(Path("data"))
    model = ("--model", checkpoint(words=False), "--data", data, "--dtype", "float32", "--device", "cpu")

    def measure(*flags: Any) -> dict[str, Any]:
        arguments = ("profile", "--agreement", *model, "--batch-size", 4, "--lr", 1e-4, *flags, "--json")
        done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, (done.output, done.exception)
        return dict(json.loads(done.stdout))

    return measure


def test_the_gradient_agrees_with_itself_on_every_block(agreement: Callable[..., dict[str, Any]]) -> None:
    found = agreement("--estimator", "sgd", "--steps", 2)
    assert found["cosines"] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert [*found["blocks"].values()] == pytest.approx([1.0] * len(found["blocks"]), abs=1e-6)
    assert found["blocks"]


@pytest.mark.slow
def test_more_directions_agree_better_by_the_root_of_their_number(agreement: Callable[..., dict[str, Any]]) -> None:
    """E cos ≈ √(n/d) for n directions: twice as many times four."""
    few, many = (agreement("--estimator", "mezo", "--eps", 1e-4, "--steps", 4, "--queries", n) for n in (4, 64))
    for found, n in ((few, 4), (many, 64)):
        assert found["mean"] == pytest.approx(math.sqrt(n / (n + found["weights"])), rel=0.5)
    assert 2 < many["mean"] / few["mean"] < 8
    assert len(few["cosines"]) == 4


def test_a_device_without_gradients_is_refused() -> None:
    done = click.testing.CliRunner().invoke(main, ["profile", "--agreement", "--device", "reference"])
    assert done.exit_code == 2
    assert "device 'reference' has none" in done.stderr

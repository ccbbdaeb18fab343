"""Updates of 16-bit weights on the PyTorch device: settings, ledger, and the same bits from the answers alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.core.losses import RecordedLosses
from zoplat.core.model_spec import Tuning
from zoplat.core.oracle import Oracle
from zoplat.space.rounding import RoundingName
from zoplat.testing import Plain
from zoplat_devices.kernels import native
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.mezo import MeZO

torch = pytest.importorskip("torch")

Make = Callable[..., Path]
EXAMPLES = [Example("the film was great . It was", (" terrible", " great"), i % 2) for i in range(3)]


def opened(folder: Path, dtype: str = "bfloat16", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning("full"), dtype, 7))


def steps(session: Any, recorded: list[list[float]] | None = None, count: int = 12) -> list[list[float]]:
    """Steps that are far too small for bfloat16, with the model or from recorded answers."""
    rows, estimator, answers = session.encode(EXAMPLES), MeZO(rule=Plain(lr=1e-6)), []
    for step in range(count):
        backend = RecordedLosses(step, recorded[step] if recorded else [], "sequential")
        if not recorded:
            backend.forward = lambda: session.forward(rows)  # type: ignore[method-assign]
        oracle = Oracle(session.space, Key(0, step, -1), 0.0, backend)
        for estimate in estimator.estimate(oracle, None):
            estimator.rule.apply(estimate, oracle, None)
        answers.append(oracle.answers)
    session.space.settle()
    return answers


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "master"])
def test_small_steps_in_bfloat16_take_effect_and_are_replayed(
    checkpoint: Make, rounding: RoundingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(checkpoint(dtype="bfloat16"), rounding=rounding)
    assert (run.facts["restore"], run.facts["rounding"]) == ("exact", rounding)
    recorded = steps(run)
    drift, changed = run.space.drift, run.space.changed
    again = opened(checkpoint(dtype="bfloat16"), rounding=rounding)
    steps(again, recorded)
    assert again.digest() == run.digest()
    monkeypatch.setattr(native, "library", lambda: None)
    slow = opened(checkpoint(dtype="bfloat16"), rounding=rounding)
    assert slow.facts["kernels"] == "TorchNoise"
    steps(slow, recorded)
    assert slow.digest() == run.digest()
    ledger = run.ledger()
    if rounding == "master":
        assert ledger["master weights"] == 4 * run.space.size
        assert drift < 1e-6
    if rounding == "nearest":
        assert changed < 0.2 * _changed(checkpoint, "stochastic", recorded)
        assert "master weights" not in ledger


def _changed(checkpoint: Make, rounding: RoundingName, recorded: list[list[float]]) -> float:
    session = opened(checkpoint(dtype="bfloat16"), rounding=rounding)
    steps(session, recorded)
    return float(session.space.changed)


@pytest.mark.parametrize("rounding", ["stochastic", "master"])
def test_in_place_restore_excludes_other_rounding_than_nearest(checkpoint: Make, rounding: RoundingName) -> None:
    with pytest.raises(ZoplatError, match=rf"rounding={rounding} writes bfloat16 weights .* -o device.restore=exact"):
        opened(checkpoint(dtype="bfloat16"), rounding=rounding, restore="in-place")
    assert opened(checkpoint(), "float32", rounding=rounding).facts["restore"] == "in-place"

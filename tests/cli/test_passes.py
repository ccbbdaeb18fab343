"""Forward passes that a method is charged for are those that the model makes, counted at its forward function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat.config.layers import resolve
from zoplat.core.oracle import GRADIENT_PASSES, JVP_PASSES
from zoplat.registry import catalogue
from zoplat.training.meter import Meter
from zoplat.training.opening import open_run
from zoplat.training.step import Learner

OWN = [entry for entry in catalogue() if entry.kind == "estimator" and entry.distribution == "zoplat"]
LOSSES, OF_ROWS = (
    sorted(entry.name for entry in OWN if entry.value.asks == {asked}) for asked in ("losses", "row losses")
)
STEPS, ROWS = 6, 4
TOY: dict[str, dict[str, Any]] = {
    "block-zo": {"by": "words|hidden|options"},
    "dizo": {"targets": "hidden", "every": 3, "rounds": 2},
    "mezo-svrg": {"anchor_batches": 2, "interval": 4},
    "zo-muon": {"queries": 2},
    "eggroll": {"queries": 2},
    "es": {"queries": 3},
}
SMALL: dict[str, dict[str, Any]] = {**TOY, "block-zo": {}, "dizo": {"every": 3, "rounds": 2}}


def charged(counted: Callable[[Any], Callable[[], int]], **settings: Any) -> tuple[int, int, Meter]:
    """Passes that a run of some steps is charged for, calls of the model's forward function, and the run's meter."""
    config = resolve({"limit": 16, "batch_size": ROWS, "steps": STEPS, **settings})
    run, meter = open_run(config), Meter()
    run.session.forward(run.batches.at(0))  # the first one tries out what the model can do
    count = counted(run.session)
    learner = Learner(config, meter.watching(run.session, run.rows["train"]), run.objective, strategy="sequential")
    for _ in range(STEPS):
        before = learner.progress.passes
        learner.advance(run.batches, run.profiler)
        meter.step(learner.progress.passes - before, config.batch_size)
    return learner.progress.passes, count(), meter


@pytest.mark.parametrize("name", LOSSES)
def test_each_pass_is_one_call_on_the_reference_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(session: Any) -> Callable[[], int]:
        calls: list[int] = []
        forward = type(session).forward
        monkeypatch.setattr(type(session), "forward", lambda own, rows: calls.append(1) or forward(own, rows))
        return lambda: len(calls)

    passes, calls, meter = charged(counted, estimator=name, device="reference", options=TOY.get(name, {}))
    assert passes == calls > 0
    assert (meter.outside, meter.foreign) == (0, 0)


@pytest.mark.parametrize("name", ["mezo-svrg", "dizo"])
def test_each_pass_has_the_tokens_of_its_own_batch_also_when_it_is_replayed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auxiliary batches are made of other rows than the batch of their step."""
    settings = {"limit": 16, "batch_size": ROWS, "steps": STEPS, "estimator": name, "device": "reference"}
    run, again = (open_run(resolve({**settings, "options": TOY[name]})) for _ in range(2))
    read: list[int] = []
    forward = type(run.session).forward

    def counting(own: Any, rows: Any) -> Any:
        read.append(sum(row.length for row in rows))
        return forward(own, rows)

    monkeypatch.setattr(type(run.session), "forward", counting)
    live, replayed = (Learner(one.config, one.session, tokens_of=one.batches.tokens) for one in (run, again))
    for _ in range(STEPS):
        replayed.replay(live.advance(run.batches, run.profiler))
    assert live.progress.tokens == replayed.progress.tokens == sum(read)


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_pass_of_rows_is_one_call_for_each_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(session: Any) -> Callable[[], int]:
        calls: list[int] = []
        forward = type(session).forward
        monkeypatch.setattr(type(session), "forward", lambda own, rows: calls.append(len(rows)) or forward(own, rows))
        return lambda: sum(calls)

    passes, rows, meter = charged(counted, estimator=name, device="reference")
    assert ROWS * passes == rows > 0
    assert (meter.outside, meter.foreign) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(entry.name for entry in OWN))
def test_each_pass_is_one_call_of_a_language_model(name: str, small_model: Any, rows: Any) -> None:
    """Derivatives count for several passes; those of the methods that take nothing else are checked in number too."""

    def counted(session: Any) -> Callable[[], int]:
        calls: list[int] = []
        session.model.get_submodule("model.layers.0").register_forward_pre_hook(lambda *_: calls.append(1))
        return lambda: len(calls)

    settings = {"device": "cpu", "model": str(small_model(num_hidden_layers=2)), "data": str(rows(Path("rows")))}
    passes, calls, meter = charged(counted, estimator=name, options=SMALL.get(name, {}), **settings)
    asks = catalogue().entry("estimator", name).value.asks
    if asks == {"gradient"}:
        assert passes == GRADIENT_PASSES * calls
    elif asks == {"jvp"}:
        assert passes == JVP_PASSES * calls
    elif name == "grzo":
        assert ROWS * passes == calls, "one row after the other, each along its own direction"
    elif "gradient" in asks:
        assert passes == calls + (GRADIENT_PASSES - 1) * STEPS, "one gradient a step, and losses"
    else:
        assert passes == calls
    assert (meter.outside, meter.foreign) == (0, 0)

"""What is said of a run while it goes on: the trace, and the outlook on prepared runs and on runs left aside."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from zoplat.config.layers import resolve
from zoplat.core.estimate import Estimate
from zoplat.registry import catalogue
from zoplat.testing import Plain, two_layers
from zoplat.training.callbacks import Callback
from zoplat.training.journal import Journal, StepRecord
from zoplat.training.outlook import Course, Outlook, courses, is_due, outlook
from zoplat.training.progress import Progress
from zoplat.training.trace import EVERY, TraceRecord, read_trace
from zoplat.training.train import train

PREPARED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("prepared.json").read_text())
TOY = {"device": "reference", "limit": 32, "batch_size": 4, "eps": 0.01}
EPS = 1e-2


def course(row: dict[str, Any]) -> Course:
    """A prepared run as its outlook reads it."""
    steps = [StepRecord(i, [], lr, loss) for i, (lr, loss) in enumerate(zip(row["lrs"], row["losses"], strict=True))]
    moves = {step: (moved, reach) for step, moved, reach in row["moves"]}
    trace = [
        TraceRecord(step, passes, [] if slope is None else [slope] * count, *moves.get(step, (None, None)))
        for step, (passes, (count, slope)) in enumerate(zip(row["passes"], row["slopes"], strict=True))
    ]
    scores = [(float(score), int(rows)) for score, rows in row["scores"]]
    return Course(steps, trace, scores, row["share"], row["lr"], row["eps"])


@pytest.mark.parametrize("is_held_out", [False, True], ids=["chosen on", "left aside"])
def test_the_outlook_is_right_on_nine_of_ten_runs(is_held_out: bool) -> None:
    runs = {name: row for name, row in PREPARED.items() if row["is_held_out"] == is_held_out}
    assert {row["word"] for row in runs.values()} == {"learning", "not learning", "diverging"}
    assert len(runs) >= 10
    wrong = {name: str(found) for name, row in runs.items() if (found := outlook(course(row))).word != row["word"]}
    assert len(wrong) <= len(runs) / 10, wrong


def test_what_is_said_on_the_way_is_right_or_that_it_is_too_early() -> None:
    on_the_way = [(row["word"], outlook(part).word) for row in PREPARED.values() for part in courses(course(row))]
    said = [(meant, word) for meant, word in on_the_way if word != "can't tell yet"]
    assert len(said) > len(on_the_way) / 3, "it is not always too early"
    assert sum(meant != word for meant, word in said) <= len(said) / 10


def test_a_run_whose_steps_are_too_small_is_given_an_lr_that_worked() -> None:
    """Ten times the advice of the small bag of words diverges, and a tenth of it is slow; see `make.RUNS`."""
    small, packaged = (outlook(course(PREPARED[name])) for name in ("mezo-small", "packaged-mezo-small"))
    assert "Try --lr 0.01 (100 times as much)" in small.advice
    assert "Try --lr 0.002 (100 times as much)" in packaged.advice, "the recipe has 2e-3"
    assert 0 < (small.promised or 0) < 0.01


def test_steps_that_are_too_large_are_said_to_go_further_than_eps_looks() -> None:
    found = outlook(course(PREPARED["lozo-large"]))
    assert found.word == "diverging"
    assert "39 times as far as --eps looks. Try --lr 0.003" in found.advice


def losses(*values: float, lr: float = 0.1) -> list[StepRecord]:
    return [StepRecord(step, [], lr, value) for step, value in enumerate(values)]


def wave(n: int, slope: float = 0.0) -> list[float]:
    return [1 + slope * i + 0.05 * math.sin(2.4 * i) for i in range(n)]


def test_nothing_is_said_about_few_losses() -> None:
    assert outlook(Course(losses(*wave(19)))).word == "can't tell yet"


def test_without_slopes_a_flat_loss_is_judged_by_how_far_it_can_still_fall() -> None:
    assert outlook(Course(losses(*wave(40)), share=0.1)).word == "can't tell yet"
    flat = outlook(Course(losses(*wave(400)), share=0.9))
    assert (flat.word, flat.advice) == ("not learning", "Try ten times the --lr")
    assert outlook(Course(losses(*wave(100, -0.002)))).word == "learning"
    assert outlook(Course(losses(*wave(100, 0.01)))).word == "diverging"


def test_a_loss_that_comes_back_up_diverges() -> None:
    assert outlook(Course(losses(*wave(80, -0.005), *(x - 0.4 + 0.02 * i for i, x in enumerate(wave(40)))))).word == (
        "diverging"
    )


def test_a_dev_score_that_falls_with_the_loss_is_said() -> None:
    found = outlook(Course(losses(*wave(100, -0.002)), scores=[(0.8, 400), (0.6, 400)]))
    assert found.word == "learning"
    assert "The dev score falls while the loss does" in found.advice


def test_slopes_that_are_zero_and_updates_that_are_rounded_off_are_named() -> None:
    trace = [TraceRecord(i, 2 * i + 2, [0.0 if i % 2 else 3.0], 0.003, 0.5) for i in range(100)]
    ties = outlook(Course(losses(*wave(100)), trace, share=1.0, eps=1e-4))
    assert "50% of the slopes are 0" in ties.advice
    rounded = outlook(Course(losses(*wave(100)), trace, share=1.0, eps=1e-4, changed=1e-5))
    assert "rounding drops the updates" in rounded.advice


def test_an_outlook_is_due_at_a_hundred_passes_and_at_every_doubling() -> None:
    passes = range(0, 1000, 7)
    due = [after for before, after in pairwise(passes) if is_due(before, after)]
    assert due == [105, 203, 406, 805]
    assert is_due(0, 900)


def estimates(name: str, steps: int = 1, **settings: Any) -> list[Estimate]:
    """The estimates of a method."""
    toy, method = two_layers(), replace(catalogue().entry("estimator", name).value, eps=EPS, **settings)
    method, found = replace(method, rule=Plain(lr=1e-3)), []
    state = method.init(toy.space)
    for step in range(steps):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, state):
            found.append(estimate)
            method.rule.apply(estimate, oracle, None)
    return found


@pytest.mark.parametrize("batches", ["shared", "fresh"])
@pytest.mark.parametrize("name", ["mezo", "lozo"])
def test_slopes_of_pairs_and_of_one_sided_losses_are_those_of_the_losses(name: str, batches: str) -> None:
    [estimate] = estimates(name, queries=3, batches=batches)
    pairs = zip(estimate.losses[::2], estimate.losses[1::2], strict=True)
    assert estimate.slopes == [(up - down) / (2 * EPS) for up, down in pairs]
    [estimate] = estimates(name, queries=3, batches=batches, side="one")
    losses = estimate.losses
    pairs = (
        zip(losses[::2], losses[1::2], strict=True) if batches == "fresh" else ((losses[0], up) for up in losses[1:])
    )
    assert estimate.slopes == [(up - base) / EPS for base, up in pairs]


def test_slopes_of_methods_that_rank_shrink_or_correct_are_those_of_the_losses_too() -> None:
    [estimate] = estimates("es", queries=4)
    assert estimate.slopes == pytest.approx([(loss - fmean(estimate.losses)) / EPS for loss in estimate.losses])
    [estimate] = estimates("es", queries=2, is_antithetic=True, shaping="ranks")
    assert estimate.slopes == [
        (up - down) / (2 * EPS) for up, down in zip(estimate.losses[::2], estimate.losses[1::2], strict=True)
    ]
    [estimate] = estimates("bszo", queries=2, remeasure=True)
    base, *ups = estimate.losses
    assert len(ups) == 3
    assert estimate.slopes == pytest.approx([(up - base) / EPS for up in ups[:2]])
    [anchor, corrected] = estimates("mezo-svrg", steps=2, anchor_batches=3)
    ups, downs = anchor.losses[:3], anchor.losses[3:]
    assert anchor.slopes == [pytest.approx((fmean(ups) - fmean(downs)) / (2 * EPS))]
    assert corrected.slopes == [
        (up - down) / (2 * EPS) for up, down in zip(corrected.losses[::2], corrected.losses[1::2], strict=True)
    ]
    [moved] = estimates("one-point", steps=2)
    assert moved.slopes == [pytest.approx(c) for _, c in moved.direction]


def test_a_gradient_has_no_slopes() -> None:
    toy = two_layers()
    [estimate] = catalogue().entry("estimator", "sgd").value.estimate(toy.oracle(0), None)
    assert not estimate.slopes


def test_what_a_run_promises_is_the_sum_of_lr_times_slope_squared_under_plain_descent() -> None:
    trace = [TraceRecord(i, 2 * i, [float(i)], 0.1 * i if i % 10 == 0 else None, None) for i in range(1, 51)]
    found = Course(losses(*wave(51)), trace).promised
    assert found == pytest.approx(0.1 * sum(i * i for i in range(51)))


def test_a_run_leaves_its_trace_with_what_the_journal_and_the_rule_say(tmp_path: Path) -> None:
    result = train(resolve({**TOY, "estimator": "mezo", "lr": 0.02, "steps": 2 * EVERY + 1}), tmp_path / "run")
    trace, steps = read_trace(tmp_path / "run" / "trace.jsonl"), Journal.read(tmp_path / "run" / "journal.jsonl").steps
    assert [record.step for record in trace] == [step.step for step in steps]
    assert trace[-1].passes == result.passes
    for record, step in zip(trace, steps, strict=True):
        up, down = step.answers
        assert record.slopes == [pytest.approx((up - down) / 0.02, rel=1e-5)]
        if record.step % EVERY == 0:
            assert record.moved == pytest.approx(0.02 * abs(record.slopes[0]), rel=0.05), "η·|g|, on a sample of z"
            assert record.reach == pytest.approx((record.moved or 0) / 0.01, rel=1e-4)
            assert record.updates.keys() == {"words", "hidden", "hidden_bias", "options"}
        else:
            assert (record.moved, record.updates) == (None, {})


def test_the_trace_of_a_run_in_two_processes_is_that_of_one(tmp_path: Path) -> None:
    settings = {**TOY, "estimator": "lozo", "step_rule": "constant", "lr": 0.02, "evaluate_every": 5}
    train(resolve({**settings, "steps": 25}), tmp_path / "whole")
    train(resolve({**settings, "steps": 15}), tmp_path / "two")
    with (tmp_path / "two" / "trace.jsonl").open("a") as file:
        file.write('{"step": 15, "passes": 32, "slopes": [7.0]}\n{"step": 16, "pass')
    train(resolve({**settings, "steps": 25}), tmp_path / "two", resume=True)
    whole, two = (read_trace(tmp_path / name / "trace.jsonl") for name in ("whole", "two"))
    assert [(one.step, one.passes, one.slopes) for one in two] == [(one.step, one.passes, one.slopes) for one in whole]
    for one, other in zip(two, whole, strict=True):  # θ of a resumed run is tracked from what a checkpoint rounded
        assert (one.moved or 0.0) == pytest.approx(other.moved or 0.0, rel=1e-5)
        assert one.updates == pytest.approx(other.updates, rel=1e-5)


def test_the_trace_changes_no_weight_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**TOY, "estimator": "zo-adam", "lr": 0.02, "steps": 12, "dtype": "float16"}
    traced = train(resolve(settings), tmp_path / "traced").summary
    monkeypatch.setattr("zoplat.training.trace.Trace.before", lambda self, step: None)
    plain = train(resolve(settings), tmp_path / "plain").summary
    assert traced.weights_digest == plain.weights_digest
    assert read_trace(tmp_path / "plain" / "trace.jsonl")[0].moved == 0.0, "nothing was measured there"


def test_an_outlook_is_given_on_the_way_and_stands_in_the_summary(tmp_path: Path) -> None:
    heard: list[tuple[int, Outlook]] = []

    class Listener(Callback):
        def judged(self, progress: Progress, outlook: Outlook) -> None:
            heard.append((progress.passes, outlook))

    config = resolve({**TOY, "estimator": "mezo", "lr": 1e-6, "steps": 110})
    summary = train(config, tmp_path / "run", callback=Listener()).summary
    assert [passes for passes, _ in heard] == [100, 200]
    assert {found.word for _, found in heard} == {"not learning"} == {summary.outlook}
    assert "The steps are too small" in (summary.advice or "")

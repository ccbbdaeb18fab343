"""Callbacks: what they hear, how they end a run early, and what becomes of the numbers that they log."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import zoplat
from zoplat import TrackedNumbers, TrackedRun, Tracker
from zoplat.errors import ZoplatError
from zoplat.registry import Entry, catalogue
from zoplat.training.callbacks import Callbacks
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay
from zoplat.training.tracking import tracked

TOY: dict[str, Any] = {"device": "reference", "estimator": "mezo", "steps": 6, "evaluate_every": 2, "batch_size": 4}
TOY["limit"] = 8


class Recorder(zoplat.Callback):
    """Keeps the names of events, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in EVENTS:
            object.__getattribute__(self, "seen").append(name)
        return super().__getattribute__(name)


OWN = {"stop", "log", "reason_to_stop", "take_logged"}
EVENTS = {name for name in vars(zoplat.Callback) if not name.startswith("_")} - OWN


class Until(zoplat.Callback):
    """Ends a run after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, progress: Any, loss: float | None) -> None:
        if progress.step == self.step:
            self.stop("seen enough")


class Logger(zoplat.Callback):
    """Logs twice the loss of every step, and a number beside each score on dev."""

    def stepped(self, progress: Any, loss: float | None) -> None:
        self.log(twice=2 * (loss or 0.0))

    def evaluated(self, record: dict[str, Any]) -> None:
        if record["split"] == "dev":
            self.log(rows=record["rows"])


def test_events_come_in_the_order_of_a_run(tmp_path: Path) -> None:
    one = Recorder()
    zoplat.run(out=tmp_path / "run", callback=one, **TOY)
    heard = [name for name in one.seen if name != "measured"]
    first, last = heard[:4], heard[-3:]
    assert first == ["opened", "evaluated", "evaluated", "stepped"]
    assert last == ["evaluated", "evaluated", "finished"]
    assert heard.count("stepped") == 6
    assert one.seen.count("measured") == 7


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_a_callback_ends_is_a_whole_run_of_so_many_steps(tmp_path: Path, step: int) -> None:
    ended = zoplat.run(out=tmp_path / "ended", callback=Until(step), **TOY).summary
    short = zoplat.run(out=tmp_path / "short", **{**TOY, "steps": step}).summary
    assert (ended.steps, ended.stopped, short.stopped) == (step, "seen enough", None)
    assert (ended.weights_digest, ended.test_after) == (short.weights_digest, short.test_after)
    assert replay(RunDirectory(tmp_path / "ended"), None)["status"] == "done"


def test_a_run_that_was_ended_early_is_over_and_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    ended = zoplat.run(out=tmp_path / "ended", callback=Until(3), **TOY)
    again = zoplat.run(out=tmp_path / "ended", resume=True)
    assert again.summary == ended.summary
    longer = zoplat.run(out=tmp_path / "ended", resume=True, steps=8).summary
    whole = zoplat.run(out=tmp_path / "whole", **{**TOY, "steps": 8}).summary
    assert (longer.steps, longer.stopped) == (8, None)
    assert longer.weights_digest == whole.weights_digest


def test_who_stops_before_the_first_step_gets_one(tmp_path: Path) -> None:
    class AtOnce(zoplat.Callback):
        def opened(self, config: Any, session: Any, directory: Path) -> None:
            self.stop("it is open")

    assert zoplat.run(out=tmp_path / "run", callback=AtOnce(), **TOY).summary.steps == 1


def test_what_is_logged_is_in_the_history_and_reaches_other_callbacks(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    heard: dict[int, dict[str, float]] = {}

    class Listener(zoplat.Callback):
        def logged(self, step: int, numbers: Any) -> None:
            heard.setdefault(step, {}).update(numbers)

    result = zoplat.run(out=tmp_path / "run", callback=[Logger(), Listener()], **TOY)
    frame = result.history()
    assert [*frame.columns[:4]] == ["loss", "lr", "dev", "test"]
    assert (frame["twice"].loc[1:] == 2 * frame["loss"].loc[1:]).all()
    assert frame["rows"].dropna().tolist() == [8.0] * int(frame["dev"].notna().sum())
    assert heard[2] == {"twice": frame["twice"].loc[2], "rows": 8.0}


def test_a_number_that_is_not_finite_is_kept_as_it_is(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.add_logged(1, {"cosine": float("inf")})
    directory.logged.write_text(directory.logged.read_text() + '{"step": 2, "cosine": "half a li')
    assert directory.read_logged() == {1: {"cosine": float("inf")}}


def test_names_of_every_run_and_what_is_no_number_are_refused() -> None:
    with pytest.raises(ZoplatError, match="'loss', which every run has"):
        zoplat.Callback().log(loss=1.0)
    with pytest.raises(ZoplatError, match="no number"):
        zoplat.Callback().log(name="x")  # type: ignore[arg-type]


def test_wishes_pass_through_several_callbacks_and_trackers() -> None:
    one, two = Until(1), Logger()
    both = Callbacks(one, two)
    with tracked(both, {"none": object()}) as outer:  # type: ignore[dict-item]  # no event opens it
        assert (outer.reason_to_stop(), outer.take_logged()) == ("", {})
        one.stop("why")
        two.log(a=1)
        assert (outer.reason_to_stop(), outer.take_logged(), outer.take_logged()) == ("why", {"a": 1.0}, {})


@dataclass(frozen=True)
class Shelf(Tracker):
    """A tracker that keeps numbers in a list."""

    summary = "a list"
    module = package = "json"
    kept: ClassVar[list[tuple[int, dict[str, float]]]] = []

    def open(self, run: TrackedRun) -> TrackedNumbers:
        kept = self.kept

        class Numbers(TrackedNumbers):
            known_as = "one"

            def log(self, step: int, numbers: Mapping[str, float]) -> None:
                kept.append((step, dict(numbers)))

            def finish(self, summary: Mapping[str, Any] | None) -> None:
                pass

        return Numbers()


def test_what_is_logged_reaches_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("tracker", "shelf", Shelf(), "tests", "1")
    monkeypatch.setitem(catalogue().entries, ("tracker", "shelf"), [entry])
    result = zoplat.run(out=tmp_path / "run", callback=Logger(), report_to="shelf", **TOY)
    logged = {step: numbers["logged/twice"] for step, numbers in Shelf.kept if "logged/twice" in numbers}
    assert logged == {
        step: numbers["twice"] for step, numbers in RunDirectory(result.directory).read_logged().items() if step
    }
    assert len(logged) == 6


def test_every_event_reaches_all_of_several_callbacks() -> None:
    missing = {name for name in {*EVENTS, "reason_to_stop", "take_logged"} if name not in vars(Callbacks)}
    assert missing == set()

"""`--report-to`: what runs send to trackers, read by the trackers' own readers, and trackers that fail."""

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import zoplat as package
from zoplat import TrackedNumbers, TrackedRun, Tracker
from zoplat.registry import Entry, catalogue
from zoplat.training import tracking

SHORT = ("--step-rule", "constant", "--evaluate-every", 5)
NAMES = ("tensorboard", "mlflow", "wandb", "trackio")


@dataclass(frozen=True)
class Notes(Tracker):
    """Keeps what it is given."""

    summary: ClassVar[str] = "notes"
    module: ClassVar[str] = "json"
    package: ClassVar[str] = "notes"
    fails: str = ""
    kept: ClassVar[list[Any]] = []

    def open(self, run: TrackedRun) -> TrackedNumbers:
        if self.fails == "open":
            raise RuntimeError("no server")
        self.kept.append(("open", run))
        return Page(self, run.known or "page 1")


class Page(TrackedNumbers):
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes, self.known_as = notes, name

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if self.notes.fails == "log" and step == 3:
            raise SystemExit("the server hung up")
        if self.notes.fails == "hang":
            threading.Event().wait()
        self.notes.kept.append((step, dict(numbers)))

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        self.notes.kept.append(("finish", summary and dict(summary)))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers a tracker of that name, which keeps what it is given."""

    def register(fails: str = "") -> list[Any]:
        Notes.kept.clear()
        entry = Entry("tracker", "notes", Notes(fails=fails), "test", "1")
        monkeypatch.setitem(catalogue().entries, ("tracker", "notes"), [entry])
        return Notes.kept

    return register


def series(kept: list[Any], name: str) -> dict[int, float]:
    """The values of one name by step."""
    return {step: numbers[name] for step, numbers in kept if type(step) is int and name in numbers}


def test_a_tracker_gets_settings_every_step_every_score_and_the_summary(zoplat: Any, notes: Any) -> None:
    kept = notes()
    summary = zoplat.run("--steps", 10, *SHORT, "--out", "a", "--report-to", "notes")
    assert kept[0][1].settings["estimator.name"] == "lozo"
    assert kept[0][1].name == "a"
    steps = [json.loads(line) for line in Path("a/journal.jsonl").read_text().splitlines()[1:]]
    assert series(kept, "train/loss") == {step["step"] + 1: step["loss"] for step in steps}
    assert series(kept, "train/passes") == {step: 2.0 * step for step in range(1, 11)}
    assert series(kept, "memory/host_peak").keys() == set(range(1, 11))
    assert series(kept, "train/seconds")[10] > 0
    scores = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert series(kept, "dev/accuracy") == {row["step"]: row["score"] for row in scores if row["split"] == "dev"}
    last, table = kept[-1]
    assert last == "finish"
    assert (table["test_after"], table["peak_bytes.host"]) == (summary["test_after"], summary["peak_bytes"]["host"])


def test_resume_goes_on_with_the_same_tracked_run_and_trackers_bind_nothing(zoplat: Any, notes: Any) -> None:
    kept = notes()
    zoplat.run("--steps", 5, *SHORT, "--out", "a", "--report-to", "notes")
    assert json.loads(Path("a/trackers.json").read_text()) == {"notes": "page 1"}
    kept.clear()
    zoplat.run("--steps", 10, *SHORT, "--out", "a", "--resume")
    assert kept[0][1].known == "page 1"
    assert series(kept, "train/loss").keys() == set(range(6, 11)), "steps before are there already"
    kept.clear()
    zoplat.run("--steps", 12, *SHORT, "--out", "a", "--resume", "--report-to", "none")
    assert kept == []
    zoplat.run("--steps", 12, *SHORT, "--out", "b")
    assert Path("a/journal.jsonl").read_bytes().count(b"\n") == 13
    assert zoplat("diff", "a", "b").exit_code == 0, "tracked or not"
    assert "report" not in Path("a/config.toml").read_text()


@pytest.mark.parametrize("fails", ["open", "log"])
def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(zoplat: Any, notes: Any, fails: str) -> None:
    notes(fails)
    done = zoplat("run", *zoplat.toy, "--steps", 10, *SHORT, "--out", "a", "--report-to", "notes", "--json")
    assert done.exit_code == 0
    assert done.stderr.count("tracker 'notes' failed and is left out from now on: ") == 1
    assert json.loads(done.stdout)["steps"] == 10
    zoplat.run("--steps", 10, *SHORT, "--out", "b")
    assert Path("a/journal.jsonl").read_bytes() == Path("b/journal.jsonl").read_bytes()


def test_a_tracker_that_hangs_holds_the_end_up_for_a_while_only(
    zoplat: Any, notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes("hang")
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    done = zoplat("run", *zoplat.toy, "--steps", 10, *SHORT, "--report-to", "notes", "--json")
    assert done.exit_code == 0
    assert "did not take all within 0.1 s; the run has everything" in done.stderr


def test_a_run_that_is_cut_off_closes_its_trackers_without_a_summary(
    zoplat: Any, notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = notes()
    monkeypatch.setattr("zoplat.training.live_run.MAX_SKIPPED", 1)
    monkeypatch.setattr("zoplat_plugins.mezo.MeZO.estimate", skipping)
    done = zoplat("run", *zoplat.toy, "--steps", 10, "--report-to", "notes")
    assert done.exit_code == 1
    assert kept[-1] == ("finish", None)


def skipping(*_: Any) -> Any:
    raise package.SkipStep("no step")
    yield


def test_a_library_that_is_missing_and_a_name_that_is_none_are_refused_before_any_work(
    zoplat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoplat.core.tracker.find_spec", lambda name: None)
    said = zoplat.refused("run", *zoplat.toy, "--report-to", "wandb")
    assert "--report-to wandb: its library is not installed. pip install wandb" in said
    assert "pip install mlflow-skinny" in zoplat.refused("run", *zoplat.toy, "--report-to", "mlflow", "--dry-run")
    assert "Unknown tracker 'wandv'" in zoplat.refused("run", *zoplat.toy, "--report-to", "wandv")


def test_list_and_show_know_trackers(zoplat: Any) -> None:
    rows = {row["name"]: row for row in json.loads(zoplat("list", "trackers", "--json").stdout)}
    assert rows.keys() >= set(NAMES)
    assert "MLFLOW_TRACKING_URI" in zoplat("show", "mlflow").stdout


def test_reading_the_hooks_of_trackers_imports_none_of_their_libraries(zoplat: Any) -> None:
    code = "import sys; from zoplat.registry import catalogue; catalogue(); print(sorted({*sys.modules} & {*sys.argv}))"
    done = subprocess.run([sys.executable, "-c", code, *NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def in_two_processes(zoplat: Any, name: str) -> dict[str, Any]:
    """A real run that is sent to a tracker, and gone on with; returns its summary."""
    for steps in (5, 10):
        done = zoplat(
            "run", *zoplat.toy, "--steps", steps, *SHORT, "--out", "r", "--resume", "--report-to", name, "--json"
        )
        assert done.exit_code == 0, done.stderr
        assert "failed" not in done.stderr, done.stderr
        assert done.stdout.count("\n") == 1, "one JSON object and nothing of the tracker's"
    return dict(json.loads(done.stdout))


def expected(summary: dict[str, Any]) -> dict[str, dict[int, float]]:
    """By name, what a tracker's reader should find by step."""
    steps = [json.loads(line) for line in Path("r/journal.jsonl").read_text().splitlines()[1:]]
    scores = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    return {
        "train/loss": {step["step"] + 1: step["loss"] for step in steps},
        "train/passes": {step: 2.0 * step for step in range(1, 11)},
        "dev/accuracy": {row["step"]: row["score"] for row in scores if row["split"] == "dev"},
        "summary/test_after": {10: summary["test_after"]},
    }


def check_found(found: dict[str, dict[int, float]], summary: dict[str, Any], steps: range = range(1, 11)) -> None:
    for name, values in expected(summary).items():
        assert found[name].keys() >= values.keys(), name
        assert {step: found[name][step] for step in values} == pytest.approx(values), name
    assert found["memory/host_peak"][10] > 2**20
    assert sorted(found["train/seconds"]) == [*steps]


@pytest.mark.slow
def test_tensorboards_reader_finds_a_run(zoplat: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summary = in_two_processes(zoplat, "tensorboard")
    events = EventAccumulator("r/tensorboard")
    events.Reload()
    names = events.Tags()["scalars"]
    check_found({name: {e.step: e.value for e in events.Scalars(name)} for name in names}, summary)
    assert "settings/text_summary" in events.Tags()["tensors"] or "settings" in events.Tags()["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflows_client_finds_a_run(zoplat: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    if store == "sqlite":
        pytest.importorskip("sqlalchemy")
    place = f"sqlite:///{tmp_path}/runs.db" if store == "sqlite" else (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    summary = in_two_processes(zoplat, "mlflow")
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("zoplat").experiment_id])
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    check_found({name: {m.step: m.value for m in history} for name, history in histories.items()}, summary)
    assert run.info.status == "FINISHED"
    assert run.data.params["estimator.name"] == "lozo"
    assert run.data.tags["summary.weights_digest"] == summary["weights_digest"]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, a LevelDB log after seven bytes; W&B itself reads it in Go.

    Blocks of 32 KiB hold pieces of records: checksum, length and kind (1 whole, 2 first, 3 middle, 4 last), then bytes.
    """
    assert content.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := -place % 2**15) and left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.slow
def test_wandbs_offline_files_have_a_run(zoplat: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    summary = in_two_processes(zoplat, "wandb")
    found: dict[str, dict[int, float]] = {}
    ids = set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime):
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in items.items():
                found.setdefault(name, {})[items.get("step", -1)] = value
            for item in record.summary.update:
                found.setdefault(f"summary/{item.key or '/'.join(item.nested_key)}", {})[10] = json.loads(
                    item.value_json
                )
    assert len(ids) == 1, "both processes wrote about one run"
    check_found(found, summary)


@pytest.mark.slow
def test_trackios_database_has_a_run(zoplat: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    summary = in_two_processes(zoplat, "trackio")
    [name] = json.loads(Path("r/trackers.json").read_text()).values()
    found: dict[str, dict[int, float]] = {}
    for row in SQLiteStorage.get_logs("zoplat", name):
        for key, value in row.items():
            if isinstance(value, int | float):
                found.setdefault(key, {})[int(row["step"])] = value
    check_found(found, summary)

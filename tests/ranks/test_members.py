"""Members that join a run through its folder, come late, leave, and fall behind."""

import threading
import time
from pathlib import Path
from typing import Any

from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.training.callbacks import Callback
from zoplat.training.join import join
from zoplat.training.train import train


def config_of(**settings: Any) -> RunConfig:
    table: dict[str, Any] = {"estimator": "mezo", "queries": 3, "device": "reference", "batch_size": 8, "limit": 32}
    table |= {"steps": 60, "evaluate_every": 20, "parallel": "queries", "options": {"device.restore": "exact"}}
    return resolve({**table, **settings})


class Slow(Callback):
    """Time for a member to come."""

    def stepped(self, progress: Any, loss: float | None) -> None:
        time.sleep(0.05)


def lines(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def in_background(work: Any, *args: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work(*args))
        except Exception as problem:
            found.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_a_member_that_joins_at_half_time_computes_points_and_changes_no_bit() -> None:
    thread, found = in_background(train, config_of(steps=60), Path("helped"), False, Slow())
    while lines(Path("helped")) < 20:
        assert thread.is_alive(), found
        time.sleep(0.002)
    outcome = join(Path("helped"), 60)
    thread.join(120)
    assert outcome["points"] > 0
    assert outcome["weights_digest"] == found[0].summary.weights_digest
    whole = train(config_of(steps=60), Path("whole"))
    assert whole.summary.weights_digest == found[0].summary.weights_digest

"""zoplat compare by several workers: claims, and runs of interrupted and killed ones that others go on with."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from zoplat.comparison.claims import claimed
from zoplat.comparison.matrix import Matrix
from zoplat.comparison.study import Study
from zoplat.comparison.work import Workers
from zoplat.training.journal import Journal

from .conftest import TOY


def test_what_another_worker_has_claimed_is_left_to_it(zoplat: Any, in_process: list[str]) -> None:
    settings = {"device": "reference", "limit": 16, "batch_size": 4, "max_passes": 12}
    study = Study(Path("all"), Matrix.of(settings, {"estimators": ("mezo", "lozo")}))
    study.prepare()
    workers = Workers(study, 1, in_process.append)
    with claimed(study.claim("mezo-0")) as claim:
        assert claim is not None
        with claimed(study.claim("mezo-0")) as other:
            assert other is None
        mine = [job for job in workers.jobs if workers.made(job)]
    assert [job.cell.method for job in mine] == ["lozo"]
    assert [job.cell.method for job in workers.jobs if not job.is_over] == ["mezo"]
    assert not Path("all/mezo-0").exists()


def test_a_claim_is_held_as_long_as_the_run_lives_that_inherited_it() -> None:
    path = Path("a.lock")
    with claimed(path) as claim:
        assert claim is not None
        run = subprocess.Popen(["sleep", "60"], pass_fds=(claim,))
    with claimed(path) as other:
        assert other is None, "its worker is gone, the run goes on"
    run.kill()
    run.wait()
    with claimed(path) as other:
        assert other is not None


@pytest.mark.slow
def test_an_interrupted_worker_stops_its_run_which_is_gone_on_with(zoplat: Any) -> None:
    toy = (*TOY, "--max-passes", 3000, "--evaluate-every", 1000)
    arguments = ("compare", "--estimators", "mezo", *toy, "--out", "all", "--json")
    worker, journal = zoplat.start(*arguments), Path("all/mezo-0/journal.jsonl")
    while worker.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
        time.sleep(0.01)
    [run] = psutil.Process(worker.pid).children()
    worker.send_signal(signal.SIGTERM)
    _, errors = worker.communicate()
    assert worker.returncode == 130
    assert "the same command goes on" in errors
    assert not run.is_running()
    kept = journal.read_bytes()
    assert 20 < kept.count(b"\n") < 1500
    done = zoplat.start(*arguments)
    assert json.loads(done.communicate()[0])["rows"][0]["forward_passes"] == 3000
    assert journal.read_bytes().startswith(kept)


@pytest.mark.slow
def test_a_killed_worker_s_run_is_gone_on_with_by_two_others_and_nothing_is_made_twice(zoplat: Any) -> None:
    pytest.importorskip("optuna")
    steps = 120
    toy = (*TOY, "--max-passes", 2 * steps, "--evaluate-every", 60)
    arguments = ("compare", "--estimators", "mezo", "--tune-trials", 2, *toy, "--out", "all")
    first, journal = zoplat.start(*arguments), Path("all/trials/mezo-0/journal.jsonl")
    while first.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
        time.sleep(0.01)
    killed_run(first)
    kept = journal.read_bytes().rpartition(b"\n")[0]
    assert not Path("all/trials/mezo-0/summary.json").exists(), "it was to be killed in the middle"
    workers = [zoplat.start(*arguments, "--json"), zoplat.start("compare", "--join", "all", "--json")]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert json.loads(outputs[0][0]) == json.loads(outputs[1][0])
    begun = [line.partition("  (")[0] for _, errors in outputs for line in errors.splitlines()]
    assert sorted(begun) == ["mezo, sentiment, seed 0", "mezo, sentiment, trial 0", "mezo, sentiment, trial 1"]
    assert journal.read_bytes().startswith(kept), "it was resumed, not begun anew"
    for path in Path("all").rglob("journal.jsonl"):
        assert len(Journal.read(path).steps) == steps, path
    assert len([*Path("all").rglob("journal.jsonl")]) == 3


def killed_run(worker: Any) -> None:
    """Kill a worker, and the run that it has begun."""
    processes = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    worker.communicate()

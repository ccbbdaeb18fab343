"""More steps, other settings and other places for a run that exists."""

import json
import os
import time
from pathlib import Path

import pytest

import zoplat as package
from zoplat.training.directory import RunDirectory
from zoplat.training.journal import Journal, JournalWriter, StepRecord

from .toy import digest_of_replay, run, the_same, zoplat

TABLE = {"device": "reference", "estimator": "mezo", "limit": 16, "batch_size": 4, "lr": 1e-2}
OWN_TASK = """
prompt = "{text} It was"

[options]
no = " bad"
yes = " good"
"""


class TestMore:
    """Case resume-longer; settings of a resumed run, and what it cost."""

    def test_a_run_is_made_longer_with_the_bits_of_one_long_run(self) -> None:
        long = run("--steps", 8, "--evaluate-every", 3, "--out", "long")
        run("--steps", 4, "--evaluate-every", 3, "--out", "r")  # ends where the long run is not settled
        done = zoplat("run", "--resume", "--out", "r", "--steps", 8, "--json")
        assert done.exit_code == 0, done.stderr
        the_same(long, {**json.loads(done.stdout), "evaluation_passes": long["evaluation_passes"]})
        extended, whole = (Journal.read(Path(folder, "journal.jsonl")).steps for folder in ("r", "long"))
        assert extended == whole, "their headers have another budget"
        assert digest_of_replay("r") == long["weights_digest"]
        assert RunDirectory(Path("r")).read_config().steps == 8

    def test_what_is_refused_lists_only_what_was_given(self) -> None:
        run("--steps", 4, "--out", "r")
        done = zoplat("run", "--resume", "--out", "r", "--lr", 0.5)
        assert done.exit_code == 2
        assert [line for line in done.stderr.splitlines() if "→" in line] == ["  estimator.rule.lr: 0.01 → 0.5"]
        done = zoplat("run", "--resume", "--out", "r", "--estimator", "lozo")
        assert [line for line in done.stderr.splitlines() if "→" in line] == ["  estimator.name: 'mezo' → 'lozo'"]
        done = zoplat("run", "--resume", "--out", "r", "--steps", 2)
        assert done.exit_code == 2
        assert "r made 4 steps already" in done.stderr

    def test_a_run_whose_steps_depend_on_its_length_is_not_made_longer(self) -> None:
        run("--steps", 4, "--step-rule", "cosine", "--out", "r")
        before = Path("r/summary.json").read_bytes()
        done = zoplat("run", "--resume", "--out", "r", "--steps", 8)
        assert done.exit_code == 2
        assert "steps: 4 → 8" in done.stderr
        assert Path("r/summary.json").read_bytes() == before

    def test_python_resumes_with_what_it_is_given_too(self) -> None:
        run("--steps", 4, "--out", "r")
        assert package.run(out="r", resume=True, steps=6).summary.steps == 6

    def test_seconds_and_passes_and_peaks_of_all_processes_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = run("--steps", 9, "--evaluate-every", 3, "--out", "whole")
        append = JournalWriter.append

        def interrupt(self: JournalWriter, record: StepRecord) -> None:
            append(self, record)
            if record.step == 4:
                time.sleep(0.3)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(JournalWriter, "append", interrupt)
            with pytest.raises(KeyboardInterrupt):
                package.run(**TABLE, steps=9, evaluate_every=3, out="r")
        costs = json.loads(Path("r/checkpoint/costs.json").read_text())
        resumed = run("--steps", 9, "--evaluate-every", 3, "--out", "r", "--resume")
        assert resumed["passes_over_weights"] == pytest.approx(whole["passes_over_weights"], abs=1.01)
        assert resumed["seconds"] > costs["seconds"] > 0.3
        assert resumed["seconds_training"] >= costs["seconds_training"]
        assert resumed["peak_bytes"]["host"] >= max(phase["host_peak"] for phase in costs["phases"].values())
        rows = [json.loads(line) for line in Path("r/memory.jsonl").read_text().splitlines()]
        assert next(row["calls"] for row in rows if row.get("phase") == "open") == 2

    def test_paths_of_task_and_data_are_recorded_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [
            json.dumps({"text": f"{word} {number}", "label": label})
            for number in range(8)
            for word, label in (("good", "yes"), ("bad", "no"))
        ]
        Path("rows").mkdir()
        for split, some in (("train", rows[:8]), ("dev", rows[8:12]), ("test", rows[12:])):
            Path("rows", f"{split}.jsonl").write_text("\n".join(some) + "\n")
        Path("own.toml").write_text(OWN_TASK)
        summary = run("--task", "own.toml", "--data", "rows", "--steps", 2, "--out", "r")
        config = RunDirectory(Path("r")).read_config()
        assert (config.task, config.data) == (os.path.abspath("own.toml"), os.path.abspath("rows"))
        folder = Path("r").absolute()
        Path("deeper").mkdir()
        monkeypatch.chdir("deeper")
        assert digest_of_replay(str(folder)) == summary["weights_digest"]
        assert zoplat("run", "--resume", "--out", folder, "--steps", 3).exit_code == 0

"""`python -m tests.soak --minutes 60 --log docs/results/soak.jsonl`: runs that are disturbed until they are done.

Four methods, sequential and batched, on the packaged model with LoRA. Every process ends by itself, by SIGKILL or by
Ctrl-C at a random moment, while its disk or clock may not be well (`troubled.py`) and another process may want the same
run. When the run is done, its weights, its replay and its scores must be those of an undisturbed run. The log has a
line for each process and each run; the first that is wrong ends the soak with status 1.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tests.soak.troubled import TROUBLES

MODEL, STEPS = ("--model", "packaged:smollm2-135m", "--tune", "lora"), ("--steps", "20", "--evaluate-every", "5")
COMMON = (*MODEL, *STEPS, "--limit", "8", "--batch-size", "2", "--lr", "1e-3", "--quiet")
CASES = {
    "mezo": ("-o", "device.strategy=batched"),
    "lozo": ("-o", "device.strategy=sequential"),
    "zo-adam": ("-o", "device.strategy=sequential", "-o", "device.state=disk"),
    "hizoo": ("-o", "device.strategy=batched"),
}
"""Method → flags of its run."""
WELL = {"full": {0, 1, 130}, "limit": {0, 1, 130}, "slow": {0, 130}, "clock": {0, 130}, "none": {0, 130}}
"""Trouble → how a process may end that nobody killed."""
SAME = ("weights_digest", "dev_before", "dev_after", "test_before", "test_after", "steps", "forward_passes")
PEACE = 40
"""Lives after which a run is left alone, so that each comes to its end."""


class Wrong(Exception):
    """A disturbed run differs from the undisturbed one, or ended as it must not."""


class Soak:
    """Disturbs runs.

    Args:
        folder: for the runs.
        log: gets a line of JSON for each process and each run.
        seed: of everything that is random here.

    Attributes:
        life: seconds of the longest undisturbed run, after which a process is killed or interrupted at the latest.
    """

    def __init__(self, folder: Path, log: Path, seed: int) -> None:
        self.folder, self.log, self.chance = folder, log, random.Random(seed)
        self.began, self.life = time.monotonic(), 0.0

    def note(self, **facts: Any) -> None:
        """Write a line to the log."""
        line = json.dumps({"seconds": round(time.monotonic() - self.began, 1), **facts})
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def start(self, out: Path, case: str, trouble: str = "none") -> subprocess.Popen[str]:
        """A process that begins a run or goes on with it."""
        module = ["-m", "tests.soak.troubled", trouble, str(self.chance.randrange(1 << 30))]
        flags = ["run", "--estimator", case, *COMMON, *CASES[case], "--out", str(out), "--resume"]
        return subprocess.Popen(
            [sys.executable, *module, *flags], text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def undisturbed(self, case: str) -> dict[str, Any]:
        """The summary of a run that nobody disturbs."""
        out = self.folder / case
        process, began = self.start(out, case), time.monotonic()
        _, errors = process.communicate()
        self.life = max(self.life, time.monotonic() - began)
        if process.returncode:
            raise Wrong(f"{case}, undisturbed, ended with {process.returncode}: {errors[-500:]}")
        return dict(json.loads((out / "summary.json").read_text()))

    def disturbed(self, case: str, expected: dict[str, Any], number: int) -> None:
        """One run until it is done, and what became of it."""
        out, lives = self.folder / f"disturbed-{number}", 0
        while self._life(out, case, is_left_alone=lives >= PEACE) is None:
            lives += 1
        found = json.loads((out / "summary.json").read_text())
        for key in SAME:
            if found[key] != expected[key]:
                raise Wrong(f"{case}: {key} is {found[key]}, undisturbed it is {expected[key]}; see {out}")
        replayed = subprocess.run(
            [sys.executable, "-m", "zoplat", "replay", str(out), "--json"], capture_output=True, text=True, check=False
        )
        if replayed.returncode or json.loads(replayed.stdout)["weights_digest"] != expected["weights_digest"]:
            raise Wrong(f"{case}: its replay has other weights, or fails: {replayed.stderr[-500:]}; see {out}")
        self.note(run=case, lives=lives + 1, digest=found["weights_digest"], as_undisturbed=True)
        shutil.rmtree(out)

    def _life(self, out: Path, case: str, is_left_alone: bool) -> int | None:
        """One process; 0 when the run is done, None when it has to be gone on with."""
        trouble = "none" if is_left_alone else self.chance.choice([*TROUBLES])
        blow = None if is_left_alone else self.chance.choice([None, signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
        process = self.start(out, case, trouble)
        rival = self.start(out, case) if not is_left_alone and self.chance.random() < 0.15 else None
        if blow is not None:
            try:
                process.wait(self.chance.uniform(0.0, self.life))
            except subprocess.TimeoutExpired:
                process.send_signal(blow)
        _, errors = process.communicate()
        steps = _steps(out)
        self.note(case=case, trouble=trouble, blow=blow.name if blow else None, status=process.returncode, steps=steps)
        if rival is not None:
            self._check_rival(rival, case)
        code = process.returncode
        has_no_room = trouble in ("full", "limit") and ("Choose another place" in errors or "Make room" in errors)
        is_refused = code == 2 and ("is in use" in errors or has_no_room)
        if "Traceback" in errors or not (code == -signal.SIGKILL or is_refused or code in WELL[trouble]):
            raise Wrong(f"{case}, {trouble}, {blow}: status {code}: {errors[-2000:]}")
        summary = out / "summary.json"
        is_done = code == 0 and summary.exists() and json.loads(summary.read_text())["status"] == "done"
        return 0 if is_done else None

    def _check_rival(self, rival: subprocess.Popen[str], case: str) -> None:
        """A second writer is refused while the first lives, or has the run alone after it."""
        if self.chance.random() < 0.5:
            rival.send_signal(signal.SIGKILL)
        _, errors = rival.communicate()
        self.note(case=case, rival=rival.returncode)
        if "Traceback" in errors or rival.returncode not in (0, 2, -signal.SIGKILL):
            raise Wrong(f"{case}: a second writer ended with {rival.returncode}: {errors[-2000:]}")


def _steps(out: Path) -> int:
    journal = out / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


@click.command(help=__doc__)
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--log", type=click.Path(path_type=Path), default=Path("soak.jsonl"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def soak(minutes: float, log: Path, seed: int) -> None:
    log.write_text("")
    with tempfile.TemporaryDirectory(prefix="zoplat-soak-") as folder:
        os.environ["ZOPLAT_CACHE"] = str(Path(folder, "cache"))
        work = Soak(Path(folder), log, seed)
        try:
            expected = {case: work.undisturbed(case) for case in CASES}
            number = 0
            while time.monotonic() - work.began < 60 * minutes:
                case = [*CASES][number % len(CASES)]
                work.disturbed(case, expected[case], number)
                number += 1
        except Wrong as wrong:
            work.note(wrong=str(wrong))
            shutil.copytree(work.folder, f"{work.folder}-kept", ignore_dangling_symlinks=True)
            sys.exit(f"{wrong}  (all runs: {work.folder}-kept)")
    work.note(runs=number, minutes=round((time.monotonic() - work.began) / 60, 1), all_as_undisturbed=True)


if __name__ == "__main__":
    soak()

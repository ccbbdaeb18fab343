"""One run of a comparison, executed in a process of its own so that its peak memory and its failure are its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoplat.comparison.forecast import passes_of_a_step
from zoplat.comparison.plugins import flags
from zoplat.config.run_config import RunConfig
from zoplat.core import permissions
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.paths import replace_text
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary

ATTEMPTS = 3
"""How often a run is begun or gone on with whose process was killed, for example for want of memory."""
INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of a run that was asked to stop, the last two of one that could not listen yet."""
FAILURE = "failure.json"
"""In the directory of a run that failed: what is known of it. It is not tried again before this is removed."""


@dataclass(frozen=True)
class FailedRun:
    """A run that did not finish.

    Attributes:
        estimator: the method's name in the table.
        task: its task.
        seed: its seed.
        reason: the last line of its error output.
        trial: number of the trial of a search, from 0; None for a run.
        directory: where it was, relative to the folder of the study.
    """

    estimator: str
    task: str
    seed: int
    reason: str
    trial: int | None = None
    directory: str = ""

    def __str__(self) -> str:
        which = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.estimator}, {self.task}, {which}: {self.reason}"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        config: its settings.
        protocol: how the model is evaluated without training it; None for a training run.
        directory: its run directory.
        method: its name in the table.
        trial: number of the trial of a search; None for a run.
        home: the folder of the study.
        plugins: files whose parts its process registers first.
    """

    config: RunConfig
    protocol: EvaluationProtocol | None
    directory: Path
    method: str
    trial: int | None = None
    home: Path = Path()
    plugins: tuple[Path, ...] = ()

    def __str__(self) -> str:
        which = f"seed {self.config.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.method}, {self.config.task}, {which}"

    @property
    def outcome(self) -> Summary | FailedRun | None:
        """What came of it so far: None where it is not over.

        Raises:
            ZoplatError: its summary is damaged.
        """
        summary = RunDirectory(self.directory).read_summary()
        if summary and summary.status == "done":
            return summary
        try:
            return FailedRun(**json.loads((self.directory / FAILURE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise ZoplatError(f"{self.directory / FAILURE} is damaged; delete it to try the run again.") from None

    @property
    def passes_so_far(self) -> int:
        """Forward passes of the steps in its journal, by what a step takes; 0 where there is no journal."""
        journal = RunDirectory(self.directory).read_journal()
        return round(len(journal.steps) * passes_of_a_step(self.config)) if journal else 0

    def check(self) -> None:
        """Raise ZoplatError where its directory holds a run with other settings."""
        if (self.directory / "config.toml").exists():
            RunDirectory(self.directory).check_unchanged(self.config, self.home)

    def execute(self, claim: int, running: Callable[[subprocess.Popen[str]], None]) -> Summary | FailedRun:
        """Run `zoplat run` or `zoplat eval` in a new process; the directory has the summary, or why it failed.

        Args:
            claim: the open file of the claim, which the process inherits.
            running: is called with the process.

        Raises:
            KeyboardInterrupt: the process was interrupted.
        """
        result: Summary | FailedRun
        with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
            file.write(self.config.toml())
            file.flush()
            if self.protocol:
                shots = [f"--shots={self.protocol.shots}", *(["--probe"] if self.protocol.linear_probe else [])]
                output = _output_of(claim, running, "eval", "--config", file.name, *shots, *flags(self.plugins))
            else:
                arguments = (
                    "--config",
                    file.name,
                    "--out",
                    str(self.directory),
                    "--resume",
                    "--quiet",
                    *flags(self.plugins),
                )
                output = _output_of(claim, running, "run", *arguments)
        if isinstance(output, str):
            result = self.failed(output)
        else:
            result = self._write_evaluation(output) if self.protocol else Summary.from_json(output)
        return result

    def failed(self, reason: str) -> FailedRun:
        """Write down why it failed; returns the same."""
        where = self.directory.relative_to(self.home) if self.home != Path() else self.directory
        failed = FailedRun(self.method, self.config.task, self.config.seed, reason, self.trial, str(where))
        self.directory.mkdir(parents=True, exist_ok=True)
        replace_text(self.directory / FAILURE, json.dumps(asdict(failed), indent=1, ensure_ascii=False) + "\n")
        return failed

    def _write_evaluation(self, scores: dict[str, Any]) -> Summary:
        """Write the output of `zoplat eval` as the summary of a run; returns that."""
        summary = {**scores, "estimator": self.method, "test_after": scores["score"], "steps": 0, "forward_passes": 0}
        self.directory.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(self.directory)
        replace_text(directory.config, self.config.toml())
        directory.write_summary(summary)
        return Summary.from_json(summary)


def _output_of(
    claim: int, running: Callable[[subprocess.Popen[str]], None], command: str, *arguments: str
) -> dict[str, Any] | str:
    """The JSON output of a command, or the last line of its error output where it failed.

    It is in a process group of its own: whoever interrupts a comparison interrupts its runs once, through it.
    """
    words = [sys.executable, "-m", "zoplat", command, *arguments, "--json"]
    environment = {**os.environ, permissions.VARIABLE: ",".join(permissions.granted())}
    for attempt in range(ATTEMPTS):
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            pass_fds=(claim,),
            process_group=0,
        )
        running(process)
        output, errors = process.communicate()
        if process.returncode in INTERRUPTED:
            raise KeyboardInterrupt
        if process.returncode >= 0 or attempt == ATTEMPTS - 1:
            break
    if process.returncode < 0:
        return f"It was killed {ATTEMPTS} times, the last time by signal {-process.returncode}; was memory short?"
    if process.returncode:
        last: str = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return last
    summary: dict[str, Any] = json.loads(output)
    return summary

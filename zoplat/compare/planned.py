"""One run of a comparison, executed in a process of its own so that its peak memory and its failure are its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.config.run_config import RunConfig
from zoplat.evaluation.protocol import EvaluationProtocol
from zoplat.paths import replace_text
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary


@dataclass(frozen=True)
class FailedRun:
    """A run that did not finish.

    Attributes:
        estimator, task, seed: which one.
        reason: the last line of its error output.
    """

    estimator: str
    task: str
    seed: int
    reason: str


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        config: its settings.
        protocol: how the model is evaluated without training it; None for a training run.
        directory: its run directory.
    """

    config: RunConfig
    protocol: EvaluationProtocol | None
    directory: Path

    @property
    def method(self) -> str:
        """Its name in the table."""
        return self.protocol.name if self.protocol else self.config.estimator_name

    def __str__(self) -> str:
        return f"{self.method}, {self.config.task}, seed {self.config.seed}"

    def execute(self) -> Summary | FailedRun:
        """Run `zoplat run` or `zoplat eval` in a new process; returns the summary, which the directory has as well.

        Raises:
            KeyboardInterrupt: the process was interrupted.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
            file.write(self.config.toml())
            file.flush()
            if self.protocol:
                flags = [f"--shots={self.protocol.shots}", *(["--probe"] if self.protocol.linear_probe else [])]
                output = _output_of("eval", "--config", file.name, *flags)
            else:
                output = _output_of("run", "--config", file.name, "--out", str(self.directory), "--resume", "--quiet")
        if isinstance(output, str):
            return FailedRun(self.method, self.config.task, self.config.seed, output)
        return self._write_evaluation(output) if self.protocol else Summary.from_json(output)

    def _write_evaluation(self, scores: dict[str, Any]) -> Summary:
        """Write the output of `zoplat eval` as the summary of a run; returns that."""
        summary = {**scores, "estimator": self.method, "test_after": scores["score"], "steps": 0, "forward_passes": 0}
        self.directory.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(self.directory)
        replace_text(directory.config, self.config.toml())
        directory.write_summary(summary)
        return Summary.from_json(summary)


def _output_of(command: str, *arguments: str) -> dict[str, Any] | str:
    """The JSON output of a command, or the last line of its error output where it failed."""
    words = [sys.executable, "-m", "zoplat", command, *arguments, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        last: str = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return last
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary

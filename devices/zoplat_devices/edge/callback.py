"""What a run on a board does between steps: lines of progress, pauses, and a memory limit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from zoplat import __version__
from zoplat.config.run_config import RunConfig
from zoplat.core.device import Session
from zoplat.core.errors import RunFailed
from zoplat.core.memory import MemoryReading
from zoplat.core.notices import counted
from zoplat.training.callbacks import Callback
from zoplat.training.progress import Progress
from zoplat_devices.edge.board import Limits, Reading

PROGRESS_INTERVAL = 10.0  # seconds between lines of progress
BOARD_INTERVAL = 1.0  # seconds between readings of the board


class EdgeCallback(Callback):
    """Prints progress, pauses a run while its board is beyond limits, and stops it above a memory limit.

    Args:
        limits: battery and temperature beyond which the run pauses.
        memory: bytes of peak memory above which the run stops; None for no limit.
        is_quiet: whether progress is not printed; reasons for a pause always are.
    """

    def __init__(self, limits: Limits, memory: int | None = None, is_quiet: bool = False) -> None:
        self.limits, self.memory, self.is_quiet = limits, memory, is_quiet
        self.peak, self.is_paused_by_signal = 0, False
        self.board, self.board_read_at, self.progress_at = Reading(), 0.0, 0.0

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        self.config, self.directory, facts = config, directory, session.facts
        self._say(
            f"zoplat {__version__} · {config.estimator_name} · {config.task} · seed {config.seed}\n"
            f"{facts['model']}, base {facts['base']} · {facts['trainable_parameters']:,} trainable weights "
            f"({config.tune.name}) · {facts['kernels']}, {counted(facts['threads'], 'thread')}\n"
            f"run directory {directory}"
        )

    def resumed(self, step: int) -> None:
        self._say(f"resumed: {counted(step, 'step')} rebuilt from the journal")

    def measured(self, peak: MemoryReading) -> None:
        self.peak = peak.host_peak
        if self.memory and self.peak > self.memory:
            raise RunFailed(
                f"--memory {mebibytes(self.memory)}: the run takes {mebibytes(self.peak)} and was stopped; what it "
                f"did is kept. Go on with more by --resume --out {self.directory}, or begin another one with a "
                f"--micro-batch-size below {self.config.read_at_once}."
            )

    def stepped(self, state: Progress, loss: float | None) -> None:
        is_last = state.is_over(self.config)
        if state.step == 1 or is_last or time.monotonic() - self.progress_at > PROGRESS_INTERVAL:
            self.progress_at = time.monotonic()
            loss_text = "–" if loss is None else f"{loss:.4f}"
            passes = state.passes / max(state.seconds, 1e-9)
            parts = [f"step {state.step}/{self.config.steps or '–'}", f"loss {loss_text}", f"{passes:.2g} passes/s"]
            self._say("  ".join([*parts, mebibytes(self.peak), str(Reading.now())]).rstrip())
        if not is_last:
            self._pause()

    def evaluated(self, record: dict[str, Any]) -> None:
        kept = ", from an earlier run" if record["kept"] else ""
        score = f"{record['split']} {record['metric']} {record['score']:.1%} ({counted(record['rows'], 'row')}{kept})"
        self._say(f"step {record['step']}: {score}")

    def warned(self, text: str) -> None:
        click.echo(f"Warning: {text}", err=True)

    def _pause(self) -> None:
        """Wait until there is no reason for a pause; the first reason is printed."""
        if not (reason := self._reason_to_pause()):
            return
        click.echo(f"paused: {reason}", err=True)
        if hasattr(os, "sync"):  # the battery may run out during the pause
            os.sync()
        while self._reason_to_pause(is_paused=True):
            time.sleep(BOARD_INTERVAL / 10)
        click.echo("going on", err=True)

    def _reason_to_pause(self, is_paused: bool = False) -> str | None:
        if self.is_paused_by_signal:
            return "a signal asked for it (SIGUSR2 goes on)"
        if time.monotonic() - self.board_read_at > BOARD_INTERVAL:
            self.board_read_at, self.board = time.monotonic(), Reading.now()
        return self.limits.exceeded(self.board, is_paused)

    def _say(self, text: str) -> None:
        if not self.is_quiet:
            click.echo(text)

    def on_signal(self, number: int, _: Any) -> None:
        """Signal handler: SIGUSR1 pauses the run after the current step, SIGUSR2 continues it."""
        self.is_paused_by_signal = number == signal.SIGUSR1


def mebibytes(count: int) -> str:
    """Bytes in whole MiB, for people."""
    return f"{count / 2**20:,.0f} MiB"

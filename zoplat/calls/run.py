"""`zoplat.run`: a training run as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from zoplat.calls.frames import history
from zoplat.calls.plugins import Files, registered
from zoplat.calls.progress import shown
from zoplat.config.keywords import RunSettings, spelled_out
from zoplat.core.errors import Interrupted, ZoplatError
from zoplat.planning.within import train_within
from zoplat.report.brief import run_in_brief
from zoplat.training.callbacks import Callback, Callbacks
from zoplat.training.directory import resumed_settings
from zoplat.training.result import Result
from zoplat.training.train import RANK_TIMEOUT


@dataclass(frozen=True)
class RunResult(Result):
    """The result of `zoplat.run`: `.score`, `.passes`, `.summary`, `.directory` and `.history()`."""

    def history(self) -> Any:
        """The run step by step; see `calls.frames.history`."""
        return history(self.directory)

    def _repr_html_(self) -> str:
        """The report in brief, for notebooks."""
        return run_in_brief(self.directory, self.summary)


@spelled_out(RunSettings)
def run(
    *,
    out: str | Path | None = None,
    resume: bool = False,
    callback: Callback | Sequence[Callback] = (),
    report_to: str | Sequence[str] | None = None,
    rank_timeout: float = RANK_TIMEOUT,
    plugin: Files = (),
    progress: bool | None = None,
    **settings: Unpack[RunSettings],
) -> RunResult:
    """Train as `zoplat run` does.

    Args:
        out: the run directory; None for a new one in runs/.
        resume: whether to go on with the run in `out`, if there is one.
        callback: is notified of the events of the run, and may end it early; one or several.
        report_to: names of trackers.
        rank_timeout: seconds to wait for another process of the run.
        plugin: Python files whose parts are used too, as if they were installed.
        progress: whether to show the progress; None for in notebooks only.
        settings: the flags of the command, with underscores. `options={"sampler.rank": 4}` is the same as
            `-o sampler.rank=4`; a part may be a value as well as a name, also of a class that no plugin registers.

    Returns:
        The result, which a notebook shows as a report in brief.

    Raises:
        ZoplatError: where the command would exit with 2 or 1.
        Interrupted: on KeyboardInterrupt, once all that was done is saved; its message has the call that goes on.
    """
    registered(plugin)
    folder = Path(out) if out else None
    found = resumed_settings(settings, folder, bool(resume))
    own = list(callback) if isinstance(callback, Sequence) else [callback]
    if wrong := [one for one in own if not isinstance(one, Callback)]:
        raise ZoplatError(f"callback must be a zoplat.Callback, or several of them; got {wrong[0]!r}.")
    with shown(progress) as display:
        try:
            result = train_within(found, folder, bool(resume), Callbacks(display, *own), report_to, rank_timeout)
        except Interrupted as stop:
            raise Interrupted(stop.run, f"zoplat.run(out={str(stop.run)!r}, resume=True)") from None
    return RunResult(result.summary, result.directory)

"""The result of a run."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.summary import Summary


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        summary: the content of summary.json.
        directory: the run directory.
    """

    summary: Summary
    directory: Path

    @property
    def score(self) -> float:
        """Metric on the test split after training."""
        return self.summary.test_after

    @property
    def passes(self) -> int:
        """Forward passes of training."""
        return self.summary.forward_passes

    def history(self) -> Any:
        """The run step by step, as a pandas frame.

        Its index is the number of steps made. Columns: loss, the mean of the losses of the last of them; lr, its step
        size; dev and test, the scores after it. What there is not is NaN.

        Raises:
            ZoplatError: pandas is not installed, or the run directory lost its journal.
        """
        try:
            import pandas
        except ImportError:
            raise ZoplatError("history() needs pandas, which is not installed: pip install pandas.") from None
        directory = RunDirectory(self.directory)
        journal = directory.read_journal()
        if journal is None:
            raise ZoplatError(f"{directory.journal} is gone, so the run has no history any more.")
        rows: dict[int, dict[str, Any]] = {one.step + 1: {"loss": one.loss, "lr": one.lr} for one in journal.steps}
        for record in directory.read_metrics():
            rows.setdefault(record["step"], {})[record["split"]] = record["score"]
        frame = pandas.DataFrame.from_dict(dict(sorted(rows.items())), orient="index", dtype=float)
        return frame.reindex(columns=["loss", "lr", "dev", "test"]).rename_axis("step")

    def _repr_html_(self) -> str:
        """A table for notebooks: what was run, the scores before and after, and what it took."""
        one = self.summary
        rows = {
            "method": f"{one.estimator}, {one.tune}, seed {one.seed}",
            "model": one.model,
            "task": one.task,
            f"{one.metric} on dev": f"{one.dev_before:.3f} → {one.dev_after:.3f}",
            f"{one.metric} on test": f"{one.test_before:.3f} → {one.test_after:.3f}",
            "took": f"{one.steps} steps, {one.forward_passes} forward passes, {one.seconds:.0f} s",
            "losses": one.verdict,
            "run directory": str(self.directory),
        }
        lines = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(lines)}</table>"

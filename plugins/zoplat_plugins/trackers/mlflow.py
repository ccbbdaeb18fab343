"""MLflow: a store of runs, in files, a database or a server.

Where it keeps them is its own setting, MLFLOW_TRACKING_URI; its experiment MLFLOW_EXPERIMENT_NAME, or zoplat.
`mlflow-skinny` is enough to write. Settings are parameters, the summary metrics and tags.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from zoplat import TrackedNumbers, TrackedRun, Tracker, hookimpl

LONGEST = 500
"""Characters of a parameter's value; stores of earlier versions refuse more."""
AT_ONCE = 100
"""Parameters that a store takes at once."""


@dataclass(frozen=True)
class MLflow(Tracker):
    """An MLflow store."""

    summary: ClassVar[str] = "MLflow: the store that MLFLOW_TRACKING_URI names"
    module: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow-skinny"

    def open(self, run: TrackedRun) -> "MLflowRun":
        return MLflowRun(run)


class MLflowRun(TrackedNumbers):
    """One run in a store."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self.client, self.metric, self.tag = MlflowClient(), Metric, RunTag
        if run.known:
            self.known_as = run.known
            self.client.update_run(self.known_as, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "zoplat")
        found = self.client.get_experiment_by_name(name)
        where = found.experiment_id if found else self.client.create_experiment(name)
        self.known_as = self.client.create_run(where, run_name=run.name).info.run_id
        params = (Param(path, str(value)[:LONGEST]) for path, value in run.settings.items())
        while some := list(islice(params, AT_ONCE)):
            self.client.log_batch(self.known_as, params=some)
        self.client.set_tag(self.known_as, "run_dir", str(run.directory))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self.metric(name, value, now, step) for name, value in numbers.items()]
        self.client.log_batch(self.known_as, metrics=metrics)

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            numbers = {f"summary/{name}": float(x) for name, x in summary.items() if isinstance(x, int | float)}
            self.log(int(summary["steps"]), numbers)
            tags = [self.tag(f"summary.{name}", x) for name, x in summary.items() if isinstance(x, str) and x]
            self.client.log_batch(self.known_as, tags=tags)
        self.client.set_terminated(self.known_as, "FINISHED" if summary is not None else "KILLED")


@hookimpl
def zoplat_trackers() -> dict[str, MLflow]:
    return {"mlflow": MLflow()}

"""What a study would do, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoplat.comparison.forecast import Paces, forecast
from zoplat.comparison.study import Study
from zoplat.comparison.work import jobs_of


def dry_run(study: Study, jobs: int, earlier: Path = Path("runs")) -> dict[str, Any]:
    """How much a study has to do, and how much of it is left.

    Args:
        study: which was not prepared; nothing is written.
        jobs: runs at a time.
        earlier: a folder of runs whose step times tell how long others take, beside those of the study.

    Returns:
        Plain values by name; hours are "unknown" where no run of this kind ended here before.
    """
    study.check()
    all_jobs = jobs_of(study)
    left = [job for job in all_jobs if not job.is_over]
    configs = [config for job in left if (config := job.expected) is not None]
    ahead = forecast(configs, Paces([study.folder, earlier]))
    trials = [job for job in all_jobs if job.trial is not None]
    found: dict[str, Any] = {
        "cells": len(study.cells),
        "trials": len(trials),
        "runs": len(all_jobs) - len(trials),
        "trials left": sum(job.trial is not None for job in left),
        "runs left": sum(job.trial is None for job in left),
        "forward passes left": "unknown" if ahead.passes is None else ahead.passes,
        "hours left": "unknown" if ahead.seconds is None else round(ahead.seconds / 3600 / jobs, 2),
    }
    searches = {key: "; ".join(f"{path} {where}" for path, where in own.items()) for key, own in study.ranges.items()}
    return found | {f"search of {key}": text for key, text in searches.items()}

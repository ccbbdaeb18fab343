"""The result of a run, scored by lm-evaluation-harness on a task file of its own kind."""

from __future__ import annotations

import json
import re
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.opening import restored

ADAPTER, MODEL = "adapter_config.json", "config.json"
"""Files by which an exported folder is known: of peft, and of transformers."""


def score_with_harness(directory: RunDirectory, task: Path, limit: int | None = None) -> dict[str, Any]:
    """Score the result of a run as lm-evaluation-harness does: exported, and opened again by its Hugging Face model.

    Args:
        directory: of the run.
        task: a YAML file of the harness; paths of data in it count from the working folder.
        limit: at most so many rows.

    Returns:
        task, run_dir, scores (metric → value, as the harness names them), rows, harness (its version).

    Raises:
        ZoplatError: the harness is not installed, the file names no task, or the run's result is in another form.
    """
    if not find_spec("lm_eval"):
        raise ZoplatError("--lm-eval: lm-evaluation-harness is not installed. pip install 'zoplat[lm-eval]'")
    name = task_name(task)
    config, session = restored(directory)
    facts = session.facts
    with TemporaryDirectory(prefix="zoplat-export-") as folder, redirect_stdout(sys.stderr):
        session.export(Path(folder))
        del session
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        opened = _opening(Path(folder), directory)
        model = HFLM(**opened, device=_place(facts["device"]), dtype=facts["dtype"], batch_size=config.scored_at_once)
        tasks = TaskManager(include_path=str(task.parent), include_defaults=False)
        try:
            found = lm_eval.simple_evaluate(
                model=model, tasks=[name], task_manager=tasks, limit=limit, log_samples=False, bootstrap_iters=0
            )
        except (FileNotFoundError, KeyError, ValueError) as problem:
            raise ZoplatError(f"--lm-eval {task}: the harness refuses it: {problem}") from problem
    scores = {
        metric.removesuffix(",none"): value
        for metric, value in found["results"][name].items()
        if isinstance(value, int | float) and metric not in ("sample_len", "sample_count")
    }
    rows = found["n-samples"][name]["effective"]
    version = getattr(lm_eval, "__version__", "?")
    return {"task": name, "run_dir": str(directory.path), "scores": scores, "rows": rows, "harness": version}


def task_name(task: Path) -> str:
    """The name that a task file gives its task."""
    try:
        text = task.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ZoplatError(f"--lm-eval {task} can't be read: {problem}.") from None
    found = re.search(r"^task:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE)
    if not found:
        raise ZoplatError(f"--lm-eval {task}: it has no line 'task: NAME', so it is no task of lm-evaluation-harness.")
    return found.group(1)


def _opening(folder: Path, directory: RunDirectory) -> dict[str, str]:
    """How the harness opens an exported result."""
    if (folder / ADAPTER).exists():
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
        return {"pretrained": str(base), "peft": str(folder), "tokenizer": str(folder)}
    if (folder / MODEL).exists():
        return {"pretrained": str(folder)}
    raise ZoplatError(
        f"{directory.path}: its device exports neither a checkpoint of transformers nor an adapter of peft, "
        "and lm-evaluation-harness opens no other. `zoplat eval RUN` scores it."
    )


def _place(device: str) -> str:
    """The name that torch has for a device."""
    return "cuda:0" if device == "cuda" else device if device == "mps" else "cpu"

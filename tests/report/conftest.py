"""A comparison of toy runs: three methods, two tasks, three seeds, with what a search leaves beside them."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

import zoplat

METHODS = ("mezo", "lozo", "fzoo")
TASKS = ("sst2", "rte")
SEEDS = (0, 1, 2)
SHORT = {"device": "reference", "steps": 6, "evaluate_every": 2, "batch_size": 4, "lr": 0.02, "eps": 0.01}


def write_rows(folder: Path, task: str) -> None:
    """Rows that a bag of words can learn a little of."""
    draw = random.Random(task)
    words = {0: "dull slow sad flat", 1: "bright quick glad sharp"}
    for split in ("train", "dev", "test"):
        rows = []
        for number in range(24):
            label = number % 2
            drawn = draw.choices([*words[label].split(), "a", "the", "of", "film", "plot"], k=8)
            text = " ".join([*drawn, f"{split}{number}"])
            rows.append({"sentence": text, "premise": text, "hypothesis": "so it is", "label": label})
        path = folder / task / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_runs(folder: Path, data: Path, methods: Sequence[str]) -> None:
    """Run every method on every task with every seed."""
    for task in TASKS:
        write_rows(data, task)
        for method in methods:
            for seed in SEEDS:
                out = folder / task / f"{method}-{seed}"
                zoplat.run(estimator=method, task=task, data=data / task, seed=seed, out=out, **SHORT)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the comparison."""
    folder: Path = tmp_path_factory.mktemp("studies") / "study"
    data = folder.parent / "data"
    make_runs(folder, data, METHODS)
    zoplat.run(estimator="mezo", task="sst2", data=data / "sst2", seed=9, out=folder / "trials" / "mezo-1", **SHORT)
    trials = [
        {"number": 0, "settings": {"estimator.rule.lr": 0.02}, "dev": 0.75, "passes": 12, "state": "COMPLETE"},
        {"number": 1, "settings": {"estimator.rule.lr": 123.0}, "dev": None, "passes": 3, "reason": "not finite"},
    ]
    chosen = {"label": "mezo", "estimator": "mezo", "task": "sst2", "settings": trials[0]["settings"], "dev": 0.75}
    failed = {"estimator": "es", "task": "sst2", "seed": 0, "reason": "it <b>broke</b>"}
    record = {"rows": [], "failed": [failed], "chosen": [{**chosen, "trials": trials}], "command": "zoplat compare …"}
    (folder / "comparison.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="session")
def page(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of the comparison, with the other formats beside it."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    from zoplat.report.report import write

    to: Path = tmp_path_factory.mktemp("pages")
    write([study], to, ("html", "md", "csv", "tex"))
    return to / "report.html"

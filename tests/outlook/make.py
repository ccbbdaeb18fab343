"""Makes the runs that the outlook of a run was set and tried on, and writes their extract, prepared.json.

    python tests/outlook/make.py FOLDER

Runs that FOLDER has are not made again. Those on the packaged model take some two hours of one core, the others some
minutes. Every run has the word that it was designed for.
"""

import json
import os
import random
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.config.usual import value_of
from zoplat.training.directory import RunDirectory
from zoplat.training.progress import Progress
from zoplat.training.trace import read_trace

HERE = Path(__file__).parent
GOOD, BAD = ("bright", "solid", "charming", "lovely"), ("noisy", "rude", "flimsy", "dull")
THINGS = ("kettle", "film", "chair", "soup")
SMALL = "--device reference --data {data}/clear --steps 300 --evaluate-every 100 --eps 0.01"
SHUFFLED = SMALL.replace("clear", "shuffled")
PACKAGED = "--limit 300 --max-passes 240 --evaluate-every 40"


@dataclass(frozen=True)
class Prepared:
    """One run.

    Attributes:
        name: of its folder.
        word: what its outlook should be at its end.
        flags: of `zoplat run`.
        is_held_out: whether it was left aside when the bounds of the outlook were chosen.
    """

    name: str
    word: str
    flags: str
    is_held_out: bool = False


RUNS = [
    Prepared("mezo", "learning", f"{SMALL} --estimator mezo --lr 0.05"),
    Prepared("mezo-slow", "learning", f"{SMALL} --estimator mezo --lr 0.01"),
    Prepared("zo-adam", "learning", f"{SMALL} --estimator zo-adam --lr 0.01"),
    Prepared("mezo-queries", "learning", f"{SMALL} --estimator mezo --tune hidden --queries 8 --lr 0.05"),
    Prepared("mezo-large", "diverging", f"{SMALL} --estimator mezo --lr 0.2"),
    Prepared("mezo-small", "not learning", f"{SMALL} --estimator mezo --lr 1e-4"),
    Prepared("mezo-shuffled", "not learning", f"{SHUFFLED} --estimator mezo --lr 0.01"),
    Prepared("packaged-lozo", "learning", f"{PACKAGED} --max-passes 400 --evaluate-every 50 --estimator lozo"),
    Prepared("packaged-mezo-small", "not learning", f"{PACKAGED} --estimator mezo --lr 2e-5 --seed 1"),
    Prepared("packaged-mezo-large", "diverging", f"{PACKAGED} --estimator mezo --lr 4e-2"),
    Prepared("packaged-lozo-large", "diverging", f"{PACKAGED} --estimator lozo --lr 1e-2 --seed 1"),
    Prepared("lozo", "learning", f"{SMALL} --estimator lozo --lr 0.02 --seed 11", True),
    Prepared("hizoo", "learning", f"{SMALL} --estimator hizoo --lr 0.05 --seed 12", True),
    Prepared("es", "learning", f"{SMALL} --estimator es --queries 8 --lr 0.02 --seed 13", True),
    Prepared("zo-sgd-sign", "learning", f"{SMALL} --estimator zo-sgd-sign --lr 0.003 --seed 14", True),
    Prepared("lozo-large", "diverging", f"{SMALL} --estimator lozo --lr 0.3 --seed 15", True),
    Prepared("zo-adam-large", "diverging", f"{SMALL} --estimator zo-adam --lr 1 --seed 16", True),
    Prepared("hizoo-small", "not learning", f"{SMALL} --estimator hizoo --lr 1e-4 --seed 17", True),
    Prepared("fzoo-small", "not learning", f"{SMALL} --estimator fzoo --lr 1e-6 --seed 18", True),
    Prepared("lozo-shuffled", "not learning", f"{SHUFFLED} --estimator lozo --lr 0.005 --seed 19", True),
    Prepared("zo-adam-shuffled", "not learning", f"{SHUFFLED} --estimator zo-adam --lr 0.001 --seed 20", True),
    Prepared("hizoo-large", "diverging", f"{SMALL} --estimator hizoo --step-rule linear --lr 0.5 --seed 21", True),
    Prepared("mezo-linear", "learning", f"{SMALL} --estimator mezo --step-rule linear --lr 0.05 --seed 22", True),
    Prepared("conmezo", "learning", f"{SMALL} --estimator conmezo --lr 0.05 --seed 23", True),
    Prepared("zo-sgd-sign-small", "not learning", f"{SMALL} --estimator zo-sgd-sign --lr 1e-6 --seed 24", True),
    Prepared("packaged-mezo", "learning", f"{PACKAGED} --estimator mezo --seed 1", True),
    Prepared("packaged-lozo-small", "not learning", f"{PACKAGED} --estimator lozo --lr 1e-5", True),
    Prepared("packaged-zo-adam", "learning", f"{PACKAGED} --estimator zo-adam", True),
    Prepared("packaged-fzoo", "learning", f"{PACKAGED} --estimator fzoo --seed 2", True),
    Prepared("packaged-zo-adam-large", "diverging", f"{PACKAGED} --estimator zo-adam --lr 0.2 --seed 1", True),
    Prepared("packaged-hizoo-small", "not learning", f"{PACKAGED} --estimator hizoo --lr 3e-5 --seed 3", True),
]


def write_rows(folder: Path, seed: int, is_shuffled: bool) -> None:
    """Rows of the task sentiment whose words say the label, or that have labels at random."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for split, size in (("train", 400), ("dev", 200), ("test", 200)):
        lines = []
        for number in range(size):
            label = number % 2
            words = [draw.choice((BAD, GOOD)[label]) for _ in range(2)]
            if is_shuffled:
                label = draw.randrange(2)
            what = f"The {draw.choice(THINGS)} number {draw.randrange(10**5)} is {words[0]} and {words[1]}."
            lines.append(json.dumps({"sentence": what, "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def make(run: Prepared, folder: Path) -> None:
    """Make a run, unless it is there."""
    out = folder / run.name
    if not (out / "summary.json").exists():
        flags = shlex.split(run.flags.format(data=folder / "data"))
        command = [sys.executable, "-m", "zoplat", "run", *flags, "--out", str(out), "--resume", "--quiet", "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def extract(run: Prepared, folder: Path) -> dict[str, Any]:
    """What the outlook reads of a run, in few digits."""
    directory = RunDirectory(folder / run.name)
    journal, trace, config = directory.read_journal(), read_trace(directory.trace), directory.read_config()
    assert journal is not None
    dev = [record for record in directory.read_metrics() if record["split"] == "dev"]
    return {
        "word": run.word,
        "flags": run.flags.format(data="DATA"),
        "is_held_out": run.is_held_out,
        "share": Progress(len(journal.steps), trace[-1].passes).share(config),
        "lr": value_of(config.estimator, "lr"),
        "eps": value_of(config.estimator, "eps"),
        "passes": [record.passes for record in trace],
        "losses": [short(step.loss) for step in journal.steps],
        "lrs": [short(step.lr) for step in journal.steps],
        "slopes": [[len(record.slopes), short(record.slope)] for record in trace],
        "moves": [[r.step, short(r.moved), short(r.reach)] for r in trace if r.moved is not None],
        "scores": [[record["score"], record["rows"]] for record in dev],
    }


def short(value: float | None) -> float | None:
    """A number with four digits."""
    return None if value is None else float(f"{value:.4g}")


def main(folder: Path) -> None:
    """Make the runs, and write their extract."""
    write_rows(folder / "data" / "clear", 0, False)
    write_rows(folder / "data" / "shuffled", 1, True)
    for run in RUNS:
        make(run, folder)
        print(run.name, flush=True)
    table = {run.name: extract(run, folder) for run in RUNS}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in table.items())
    (HERE / "prepared.json").write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

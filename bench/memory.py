"""Peak memory of a full-parameter run beside that of inference alone, each in a process of its own.

    python bench/memory.py [--estimator mezo] [--steps N] [--limit N]

The inference process loads the same model, encodes the same rows and makes forward passes on the same batches;
it never loads our kernels. Both figures are the kernel's own counter of peak resident memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoplat.results import read_lines


def main() -> None:
    """Run both processes and print every owner of the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", default="mezo")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--inference", action="store_true", help="be the inference process")
    arguments = parser.parse_args()
    if arguments.inference:
        print(json.dumps({"peak": inference(arguments.steps, arguments.limit)}))
        return
    given = ["--steps", str(arguments.steps), "--limit", str(arguments.limit)]
    alone = json.loads(output([sys.executable, __file__, "--inference", *given]))["peak"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        command = [sys.executable, "-m", "zoplat", "run", "--estimator", arguments.estimator, "--tune", "full"]
        command += ["--dtype", "float32", "--device", "cpu", *given, "--out", str(out), "--json", "--quiet"]
        summary: dict[str, Any] = json.loads(output(command))
        memory = read_lines(out / "memory.jsonl")
    run = summary["peak_bytes"]["host"]
    print(f"{summary['model']}, all {summary['trainable_parameters']:,} weights, float32, {summary['estimator']}")
    print(f"inference process {alone / 2**20:8.1f} MiB")
    print(f"training process  {run / 2**20:8.1f} MiB   {run / alone:.4f} × inference")
    for row in memory:
        if row["kind"] == "phase":
            print(f"  phase {row['phase']:<12} {row['host_peak'] / 2**20:8.1f} MiB")
    for row in memory:
        if row["kind"] == "owner":
            print(f"  owner {row['owner']:<32} {row['bytes'] / 2**20:8.1f} MiB")


def inference(steps: int, limit: int) -> int:
    """Forward passes on the batches that the run has; returns the peak in bytes."""
    import torch

    from zoplat.batches import Batches, by_length
    from zoplat.tasks import data
    from zoplat_devices.encoding import Encoder
    from zoplat_devices.memory import HostMemory
    from zoplat_devices.models import load
    from zoplat_devices.scoring import Scorer

    loaded = load(None, torch.float32, lambda text: None)
    encoder, scorer = Encoder(loaded.tokenizer, 2048), Scorer(loaded.model, torch.device("cpu"))
    task = data.find("sentiment")
    splits = data.load(task, "sentiment", None, limit)
    rows = {split: encoder.encode([task.example(row, at) for at, row in part]) for split, part in splits.items()}
    batches = Batches(rows["train"], 16, 0)
    for step in range(steps):
        scorer.loss(batches.at(step))
    for split in ("dev", "test"):
        for indices in by_length(rows[split], 16):
            scorer.scores([rows[split][i] for i in indices])
    return HostMemory.peak_of_process()


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

"""Train a model that is larger than the memory it is given, and compare with the same steps in memory.

    python bench/streaming.py [--layers 36] [--share 0.4] [--steps 3] [--rows 4] [--free] [--folder DIR] [--json]

A random model of the LLaMA kind in float32 is written to DIR (1.7 GiB with 36 layers). Two-sided MeZO trains all of its
weights in processes of their own: sequential in memory; streaming under a limit of `share` of the model's bytes, page
cache included, that a memory cgroup enforces; and with --free streaming without a limit. All must end with the same
weights. The cost factor is the median time of a step after the first, divided by that of the sequential process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORDS = ["the", "film", "was", "great", "terrible", "but", "a", "good", "bad", "day", "for", "it", "is", "yes", "no"]
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
)


def main() -> None:
    """Write the model, train it in each process, print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="on a disk with room for the model three times")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=["model", "sequential", "streaming"], help="run only this process")
    arguments = parser.parse_args()
    if arguments.part == "model":
        write(arguments.folder, arguments.layers)
    elif arguments.part:
        print(json.dumps(trained(arguments.folder, arguments.part, arguments.steps, arguments.rows)))
    else:
        results = compared(arguments)
        print(json.dumps(results) if arguments.json else table(results))


def compared(arguments: argparse.Namespace) -> dict[str, Any]:
    """Results of all processes, by name, and the sizes of model and limit."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        given = ["--folder", folder, "--layers", str(arguments.layers)]
        given += ["--steps", str(arguments.steps), "--rows", str(arguments.rows)]
        output([*given, "--part", "model"])
        size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        limit = int(arguments.share * size)
        results: dict[str, Any] = {"model_bytes": size, "limit_bytes": limit, "rows": arguments.rows}
        with group(limit) as place:
            allocation = subprocess.run(
                [sys.executable, "-c", f"b'x' * {limit}"], check=False, preexec_fn=joining(place)
            )
            results["bites"] = allocation.returncode < 0
            drop_page_cache(Path(folder))
            results["limited"] = json.loads(output([*given, "--part", "streaming"], place))
            results["limited"] |= {"group_peak": peak(place)}
        results["sequential"] = json.loads(output([*given, "--part", "sequential"]))
        if arguments.free:
            results["streaming"] = json.loads(output([*given, "--part", "streaming"]))
    for name in ("limited", "streaming"):
        if name in results:
            results[name]["factor"] = results[name]["seconds"] / results["sequential"]["seconds"]
    return results


def table(results: dict[str, Any]) -> str:
    """The results as lines for the terminal."""
    size, limit = (results[key] / 2**20 for key in ("model_bytes", "limit_bytes"))
    lines = [f"model {size:.0f} MiB, limit {limit:.0f} MiB, 2 passes a step"]
    for name in ("sequential", "streaming", "limited"):
        result = results.get(name)
        if result is None:
            continue
        lines.append(
            f"{name:10} {result['seconds']:7.2f} s a step, × {result.get('factor', 1.0):.2f}, "
            f"peak {result['peak'] / 2**20:6.0f} MiB resident, {result['digest'][:19]}"
        )
    return "\n".join(lines)


def trained(folder: Path, strategy: str, steps: int, rows: int) -> dict[str, Any]:
    """Digest of the weights, time, memory and answers of a few steps."""
    from zoplat.config.layers import build
    from zoplat.training.batches import Batches
    from zoplat.training.opening import prepared
    from zoplat.training.step import Learner

    device = {"name": "cpu", "strategy": strategy, "restore": "exact"}
    settings = {"model": str(folder), "tune": {"name": "full"}, "dtype": "float32", "estimator": {"name": "mezo"}}
    config = build([{**settings, "device": device, "steps": steps, "batch_size": rows, "limit": 4 * rows}])
    session, profiler, encoded = prepared(config)
    learner, batches = Learner(config, session), Batches(encoded, rows, 0)
    seconds, answers = [], []
    for _ in range(steps):
        began = time.perf_counter()
        answers += learner.advance(batches, profiler).answers
        seconds.append(time.perf_counter() - began)
    session.space.settle()
    return {
        "digest": session.digest(),
        "seconds": statistics.median(seconds[1:]),
        "peak": profiler.peak.host_peak,
        "answers": answers,
    }


def write(folder: Path, layers: int, width: int = 1024) -> None:
    """A checkpoint with random weights, and a tokenizer of a few words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 11 * width // 4, "num_hidden_layers": layers}
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, num_attention_heads=16, **sizes)).save_pretrained(
        folder, max_shard_size="500MB"
    )
    known = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", "</s>", *WORDS]))}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)


@contextmanager
def group(limit: int) -> Iterator[Path]:
    """A cgroup with a memory limit in bytes, page cache included.

    Raises:
        SystemExit: no cgroup can be created.
    """
    for root, name, swap in GROUPS:
        place = root / f"zoplat-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            if (place / name).exists():
                (place / name).write_text(str(limit))
                if (place / swap).exists():
                    (place / swap).write_text("0" if swap.endswith("max") else str(limit))
                yield place
                return
        finally:
            place.rmdir()
    raise SystemExit("no memory cgroup can be created here: that takes root, and a mounted memory controller")


def drop_page_cache(folder: Path) -> None:
    """Drop cached pages of the model's files, so that reading them counts for the next process."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def joining(place: Path) -> Callable[[], Any]:
    """A function that a new process calls to join a cgroup."""
    return lambda: (place / "cgroup.procs").write_text(str(os.getpid()))


def peak(place: Path) -> int:
    """Peak bytes of a cgroup."""
    names = ("memory.peak", "memory.max_usage_in_bytes")
    return max((int((place / name).read_text()) for name in names if (place / name).exists()), default=0)


def output(arguments: list[str], place: Path | None = None) -> str:
    """Output of this program in a new process, inside a cgroup or not."""
    command, join = [sys.executable, __file__, *arguments], joining(place) if place else None
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=join).stdout


if __name__ == "__main__":
    main()

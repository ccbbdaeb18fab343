"""The large golden table: digests of 20 steps of every method on tiny models, for comparing two versions of the code.

    python tests/golden/table.py OUT.json reference tiny onnx --models FOLDER --runs FOLDER

Make it once with the code before a change and once with the code after it, on the same machine, and compare:

    python tests/golden/table.py AFTER.json --compare BEFORE.json

Parts: "reference" (1 min), "tiny" (all weights of a small Llama, two dtypes, three evaluation strategies; 6 min) and
"onnx" (30 s). Models are made on first use. Digests depend on the machine's matrix products, so a table proves
nothing on another one; `test_golden.py` has the part that holds everywhere.
"""

import argparse
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import zoplat

FIXTURES = Path(__file__).parents[1] / "devices" / "conftest.py"
METHODS = """adamw block-zo conmezo dizo eggroll es forward-grad fzoo fzoo-r hizoo hybrid lozo lozo-m meazo mezo
mezo-layerwise mezo-svrg one-point sgd sparse-mezo sparse-zo subzero zo-adam zo-muon zo-sgd zo-sgd-cons zo-sgd-mmt
zo-sgd-sign""".split()
ON_ONNX = ("mezo", "lozo", "hizoo", "fzoo", "zo-adam", "lozo-m", "sparse-mezo")
SHORTER: dict[str, dict[str, Any]] = {
    "block-zo": {"by": "mlp|self_attn"},
    "dizo": {"every": 4, "rounds": 2, "targets": "k,v"},
    "eggroll": {"queries": 2},
    "es": {"queries": 3},
    "fzoo": {"queries": 3},
    "fzoo-r": {"queries": 4},
    "hizoo": {"smooth": 1e-3},
    "lozo": {"sampler.interval": 7},
    "lozo-m": {"sampler.interval": 7},
    "mezo-svrg": {"anchor_batches": 2},
    "sparse-zo": {"interval": 6},
    "subzero": {"sampler.interval": 7},
    "zo-muon": {"queries": 2, "sampler.rank": 4},
}
ON_REFERENCE = SHORTER | {
    "block-zo": {"by": "words|hidden|options"},
    "dizo": {"every": 4, "rounds": 2, "targets": "hidden"},
}
"""Shorter periods and fewer directions; the reference device has weights of other names."""
STORED = ("steps", "forward_passes", "skipped_steps", "passes_over_weights", "drift", "dev_after", "test_after")


def reference(models: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The bag-of-words network, in two dtypes and both ways of restoring and rounding."""
    forms: list[dict[str, Any]] = [
        {"dtype": "float32"},
        {"dtype": "float32", "device.restore": "exact"},
        {"dtype": "float16", "device.restore": "exact", "device.rounding": "stochastic"},
        {"dtype": "float16", "device.restore": "exact", "device.rounding": "master"},
    ]
    for form in forms:
        options = {name: value for name, value in form.items() if name != "dtype"}
        for method in METHODS:
            yield (
                f"reference {' '.join(form.values())} {method}",
                {
                    "estimator": method,
                    "device": "reference",
                    "dtype": form["dtype"],
                    "limit": 16,
                    "batch_size": 4,
                    "options": {**options, **ON_REFERENCE.get(method, {})},
                },
            )


def tiny(models: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All weights of a small Llama on the processor."""
    for dtype in ("float32", "bfloat16"):
        for strategy in ("sequential", "batched", "streaming"):
            for method in METHODS:
                yield (
                    f"tiny {dtype} {strategy} {method}",
                    {**_on_model(models, "llama", strategy, method), "device": "cpu", "dtype": dtype},
                )


def onnx(models: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All weights of a small GPT-2 on ONNX Runtime."""
    for strategy in ("sequential", "batched"):
        for method in ON_ONNX:
            yield f"onnx {strategy} {method}", {**_on_model(models, "gpt2", strategy, method), "device": "onnx"}


PARTS = {"reference": reference, "tiny": tiny, "onnx": onnx}


def row(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Digests of a run, or why it was refused."""
    try:
        result = zoplat.run(**settings, steps=20, evaluate_every=8, seed=0, out=folder)
    except zoplat.ZoplatError as problem:
        return {"refused": type(problem).__name__}
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    answers = [json.loads(line)["answers"] for line in lines]
    summary = result.summary
    return {
        "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:24],
        "weights": summary["weights_digest"],
        **{name: summary[name] for name in STORED},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the runs that are not equal."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _on_model(models: Path, kind: str, strategy: str, method: str) -> dict[str, Any]:
    return {
        "estimator": method,
        "model": str(_model(models, kind)),
        "tune": "full",
        "limit": 12,
        "batch_size": 3,
        "options": {"device.threads": 1, "device.strategy": strategy, **SHORTER.get(method, {})},
    }


def _model(models: Path, kind: str) -> Path:
    """A tiny model with random weights, made on first use."""
    import torch

    folder = models / kind
    if not folder.exists():
        fixtures = _fixtures()
        tokenizer = fixtures.TOKENIZERS[kind]() if kind in fixtures.TOKENIZERS else fixtures.letters()
        torch.manual_seed(5)
        model = fixtures.tiny_model(kind, len(tokenizer))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _fixtures() -> ModuleType:
    """The tiny models of the tests of devices."""
    spec = importlib.util.spec_from_file_location("device_fixtures", FIXTURES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Make the parts that are named, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--models", type=Path, default=Path("golden-models"))
    parser.add_argument("--runs", type=Path, default=Path("golden-runs"))
    parser.add_argument("--compare", type=Path, metavar="OTHER")
    given = parser.parse_args()
    table = json.loads(given.table.read_text(encoding="utf-8")) if given.table.exists() else {}
    for part in given.parts:
        for name, settings in PARTS[part](given.models):
            table[name] = row(settings, given.runs / name.replace(" ", "-"))
        given.table.write_text(json.dumps(table, indent=0, sort_keys=True), encoding="utf-8")
    if given.compare:
        found = differences(table, json.loads(given.compare.read_text(encoding="utf-8")))
        print(*found, f"{len(table)} runs, {len(found)} differ", sep="\n")


if __name__ == "__main__":
    main()

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
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import zoplat

METHODS = [
    "adamezo",
    "adamw",
    "agzo",
    "block-zo",
    "bszo",
    "conmezo",
    "dizo",
    "eggroll",
    "es",
    "forward-grad",
    "fzoo",
    "fzoo-r",
    "grzo",
    "hizoo",
    "hybrid",
    "kerzoo",
    "lozo",
    "lozo-m",
    "meazo",
    "mezo",
    "mezo-layerwise",
    "mezo-svrg",
    "one-point",
    "sgd",
    "sparse-mezo",
    "sparse-zo",
    "subzero",
    "tezo",
    "zo-adam",
    "zo-muon",
    "zo-sgd",
    "zo-sgd-cons",
    "zo-sgd-mmt",
    "zo-sgd-sign",
]
"""Those whose runs have a digest; that of `dp` is another one every time."""
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
LENGTH = 512
"""Tokens that the tiny models have positions for."""
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
                    {**_on_model(models, "llama", strategy, method, dtype), "device": "cpu", "dtype": dtype},
                )


def onnx(models: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """On ONNX Runtime: an adapter of a small Llama, and all weights of a small GPT-2."""
    for kind, tune, strategy in (
        ("llama", "lora", "sequential"),
        ("llama", "lora", "batched"),
        ("gpt2", "full", "auto"),
    ):
        for method in ON_ONNX:
            settings = {**_on_model(models, kind, strategy, method), "device": "onnx", "tune": tune}
            yield f"onnx {kind} {tune} {strategy} {method}", settings


PARTS = {"reference": reference, "tiny": tiny, "onnx": onnx}


def row(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Digests of a run, or why it was refused."""
    try:
        result = zoplat.run(**settings, steps=20, evaluate_every=8, seed=0, out=folder)
    except zoplat.ZoplatError as problem:
        return {"refused": str(problem)}
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    answers = [json.loads(line)["answers"] for line in lines]
    summary = result.summary.to_json()
    return {
        "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:24],
        "weights": summary["weights_digest"],
        **{name: summary[name] for name in STORED},
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the runs that are not equal."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _on_model(models: Path, kind: str, strategy: str, method: str, dtype: str = "float32") -> dict[str, Any]:
    return {
        "estimator": method,
        "model": str(_model(models, kind, dtype)),
        "tune": "full",
        "limit": 12,
        "batch_size": 3,
        "options": {"device.threads": 1, "device.strategy": strategy, **SHORTER.get(method, {})},
    }


def _model(models: Path, kind: str, dtype: str) -> Path:
    """A tiny model with random weights and a tokenizer of bytes, made on first use."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    folder = models / f"{kind}-{dtype}"
    if folder.exists():
        return folder
    tokenizer = _tokenizer()
    model: Any
    common: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    if kind == "llama":
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**common, **sizes, num_key_value_heads=1, max_position_embeddings=LENGTH))
    else:
        model = GPT2LMHeadModel(GPT2Config(**common, n_embd=16, n_layer=2, n_head=2, n_positions=LENGTH))
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["It was terrible . It was great ."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


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

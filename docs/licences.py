"""docs/reference/licences.md: what comes with zoplat or is fetched for it, and under which licence."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from zoplat.registry import catalogue
from zoplat_devices.pytorch.sources import PACKAGED

ROOT = Path(__file__).parents[1]
HEAD = """# Licences

zoplat is under Apache-2.0. This page lists what is not zoplat's own. It is made from the code and from the metadata of
installed packages, and is no legal advice.

## In the package

| what | where | licence |
| --- | --- | --- |
| sentences of the task `sentiment`: "Sentiment Labelled Sentences", Kotzias et al., KDD 2015 | `zoplat/tasks/data` | CC BY 4.0; [its README](../../zoplat/tasks/data/README.md) has the source and what was changed |
| thirty paragraphs for `--forgetting`, written for zoplat | `zoplat/evaluation/general.txt` | [CC0 1.0](../../zoplat/evaluation/general.md) |
"""  # noqa: E501  # a row of a table is one line
MODELS = """
## Packaged models

They come as packages of others, which are installed by name; zoplat holds no weights.

| model | licence | installed by |
| --- | --- | --- |
"""
TASKS = """
## Data of tasks

Fetched from the hub or read from your folder when a task is used; zoplat holds none of it but `sentiment`. Prompts
follow the publications that are named.

| task | source and licence |
| --- | --- |
"""
PACKAGES = """
## Packages that zoplat needs

By the metadata of the versions that are tested together.

| package | licence |
| --- | --- |
"""
EXTRAS = """
## Packages of the extras

What `pip install 'zoplat[EXTRA]'` adds to these; packages that those need in turn are left out.

| package | extra | licence |
| --- | --- | --- |
"""
OF_EXTRAS = {
    "accelerate": "Apache Software License",
    "datasets": "Apache Software License",
    "dp-accounting": "Apache 2.0",
    "gguf": "MIT License",
    "lightning": "Apache Software License",
    "lm-eval": "MIT",
    "matplotlib": "Python Software Foundation License",
    "mlflow-skinny": "Apache Software License",
    "onnx": "Apache-2.0",
    "onnxruntime": "MIT License",
    "onnxruntime-gpu": "MIT License",
    "onnxscript": "MIT License",
    "optuna": "MIT License",
    "pyarrow": "Apache-2.0",
    "rouge-score": "Apache Software License",
    "scipy": "BSD License",
    "tensorboard": "Apache Software License",
    "torchao": "BSD 3-Clause License",
    "trackio": "MIT License",
    "triton": "MIT License",
    "trl": "Apache-2.0",
    "wandb": "MIT License",
    "ziglang": "MIT",
}
"""Package → licence in its metadata; torchao's is in its file LICENSE. Few environments have all of them installed."""


def page() -> str:
    """Everything that is not zoplat's own, with its licence."""
    models = "".join(f"| `packaged:{n}` | {one.licence} | `{one.install}` |\n" for n, one in PACKAGED.items())
    own = sorted((e.name, e.value) for e in catalogue() if (e.kind, e.distribution) == ("task", "zoplat"))
    tasks = "".join(f"| `{name}` | {task.source} |\n" for name, task in own)
    packages = "".join(f"| {name} | {licence(name)} |\n" for name in sorted(needed(), key=str.lower))
    more = "".join(f"| {name} | {', '.join(which)} | {of_extra(name)} |\n" for name, which in extras().items())
    return HEAD + MODELS + models + TASKS + tasks + PACKAGES + packages + EXTRAS + more


def needed() -> set[str]:
    """Names of the packages that an install without extras has, those that these need left out."""
    return {name_of(line) for line in project()["dependencies"]}


def extras() -> dict[str, list[str]]:
    """Names of the packages that only extras bring → the extras; those of zoplat's own development left out."""
    found: dict[str, list[str]] = {}
    for extra, lines in project()["optional-dependencies"].items():
        if extra not in ("dev", "release", "docs"):
            for name in {name_of(line) for line in lines} - needed():
                found.setdefault(name, []).append(f"`{extra}`")
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def of_extra(name: str) -> str:
    """The licence of a package that an extra brings."""
    if name not in OF_EXTRAS:
        sys.exit(f"{name} is in an extra, and its licence is not in docs/licences.py. Write it there.")
    return OF_EXTRAS[name]


def name_of(requirement: str) -> str:
    """The name of a package in a line of requirements."""
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0]


@cache
def project() -> dict[str, Any]:
    """The table of the project in pyproject.toml."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def licence(name: str) -> str:
    """The licence of an installed package, in the words of its metadata."""
    about = metadata.metadata(name)
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    return about["License-Expression"] or ", ".join(named) or about["License"] or "see its own files"

"""docs/reference/licences.md: what comes with zoplat or is fetched for it, and under which licence."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

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


def page() -> str:
    """Everything that is not zoplat's own, with its licence."""
    models = "".join(f"| `packaged:{n}` | {one.licence} | `{one.install}` |\n" for n, one in PACKAGED.items())
    own = sorted((e.name, e.value) for e in catalogue() if (e.kind, e.distribution) == ("task", "zoplat"))
    tasks = "".join(f"| `{name}` | {task.source} |\n" for name, task in own)
    packages = "".join(f"| {name} | {licence(name)} |\n" for name in needed())
    return HEAD + MODELS + models + TASKS + tasks + PACKAGES + packages


def needed() -> list[str]:
    """Names of the packages that an install without extras has, those that these need left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted((re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in project["dependencies"]), key=str.lower)


def licence(name: str) -> str:
    """The licence of an installed package, in the words of its metadata."""
    about = metadata.metadata(name)
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    return about["License-Expression"] or ", ".join(named) or about["License"] or "see its own files"

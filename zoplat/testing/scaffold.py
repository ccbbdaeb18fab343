"""A plugin package to begin with, for each kind of part: it installs, and passes its tests, as it is written."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from zoplat.core.errors import ZoplatError
from zoplat.hookspecs import API
from zoplat.registry import catalogue

KINDS = {
    "estimator": ("EstimatorContract", "estimator", "zoplat run --estimator @NAME@"),
    "sampler": ("SamplerContract", "sampler", "zoplat run --estimator mezo --sampler @NAME@"),
    "step-rule": ("StepRuleContract", "rule", "zoplat run --estimator mezo --step-rule @NAME@"),
    "device": ("DeviceContract", "device", "zoplat run --device @NAME@"),
    "task": ("TaskContract", "task", "zoplat run --task @NAME@"),
}
"""Kind → its contract, the attribute that holds the part there, and how the part is used."""


def write_plugin(kind: str, name: str, folder: Path | None = None) -> list[Path]:
    """Write a package that registers one part.

    Args:
        kind: of the part; one of `KINDS`.
        name: of the part, as users will say it: small letters, digits and single hyphens.
        folder: for the package; "zoplat-NAME" here when None. It must not be there yet.

    Returns:
        The files that were written.

    Raises:
        ZoplatError: the name can't be one, or is taken; or the folder is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ZoplatError(f"A name is made of small letters, digits and single hyphens, as in my-method; got '{name}'.")
    taken = catalogue().entries.get((kind, name))
    if taken:
        raise ZoplatError(f"There is a {kind} '{name}' already, of {taken[0].distribution}. Choose another name.")
    distribution = name if name.startswith("zoplat-") else f"zoplat-{name}"
    folder = folder or Path(distribution)
    if folder.exists():
        raise ZoplatError(f"{folder} is there already. Give another folder by --to, or remove it.")
    module = distribution.replace("-", "_")
    words = _words(kind, name, distribution, module)
    files = {
        "pyproject.toml": _filled("pyproject.txt", words),
        "README.md": _filled("readme.txt", words),
        f"{module}/__init__.py": _filled(f"{kind}.txt", words),
        f"tests/test_{module}.py": _filled("test.txt", words),
    }
    if kind == "task":
        files[f"{module}/data/rows.jsonl"] = _filled("rows.jsonl", {})
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as problem:
        raise ZoplatError(f"{folder} can't be written: {problem.strerror}.") from None
    return [folder / path for path in files]


def _words(kind: str, name: str, distribution: str, module: str) -> dict[str, str]:
    """What stands for the words between @ in the templates."""
    contract, place, use = KINDS[kind]
    title = "".join(part.capitalize() for part in name.split("-"))
    used = {"None", "True", "False", *re.findall(r"\w+", _filled(f"{kind}.txt", {}))}
    own = f"{title}{contract.removesuffix('Contract')}" if title in used else title
    part = "TASK" if kind == "task" else own
    return {
        "API": str(API),
        "USE": use,
        "KIND": kind.replace("-", " "),
        "NAME": name,
        "TITLE": title,
        "CLASS": own,
        "DISTRIBUTION": distribution,
        "MODULE": module,
        "CONTRACT": contract,
        "PLACE": place,
        "PART": part,
        "VALUE": part if kind == "task" else f"{part}()",
    }


def _filled(template: str, words: dict[str, str]) -> str:
    text = resources.files("zoplat.testing").joinpath("templates", template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text

"""docs/reference/tests.md: which tests are slow, and what others need and are skipped without. Read from tests/."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Tests

`make test` runs the quick tests in two processes and lists at its end what was skipped, and why. `make test-slow` runs
the slow ones too. Tests that need a GPU are marked so and left out where PyTorch finds none.

## Slow tests

What takes more than a second or two, or needs what a plain machine lacks. Where several values of one test differ in
their time alone, "some of" says so: the quick ones of them are run by `make test`.

| file | about | slow |
| --- | --- | --- |
"""
NEEDS = """
## What is skipped where

| reason | in |
| --- | --- |
"""
SLOW = "pytest.mark.slow"
MOST = 12


def page() -> str:
    """The page, from the sources of the tests."""
    rows = [f"| `{name}` | {about(tree)} | {'; '.join(found)} |\n" for name, tree in files() if (found := slow(tree))]
    lacking: dict[str, list[str]] = {}
    for name, tree in files():
        for reason in sorted(set(reasons(tree))):
            lacking.setdefault(reason, []).append(f"`{name}`")
    skipped = [f"| {reason} | {listed(lacking[reason])} |\n" for reason in sorted(lacking)]
    return HEAD + "".join(rows) + NEEDS + "".join(skipped)


def listed(names: list[str]) -> str:
    """Names of files, or of many how many they are."""
    return ", ".join(names) if len(names) <= MOST else f"{len(names)} files"


@cache
def files() -> list[tuple[str, ast.Module]]:
    """Every file of tests, by its path from the root."""
    paths = sorted((ROOT / "tests").rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def about(tree: ast.Module) -> str:
    """The first sentence of a file, as a cell of a table."""
    return re.split(r"(?<=\.)\s", (ast.get_docstring(tree) or "").replace("\n", " "))[0].rstrip(".").replace("|", r"\|")


def slow(tree: ast.Module) -> list[str]:
    """The slow tests of a file in words; of classes the names, and "all" where the whole file is slow."""
    marks = [
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    if any(SLOW in ast.unparse(mark) for mark in marks):
        return ["all"]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test"):
            written = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any(SLOW in decorator for decorator in written):
                words = node.name.removeprefix("test_").replace("_", " ")
                words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words.removeprefix("Test")).capitalize()
                found.append(words if SLOW in written else f"some of: {words}")
    return found


def reasons(tree: ast.Module) -> Iterator[str]:
    """What a file says of why it skips tests: packages that are not installed, and reasons in its own words."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, first = ast.unparse(node.func), node.args[0] if node.args else None
        if called == "pytest.importorskip" and isinstance(first, ast.Constant):
            package = str(first.value).partition(".")[0]
            if not package.startswith("zoplat"):
                yield f"{package} is not installed"
        if called == "pytest.skip" and isinstance(first, ast.Constant):
            yield str(first.value)
        if called == "pytest.mark.skipif":
            yield from (str(word.value.value) for word in node.keywords if isinstance(word.value, ast.Constant))

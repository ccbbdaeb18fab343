"""Writes docs/reference, zoplat/cli/costs.json and the marked places of other pages: `python docs/generate.py`.

The reference comes from the code and, for its list of terms, from docs/explanation/glossary.md; the results of methods
from docs/methods/comparison.json, which `zoplat compare` made; the figures of docs/performance.md from bench/results,
which `make bench` made; those of docs/explanation/scaling.md from what bench/scaling.py made; docs/results and the
table of README.md from the studies in docs/results, see pages.py there.
With --check it only says what is stale.
"""

import dataclasses
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click

from bench import scaling_page
from bench.page import Page
from docs import licences, reference_pages, tests
from docs.files import page as files
from docs.places import filled
from docs.results.pages import pages as results
from zoplat import hookspecs
from zoplat.cli import main
from zoplat.cli.listing import MEASURED
from zoplat.cli.show import cost
from zoplat.comparison.table import COLUMNS, cells, markdown
from zoplat.config.parts import field_meanings, setting_fields
from zoplat.registry import KINDS, Entry, catalogue, hook_of
from zoplat_devices.edge.runner import main as edge

FOLDER = Path(__file__).parent / "reference"
METHODS = Path(__file__).parent / "methods"
GLOSSARY = Path(__file__).parent / "explanation" / "glossary.md"
PERFORMANCE = Path(__file__).parent / "performance.md"
SCALING = Path(__file__).parent / "explanation" / "scaling.md"
README = Path(__file__).parents[1] / "README.md"
DECISIONS = Path(__file__).parent / "decisions"
NOTE = "<!-- Made by `python docs/generate.py`; change the code, not this page. -->\n\n"


def commands() -> str:
    """Every command with its help as the terminal shows it."""
    page = NOTE + "# Commands\n"
    for program, group in (("zoplat", main), ("zoplat-edge", edge)):
        root = click.Context(group, info_name=program, terminal_width=100, **group.context_settings)
        found = ((name, group.get_command(root, name)) for name in group.list_commands(root))
        contexts = [click.Context(command, root, name) for name, command in found if command]
        for context in [root, *contexts]:
            page += f"\n## {context.command_path}\n\n```\n{context.get_help()}\n```\n"
    return page


def parts() -> str:
    """Every part that ships, under the hook that brings it."""
    page = NOTE + "# Parts\n\nWhat `zoplat list` shows without other plugins installed, and what `-o` can change.\n"
    for kind in KINDS:
        hook = hook_of(kind)
        page += f"\n## {hook}\n\n{inspect.getdoc(getattr(hookspecs, hook))}\n"
        own = (entry for entry in catalogue() if entry.kind == kind and entry.distribution == "zoplat")
        page += "".join(map(preset if kind == "preset" else part, sorted(own, key=lambda entry: entry.name)))
    return page


def part(entry: Entry) -> str:
    """One part: what it is, whose, its fields."""
    head = f"\n### {entry.kind} `{entry.name}`\n\n{entry.summary}. From {entry.distribution} {entry.version}."
    rows = "".join(f"| `{name}` | `{default}` | {text} |\n" for name, default, text in fields(entry.value))
    return f"{head}\n" + (f"\n| field | default | meaning |\n| --- | --- | --- |\n{rows}" if rows else "")


def preset(entry: Entry) -> str:
    """One preset: what ran under it and where that is written."""
    return f"\n### preset `{entry.name}`\n\n{entry.summary}. {entry.value.source}.\n"


def fields(value: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted path, default, meaning) of a part's fields, those of parts inside it included."""
    known = field_meanings(type(value))
    for field in setting_fields(value):
        held = getattr(value, field.name)
        inner = dataclasses.is_dataclass(held)
        if inner or not (callable(held) or field.name == "summary"):
            shown = (type(held).__name__ if inner else repr(held)).replace("|", "\\|")
            yield prefix + field.name, shown, known.get(field.name, "")
        if inner:
            yield from fields(held, f"{prefix}{field.name}.")


def glossary() -> str:
    """The terms of docs/explanation/glossary.md from A to Z; what they name in the code must be there."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| `(.+?)` \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    for _, _, name in rows:
        pkgutil.resolve_name(name)
    lines = sorted((f"| {term} | {meaning} | `{name}` |\n" for term, meaning, name in rows), key=str.lower)
    head = "# Terms from A to Z\n\nBy subject: [glossary](../explanation/glossary.md).\n\n"
    return f"{NOTE}{head}| term | meaning | in code |\n| --- | --- | --- |\n{''.join(lines)}"


def decisions() -> str:
    """The decisions in the order they were made."""
    head = "# Decisions\n\nIn the order they were made, each with the option that was not taken.\n\n"
    rows = []
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        found = re.match(r"# (\d+\. )(.+)\n", path.read_text(encoding="utf-8"))
        if not found:
            sys.exit(f"{path} has no heading such as '# 1. What was decided'.")
        rows.append(f"{found[1]}[{found[2]}]({path.name})\n")
    return NOTE + head + "".join(rows)


def methods() -> dict[Path, str]:
    """The pages of the methods with their marked places filled in."""
    own = {e.name: e for e in catalogue() if e.kind == "estimator" and e.distribution == "zoplat"}
    comparison = json.loads((METHODS / "comparison.json").read_text(encoding="utf-8"))
    results = {row["estimator"]: row for row in comparison["rows"]}
    table = f"```sh\n{comparison['command']}\n```\n\n{markdown(comparison['rows'])}"
    listed = overview(own)
    pages = {}
    for path in sorted(METHODS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path.stem in own:
            text = filled(text, "result", result(path.stem, results, comparison["command"]))
        text = filled(text, "methods", listed)
        pages[path] = filled(text, "comparison", table)
    return pages


def performance(text: str) -> str:
    """A page of figures with its marked places filled in."""
    for mark, content in Page().places.items():
        text = filled(text, mark, content)
    return text


def scaling() -> str:
    """The page on what ranks cost, with its marked places filled in."""
    text = SCALING.read_text(encoding="utf-8")
    for mark, content in scaling_page.places().items():
        text = filled(text, mark, content)
    return text


def overview(own: dict[str, Entry]) -> str:
    """Every method with what a step costs."""
    head = "| method | in a line | passes | over θ | bytes a weight |\n| --- | --- | ---: | ---: | ---: |\n"
    rows = []
    for name, entry in sorted(own.items()):
        passes, moves, matrix, _ = (short(value) for value in measured("estimator", name).values())
        each = matrix if isinstance(matrix, str) else f"{matrix / 2**20:.3g}"
        line = entry.summary.partition(": ")[2]
        rows.append(f"| [{name}]({name}.md) | {line} | {passes} | {moves} | {each} |\n")
    return head + "".join(rows)


@cache
def measured(kind: str, name: str) -> dict[str, Any]:
    """What a step takes with a part."""
    return cost(catalogue().entry(kind, name))


def costs() -> str:
    """What a step takes with each part that ships, for `zoplat list`."""
    table: dict[str, dict[str, Any]] = {"estimator": {}, "step-rule": {}}
    for kind, found in table.items():
        own = {entry.name for entry in catalogue() if (entry.kind, entry.distribution) == (kind, "zoplat")}
        found |= {name: measured(kind, name) for name in sorted(own)}
    return json.dumps(table, indent=1) + "\n"


def short(value: Any) -> Any:
    """A cost in a cell of a table."""
    return "by parts" if isinstance(value, str) else value


def result(name: str, results: dict[str, Any], command: str) -> str:
    """What the comparison found for one method."""
    if name not in results:
        return "It is not in the comparison."
    row = results[name]
    cell = dict(zip(COLUMNS, cells(row), strict=True))
    command = re.sub(r"--estimators \S+", f"--estimators {name}", command)
    return (
        f"```sh\n{command}\n```\n\n"
        f"Test accuracy {100 * row['before']:.1f} % → **{cell['score']} %** (mean and standard deviation of "
        f"{row['runs']} seeds), dev {cell['dev']} %, after {cell['forward_passes']} forward passes in {cell['steps']} "
        f"steps; {cell['seconds_training']} s of training, at most {cell['peak']} MiB, {cell['above_inference']} MiB "
        "above inference. Beside the others: [choosing a method](choosing.md)."
    )


if __name__ == "__main__":
    pages = {FOLDER / "commands.md": commands(), FOLDER / "parts.md": parts(), FOLDER / "glossary.md": glossary()}
    more = {
        "README": reference_pages.index,
        "hooks": reference_pages.hooks,
        "files": files.page,
        "exit-status": reference_pages.exit_status,
        "environment-variables": reference_pages.environment_variables,
        "python": reference_pages.python,
        "licences": licences.page,
        "tests": tests.page,
    }
    pages |= {FOLDER / f"{name}.md": NOTE + make() for name, make in more.items()}
    pages |= {DECISIONS / "README.md": decisions()}
    pages |= methods() | {MEASURED: costs()}
    pages |= {PERFORMANCE: performance(PERFORMANCE.read_text(encoding="utf-8"))}
    pages |= {SCALING: scaling()} | results()
    pages[README] = performance(pages[README])
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        if stale:
            sys.exit(f"{', '.join(map(str, stale))}: not what the code says. Run `python docs/generate.py`.")
    else:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
            print(path)

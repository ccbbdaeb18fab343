"""Pages of docs/reference that are made from the code: hooks, exit status, environment variables, names for Python.

The index of the reference counts what there is, from the code too. tests/docs/test_reference.py looks for each of these
things in the sources by other means, and fails for one that is not on its page.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

import click

import zoplat
from docs.files.page import GROUPS
from zoplat import hookspecs
from zoplat.cli import INTERRUPTED, main
from zoplat.config.parts import setting_fields
from zoplat.core import permissions
from zoplat.registry import GROUP, KINDS, NO_PLUGINS, catalogue, hook_of
from zoplat.tasks.commands import SECONDS, SECONDS_VARIABLE
from zoplat_devices.edge.runner import main as edge

PROGRAMS = {"zoplat": main, "zoplat-edge": edge}
EXIT: dict[int, str] = {
    0: "Done. For a command that gives an answer, the good one: see below.",
    1: "The run began and could not go on, or an answer is the bad one. The last line on standard error says which.",
    2: "The request can't be understood or can't work, said before any work: an unknown name, a wrong type, a damaged "
    "file, a method that asks for what the device can't answer, a model that does not fit.",
    INTERRUPTED: "Interrupted by Ctrl-C or SIGTERM; what was done is saved. A second signal ends the process at once.",
}
ANSWERS: dict[str, dict[int, str]] = {
    "check": {0: "every property holds", 1: "one fails, or a plugin can't be loaded"},
    "compare": {0: "all runs are in the table", 1: "one failed, or broke the terms of the comparison"},
    "diff": {0: "the runs are equal in what matters", 1: "they differ"},
    "plan": {0: "the run fits", 1: "it does not fit", 2: "not known"},
    "poc": {0: "go", 1: "no-go", 2: "can't tell"},
    "replay": {0: "the weights are those of the run", 1: "they are not"},
}
"""Command → what an exit status says there."""
OURS: dict[str, str] = {
    "ZOPLAT_CACHE": "Folder for what can be computed again: compiled kernels, first scores, converted models. "
    "Default: `zoplat/` in `$XDG_CACHE_HOME` or in `~/.cache`.",
    "ZOPLAT_KERNELS": "A compiled library to load in place of the one in the cache; `numpy` for none at all.",
    "ZOPLAT_SERVER_KEY": "Of the device `served`: the key that the server asks for.",
    NO_PLUGINS: "Where it is set, plugins of other distributions are not loaded.",
    permissions.VARIABLE: f"Permissions with commas between them: `{permissions.COMMANDS}` is `--allow-commands`, "
    f"`{permissions.REMOTE_CODE}` is `--trust-remote-code`.",
    SECONDS_VARIABLE: "The longest that a program of `--objective command:…` may take for an answer, in seconds. "
    f"Default: {SECONDS:g}.",
}
THEIRS: dict[str, str] = {
    "XDG_CACHE_HOME": "The user's folder for caches, where `ZOPLAT_CACHE` is not set.",
    "RANK": "Of a process that `torchrun` started: its number.",
    "WORLD_SIZE": "How many there are.",
    "MASTER_ADDR": "That a launcher set this, with the two above, says that several processes share the run.",
    "LOCAL_RANK": "The GPU of a process.",
    "CUDA_VISIBLE_DEVICES": "The GPUs whose energy is read.",
    "MLFLOW_EXPERIMENT_NAME": "Of the tracker `mlflow`: the experiment. Default: zoplat.",
    "WANDB_PROJECT": "Of the tracker `wandb`: the project. Default: zoplat.",
    "WANDB_DIR": "Of the tracker `wandb`: its folder. Default: the run directory.",
}
SET: dict[str, str] = {
    "GLOO_SOCKET_IFNAME": "The network interface that leads to rank 0, unless it is set already.",
    "GOMP_SPINCOUNT": "`10000`, unless it or `OMP_WAIT_POLICY` is set: threads of torch that wait sleep soon.",
    "USE_HUB_KERNELS": "`NO`, so that transformers fetches no kernels.",
    "ZIG_GLOBAL_CACHE_DIR": "A temporary folder, for the compiler of the kernels alone.",
    "ZIG_LOCAL_CACHE_DIR": "The same.",
}
"""What zoplat sets, for libraries and for processes that it starts."""
LIBRARIES: dict[str, str] = {
    "NO_COLOR": "No colours on a terminal, if it is not empty; text stays bold. Files and pipes have neither.",
    "COLUMNS": "Width of help and of bars of progress.",
    "OMP_NUM_THREADS": "Threads of torch; `-o device.threads=N` goes before it.",
    "HF_HOME": "Where models and data sets from the hub are kept.",
    "HF_HUB_OFFLINE": "`1`: nothing is fetched from the hub.",
    "HF_TOKEN": "For models on the hub that ask for it.",
}
HOOKS = """# Hooks

A plugin is a module with some of these functions, marked with `@zoplat.hookimpl`, and an entry point in the group
`zoplat`; or one file for `--plugin`. [Check a plugin](../how-to/check-a-plugin.md) says how to try it. A module may say
`zoplat_api = N`, the [version of the hooks](stability.md#the-hooks) that it was written for; another one is refused.

No hook takes arguments. Each is called once in a process, when parts are looked up for the first time, and the results
of all plugins are used, not the first one alone. What a plugin raises or prints there is kept and shown by `zoplat
doctor`; it may take 20 seconds at most. A hook returns parts by name: frozen dataclasses with their default settings.
Where two distributions register the same name, using it is refused.
"""
KILLED = """
A process that the system killed, for want of memory for example, has the status that the shell gives it, mostly 137.
Errors are one message on standard error; `--debug` shows the traceback.

## Commands that answer

| command | 0 | 1 | 2 |
| --- | --- | --- | --- |
"""
PYTHON = """# Names for Python

What `zoplat`, `zoplat.torch` and `zoplat.testing` export, with their docstrings. Other modules can be imported too and
may change; [stability](stability.md) says what may not.
"""
INDEX = """# Reference

Made from the code, and tested against it: everything that this table counts is on its page.
[Terms from A to Z](glossary.md) · [stability](stability.md), what may change between versions ·
[licences](licences.md) of what comes with zoplat.

| | how many | where |
| --- | ---: | --- |
"""
DOORS = ("zoplat", "zoplat.torch", "zoplat.testing")
"""Modules whose names are public."""


def hooks() -> str:
    """Every hook: arguments, when it is called, what becomes of its results, an example from what ships."""
    page = HOOKS
    for kind, base in KINDS.items():
        name = hook_of(kind)
        spec, options = getattr(hookspecs, name), getattr(hookspecs, name).zoplat_spec
        results = "the first result that is not None" if options["firstresult"] else "the results of all plugins"
        page += (
            f"\n## {name}\n\n```python\ndef {name}{signature(spec)}: ...\n```\n\n{inspect.getdoc(spec)}\n\n"
            f"Arguments: {', '.join(inspect.signature(spec).parameters) or 'none'}. Called: once, when parts are "
            f"looked up. Used: {results}. Class of the parts: `{public(base)}`. [All that ship](parts.md#{name}).\n\n"
            f"```python\n{example(name, kind)}```\n"
        )
    return page


def public(kind: type) -> str:
    """A class as it is imported."""
    return f"zoplat.{kind.__name__}" if kind.__name__ in zoplat.__all__ else f"{kind.__module__}.{kind.__qualname__}"


def example(hook: str, kind: str) -> str:
    """The shortest function that ships for a hook, with the module that it is in."""
    modules = {
        type(entry.value).__module__ for entry in catalogue() if (entry.kind, entry.distribution) == (kind, "zoplat")
    }
    points = {point.value for point in metadata.entry_points(group=GROUP)} | modules
    found = [(inspect.getsource(function), name) for name in points if (function := _function(name, hook))]
    text, module = min(found, key=lambda pair: (len(pair[0]), pair[1]))
    return f"# {module}\n{text}"


def _function(module: str, name: str) -> Any:
    found = getattr(import_module(module), name, None) if module.startswith(("zoplat_", "zoplat.")) else None
    return found if inspect.isfunction(found) else None


def exit_status() -> str:
    """Every exit status, and what it says of the commands that give an answer."""
    page = "# Exit status\n\nOf `zoplat` and of `zoplat-edge`.\n\n| status | meaning |\n| ---: | --- |\n"
    page += "".join(f"| {status} | {meaning} |\n" for status, meaning in EXIT.items())
    page += KILLED
    for command, answers in ANSWERS.items():
        page += f"| `zoplat {command}` | {' | '.join(answers.get(status, '') for status in (0, 1, 2))} |\n"
    return page


def environment_variables() -> str:
    """Every environment variable that is read or set."""
    page = "# Environment variables\n"
    tables = {
        "Of zoplat": ("", OURS),
        "Of others, read by zoplat": ("", THEIRS),
        "Set by zoplat": ("In its own process, and in those that it starts.", SET),
        "Of libraries": ("A choice of those that matter most; zoplat does not read them itself.", LIBRARIES),
    }
    for title, (text, rows) in tables.items():
        page += f"\n## {title}\n\n" + (f"{text}\n\n" if text else "") + "| variable | meaning |\n| --- | --- |\n"
        page += "".join(f"| `{name}` | {meaning} |\n" for name, meaning in rows.items())
    return page


def python() -> str:
    """Every public name with its docstring."""
    page = PYTHON
    for door in DOORS:
        module = import_module(door)
        page += f"\n## {door}\n\n{paragraphs(module)[0]}\n"
        page += "".join(named(door, name, getattr(module, name)) for name in sorted(module.__all__, key=str.lower))
    return page


def paragraphs(thing: Any) -> list[str]:
    """The docstring of a module, a class or a function by paragraphs."""
    return (inspect.getdoc(thing) or "").split("\n\n")


def named(door: str, name: str, value: Any) -> str:
    """One name: how it is called, its docstring, and its methods."""
    text = f"\n### {door}.{name}\n"
    if inspect.isclass(value) or inspect.isfunction(value):
        text += f"\n```text\n{name}{signature(value)}\n```\n\n```text\n{inspect.getdoc(value)}\n```\n"
        rows = "".join(f"| `{method}{signature(function)}` | {line} |\n" for method, function, line in methods(value))
        return text + (
            f"\n| method | |\n| --- | --- |\n{rows}".replace("| method | |", "| method | what it does |")
            if rows
            else ""
        )
    return text + f"\n{constant(door, name, value)}\n"


def methods(kind: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, function, first line) of the public methods that a class of zoplat has."""
    for name, function in inspect.getmembers(kind if inspect.isclass(kind) else None, inspect.isroutine):
        own = getattr(function, "__module__", "") or ""
        line = paragraphs(function)[0].replace("\n", " ")
        if not name.startswith("_") and own.startswith("zoplat") and line:
            yield name, function, line.replace("|", "\\|")


def constant(door: str, name: str, value: Any) -> str:
    """What a name that is neither a class nor a function is."""
    if isinstance(value, types.UnionType) or typing.get_origin(value):
        return f"A type: `{value}`."
    origin = getattr(type(value), "__name__", "")
    return f"{paragraphs(type(value))[0]} (`{origin}`)" if origin not in ("str", "int", "float") else f"`{value!r}`."


def signature(value: Any) -> str:
    """How something is called, without module names in its annotations."""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(…)"
    for word in ("zoplat.", "collections.abc.", "typing."):
        text = _without_modules(text, word)
    return text.replace("'", "").replace("|", "\\|") if inspect.isroutine(value) else text.replace("'", "")


def _without_modules(text: str, start: str) -> str:
    return re.sub(rf"\b{re.escape(start)}(?:[a-z_]+\.)*", "", text)


def options() -> dict[str, int]:
    """Command → how many options and arguments it has."""
    found = {}
    for program, group in PROGRAMS.items():
        root = click.Context(group, info_name=program)
        found[program] = len(group.get_params(root))
        for name in group.list_commands(root):
            if command := group.get_command(root, name):
                found[f"{program} {name}"] = len(command.get_params(click.Context(command, root, name)))
    return found


def index() -> str:
    """What there is, and where each of it is written down."""
    counts: Mapping[str, tuple[int, str]] = {
        "commands": (len(options()), "[commands](commands.md)"),
        "their options and arguments": (sum(options().values()), "[commands](commands.md)"),
        "hooks": (len(KINDS), "[hooks](hooks.md)"),
        "parts": (sum(entry.distribution == "zoplat" for entry in catalogue()), "[parts](parts.md)"),
        "fields of parts": (sum(map(_fields, catalogue())), "[parts](parts.md)"),
        "files": (sum(len({file.name for file in files}) for _, files in GROUPS.values()), "[files on disk](files.md)"),
        "keys in files": (sum(len(file.keys) for _, files in GROUPS.values() for file in files), "[files](files.md)"),
        "exit statuses": (len(EXIT), "[exit status](exit-status.md)"),
        "environment variables": (len({**OURS, **THEIRS, **SET}), "[environment variables](environment-variables.md)"),
        "names for Python": (sum(len(import_module(door).__all__) for door in DOORS), "[Python](python.md)"),
    }
    return INDEX + "".join(f"| {name} | {count:,} | {where} |\n" for name, (count, where) in counts.items())


def _fields(entry: Any) -> int:
    return len(setting_fields(entry.value)) if entry.distribution == "zoplat" and entry.kind != "preset" else 0

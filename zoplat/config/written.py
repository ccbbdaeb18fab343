"""Classes of a notebook or a script as a plugin of one file, for processes that can't know the notebook."""

from __future__ import annotations

import builtins
import symtable
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from zoplat.config.local import PLAIN, functions_of, text_of
from zoplat.config.parts import Table, describe, part_kind, setting_fields
from zoplat.core.errors import ZoplatError
from zoplat.registry import LOCAL, catalogue, hook_of

FILE = """\
{doc}

from __future__ import annotations

from zoplat import hookimpl as zoplat_hookimpl

{body}
"""
HOOK = """\


@zoplat_hookimpl
def {hook}():
    return {{{parts}}}
"""


def foreign(part: Any) -> Iterator[type]:
    """The classes of a part, and of parts in its fields, that no plugin registers; inner ones first."""
    kind = part_kind(part)
    if kind is None:
        return
    for field in setting_fields(part):
        yield from foreign(getattr(part, field.name))
    if not _is_registered(kind, part):
        yield type(part)


def settings_of(part: Any) -> Table:
    """Those fields of a part that differ from the defaults of its class, as a table."""
    usual, table = instance(type(part)), Table()
    for field in setting_fields(part):
        value = getattr(part, field.name)
        inner = part_kind(value)
        if value == getattr(usual, field.name):
            continue
        if inner is None:
            table[field.name] = value
        elif _is_registered(inner, value):
            table[field.name] = describe(inner, value)
        else:
            table[field.name] = {"name": type(value).__name__, **settings_of(value)}
    return table


def instance(kind: type) -> Any:
    """A part of a class with its defaults; raises ZoplatError where a field has none."""
    try:
        return kind()
    except TypeError as problem:
        raise ZoplatError(
            f"{kind.__name__} can't be made without arguments ({problem}). Give its fields defaults."
        ) from None


def written(part: Any, folder: Path) -> Path:
    """Write the class of a part, with what it uses of its own module, to a file that registers it under its name.

    Raises:
        ZoplatError: the folder has it with another source, or it uses something that has no text.
    """
    own, texts = type(part), _Texts(type(part).__name__)
    kinds = list(dict.fromkeys(foreign(part)))
    body = "\n\n\n".join(text for kind in kinds for text in texts.of(kind))
    hooks: dict[str, list[str]] = {}
    for kind in kinds:
        hooks.setdefault(hook_of(part_kind(instance(kind)) or ""), []).append(f"{kind.__name__!r}: {kind.__name__}()")
    text = FILE.format(doc=repr((own.__doc__ or f"{own.__name__}, a class of a notebook.").strip()), body=body)
    text += "".join(HOOK.format(hook=hook, parts=", ".join(parts)) for hook, parts in hooks.items())
    path = (folder / f"{own.__name__}.py").absolute()
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ZoplatError(
            f"{path} has another source of {own.__name__} than it has here, and runs of both can't share a table. "
            "Put the class back, or give another folder: out=…"
        )
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(path)]:
            del sys.modules[name]  # of a folder that was deleted
    return path


def _is_registered(kind: str, part: Any) -> bool:
    """Whether a plugin registers the class of a part; that `zoplat.run` has taken it as a value is not enough."""
    entries = [entry for entry in catalogue() if entry.kind == kind and type(entry.value) is type(part)]
    return any(not entry.name.startswith(LOCAL) for entry in entries)


class _Texts:
    """The texts of classes and of what they use, each once and behind what it uses itself.

    Args:
        name: of the part that they are for, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[str] = set()

    def of(self, used: Any) -> Iterator[str]:
        """Imports, values, functions and classes of its module that a class or a function needs, then itself."""
        if used.__name__ in self._seen:
            return
        self._seen.add(used.__name__)
        text = text_of(used, [*functions_of(used)])
        if not text:
            raise ZoplatError(
                f"{self._name} uses {used.__name__}, whose source is not known here, so that the processes of the runs "
                "can't have it. Put the class into a file with a hook, and give it as plugin='FILE.py'."
            )
        space = vars(sys.modules[used.__module__])
        for name in _names(text):
            if name in space and name not in self._seen:
                yield from self._needed(name, space[name], used.__module__)
        yield text

    def _needed(self, name: str, value: Any, module: str) -> Iterator[str]:
        if getattr(value, "__module__", None) == module and isinstance(value, type | FunctionType):
            yield from self.of(value)
            return
        self._seen.add(name)
        if line := _imported(name, value):
            yield line
        elif _is_plain(value):
            yield f"{name} = {value!r}"
        else:
            raise ZoplatError(
                f"{self._name} uses {name}, a {type(value).__name__}, which the processes of the runs can't have. "
                "Make it a number, a text or a function, or put the class into a file, given as plugin='FILE.py'."
            )


def _names(text: str) -> list[str]:
    """Names that a definition takes from its module, in order."""
    tables, found = [symtable.symtable(text, "definition", "exec")], list[str]()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            is_outer = symbol.is_global() or table.get_type() == "module"
            if symbol.is_referenced() and is_outer and not hasattr(builtins, symbol.get_name()):
                found.append(symbol.get_name())
    return list(dict.fromkeys(found))


def _imported(name: str, value: Any) -> str:
    """The line that imports a value; empty where it comes from nowhere."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    home = getattr(value, "__module__", None)
    own = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if home and own and getattr(sys.modules.get(home), own, None) is value and home != "__main__":
        return f"from {home} import {own} as {name}"
    return ""


def _is_plain(value: Any) -> bool:
    """Whether a value is written by its `repr`."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple | set | frozenset):
        return type(value) in (list, tuple, set, frozenset) and all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def adopted(names: Any, folder: Path) -> tuple[Any, Sequence[Path]]:
    """An axis of a comparison with names in place of parts and classes, and the files that have these.

    Args:
        names: a name, a part or the class of one, or several of them; a table of settings by name stays.
        folder: for the files.

    Raises:
        ZoplatError: two parts of one class, or a class that can't be written.
    """
    listed = list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [names]
    parts = [instance(one) if isinstance(one, type) else one for one in listed]
    if isinstance(names, Mapping) or not any(map(part_kind, parts)):
        return names, ()
    table: dict[Any, Table] = {}
    files: list[Path] = []
    for part in parts:
        kind = part_kind(part)
        if kind is None:
            table[part] = {}
            continue
        is_registered = _is_registered(kind, part)
        files += [] if is_registered else [written(part, folder)]
        name = catalogue().name_of(kind, part) if is_registered else type(part).__name__
        if name in table:
            raise ZoplatError(f"{name} is given twice; a table has one row for each name. Make two comparisons of it.")
        own = describe(kind, part) if is_registered else settings_of(part)
        table[name] = {field: value for field, value in own.items() if field != "name"}
    return table, files

"""Parts given as values that no plugin registers: classes of a notebook or a script, known by their source.

They are registered for as long as the process lives, as `local.NAME`. A run that uses one can go on and be replayed
wherever the class is defined with the same source, and is refused elsewhere.
"""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from types import CodeType, FunctionType
from typing import Any

from zoplat.config.parts import part_kind, setting_fields
from zoplat.core.errors import ZoplatError
from zoplat.registry import LOCAL, Entry, catalogue

SOURCE = "source:"
"""What the version of such a part begins with."""
PLAIN = (int, float, str, bytes, bool, type(None))


def adopt(part: Any) -> None:
    """Register a part, and those inside it, where their classes are not; the newest class of a name counts."""
    kind = part_kind(part)
    if kind is None:
        return
    for field in setting_fields(part):
        adopt(getattr(part, field.name))
    known, own = catalogue(), type(part)
    if any(entry.kind == kind and type(entry.value) is own for entry in known):
        return
    name = f"{LOCAL}{own.__name__}"
    version = f"{SOURCE}{Source(own).digest}"
    known.entries[kind, name] = [Entry(kind, name, _usual(part), name, version, inspect.getdoc(own) or "")]


def check_sources(recorded: Mapping[str, str], where: str) -> None:
    """Raise ZoplatError where a class that a run began with has another source now.

    Args:
        recorded: by distribution its version, as the header of a journal has them under "plugins".
        where: the run directory, for the message.
    """
    now = {entry.distribution: entry.version for entry in catalogue()}
    for name, version in recorded.items():
        if version.startswith(SOURCE) and now.get(name, version) != version:
            raise ZoplatError(
                f"{where} was begun with another source of {name.removeprefix(LOCAL)} than it has here: "
                f"{version} then, {now[name]} now. Its journal belongs to the class as it was. Put that back, or begin "
                "another run."
            )


def _usual(part: Any) -> Any:
    """The part with its default settings; as it is where some of them have no default."""
    try:
        return type(part)()
    except TypeError:
        return part


class Source:
    """The source of a class, with what it uses of its own module.

    That is: base classes, functions and classes there, and plain values by name. What it uses of other modules is left
    out.

    Args:
        kind: the class.
    """

    def __init__(self, kind: type) -> None:
        self.kind, self.module = kind, kind.__module__
        self._seen: set[Any] = set()

    @cached_property
    def digest(self) -> str:
        """Of its text, comments and layout left out."""
        return sha256("\n".join(sorted(self._of(self.kind))).encode()).hexdigest()[:16]

    def _of(self, used: Any) -> Iterator[str]:
        """The texts of a class or a function, and of what it uses."""
        if used in self._seen or getattr(used, "__module__", None) != self.module:
            return
        self._seen.add(used)
        functions = [*functions_of(used)]
        bytecode = (_bytecode(function.__code__) for function in functions)
        yield text_of(used, functions) or "\n".join([used.__qualname__, *bytecode])
        for base in getattr(used, "__bases__", ()):
            yield from self._of(base)
        for function in functions:
            for name, value in _named(function):
                if isinstance(value, type | FunctionType):
                    yield from self._of(value)
                elif all(isinstance(one, PLAIN) for one in (value if isinstance(value, tuple) else (value,))):
                    yield f"{name} = {value!r}"


def functions_of(used: Any) -> Iterator[FunctionType]:
    """A function, or those that the text of a class has; what `dataclass` writes has no text."""
    if isinstance(used, FunctionType):
        yield used
        return
    for value in vars(used).values():
        inner = value.fget if isinstance(value, property) else getattr(value, "__func__", getattr(value, "func", value))
        if isinstance(inner, FunctionType) and inner.__code__.co_filename != "<string>":
            yield inner


def text_of(used: Any, functions: list[FunctionType]) -> str:
    """The text of a class or a function, comments and layout left out; empty where no text is kept."""
    if functions:
        code = functions[0].__code__
        try:
            module = ast.parse("".join(linecache.getlines(code.co_filename)))
        except SyntaxError:  # a cell with a line that is no Python, such as %time
            module = ast.Module([], [])
        around = [
            node
            for node in ast.walk(module)
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
            and node.name == used.__name__
            and _begins(node) <= code.co_firstlineno <= (node.end_lineno or 0)
        ]
        if around:
            return ast.unparse(around[-1])
    return ""


def _begins(node: ast.ClassDef | ast.FunctionDef) -> int:
    """The first line of a definition, decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _bytecode(code: CodeType) -> str:
    inner = [_bytecode(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names that a function takes from outside of it, with their values."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        if name != "__class__":
            yield name, cell.cell_contents
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _global_names(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _global_names(inner)

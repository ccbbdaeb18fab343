"""What `zoplat check` is to check: a distribution, a part, a module, a file or a folder, installed or not."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from zoplat.core.errors import ZoplatError, unknown
from zoplat.registry import GROUP, KINDS, Catalogue, Entry, catalogue, hook_of
from zoplat.testing.check import CONTRACTS
from zoplat.testing.places import place_of


@dataclass(frozen=True)
class Target:
    """Parts to check.

    Attributes:
        entries: those that have a contract: all but presets.
        failures: plugins of the target that could not be loaded, and why.
    """

    entries: list[Entry]
    failures: list[str]


@contextmanager
def opened(target: str) -> Iterator[Target]:
    """The parts that a target registers; while this is open the catalogue knows them, installed or not.

    Raises:
        ZoplatError: there is no such thing, it can't be imported, or it registers nothing that has a contract.
    """
    known = catalogue()
    found = _by_path(Path(target)) if _is_path(target) else _by_name(target)
    entries = sorted((entry for entry in found.entries if entry.kind in CONTRACTS), key=lambda e: (e.kind, e.name))
    if not entries and found.failures:
        raise ZoplatError(" ".join(found.failures))
    if not entries:
        others = sorted({entry.kind for entry in found.entries})
        only = f" It registers only a {' and a '.join(others)}, for which there is no contract." if others else ""
        raise ZoplatError(f"'{target}' registers no estimator, sampler, step rule, device or task.{only}")
    installed = {id(entry.value) for entry in known}
    fresh = [_renamed(entry, target) for entry in entries if id(entry.value) not in installed]
    known.entries |= {(entry.kind, entry.name): [entry] for entry in fresh}
    try:
        yield Target(entries, found.failures)
    finally:
        for entry in fresh:
            del known.entries[entry.kind, entry.name]


def register(path: Path) -> None:
    """Add the parts of a file to the catalogue, for as long as this process lives; its version is its digest.

    Raises:
        ZoplatError: there is no such file, it can't be imported, or a name in it is taken.
    """
    if not path.is_file():
        raise ZoplatError(f"--plugin takes a Python file; there is no file {path}.")
    version = f"sha256:{sha256(path.read_bytes()).hexdigest()[:16]}"
    known, found = catalogue(), _by_path(path).entries
    if not found:
        raise ZoplatError(f"--plugin {path} registers nothing: no function in it is a hook, marked by @hookimpl.")
    for entry in found:
        others = [other for other in known.entries.get((entry.kind, entry.name), []) if other.distribution != path.name]
        if others:
            raise ZoplatError(
                f"--plugin {path} registers the {entry.kind} '{entry.name}', which {others[0].distribution} has too. "
                "Give it another name."
            )
        known.entries[entry.kind, entry.name] = [replace(entry, version=version)]


def _renamed(entry: Entry, target: str) -> Entry:
    """The entry under a name that is not taken."""
    taken = (entry.kind, entry.name) in catalogue().entries
    return replace(entry, name=f"{entry.name} of {target}") if taken else entry


def _is_path(target: str) -> bool:
    return target.endswith(".py") or os.sep in target or target in (".", "..")


def _by_name(target: str) -> Target:
    """A distribution, a registered part, or a module; a folder of this name where it is none of them."""
    known = catalogue()
    mine = [entry for entry in known if _plain(entry.distribution) == _plain(target)]
    failures = [str(failure) for failure in known.failures if _plain(failure.distribution) == _plain(target)]
    if mine or failures:
        return Target(mine, failures)
    named = [entry for entry in known if entry.name == target]
    if named:
        return Target(named, [])
    try:
        spec = find_spec(target) if all(word.isidentifier() for word in target.split(".")) else None
    except ModuleNotFoundError:
        spec = None
    if spec and spec.origin:  # a folder that merely can be reached has none
        return _of([_imported(target, target)], target)
    if Path(target).is_dir():
        return _by_path(Path(target))
    try:
        metadata.distribution(target)
    except (metadata.PackageNotFoundError, ValueError):
        names = {entry.name for entry in known if entry.kind in CONTRACTS} | {entry.distribution for entry in known}
        hint = "a distribution, a registered name, a module, a .py file or a folder; `zoplat list estimators`"
        raise unknown("target", target, names, hint) from None
    return Target([], [])


def _by_path(path: Path) -> Target:
    """A file, a package, or a project with entry points in its pyproject.toml."""
    if not path.exists():
        raise ZoplatError(f"There is no file or folder {path}.")
    path = path.resolve()
    if path.is_file():
        return _of([_loaded(path)], path.name)
    if (path / "__init__.py").exists():
        with _reachable(path.parent):
            return _of([_imported(path.name, str(path))], path.name)
    names = _entry_points(path / "pyproject.toml")
    if not names:
        raise ZoplatError(
            f"{path} holds no plugin that can be found: no __init__.py, and no [project.entry-points.{GROUP}] in a "
            "pyproject.toml."
        )
    with _reachable(path / "src", path):
        return _of([_imported(name, f"{path}: {name}") for name in names], path.name)


def _entry_points(file: Path) -> list[str]:
    """The modules that a project registers."""
    if not file.exists():
        return []
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ZoplatError(f"{file} is not TOML: {problem}.") from None
    points = project.get("entry-points", {}).get(GROUP, {})
    return [str(value).partition(":")[0].strip() for value in points.values()]


def _loaded(path: Path) -> ModuleType:
    """A file as a module: the one that is loaded from it already, or that of its package, or one of its own."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    package = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists():
        package.insert(0, folder.name)
        folder = folder.parent
    with _reachable(folder):
        if len(package) > 1:
            return _imported(".".join(package), str(path))
        spec = spec_from_file_location(f"zoplat_checked_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ZoplatError(f"{path} is not a Python file.")
        module = module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look their module up
        try:
            with _import_errors_in_one_line(str(path)):
                spec.loader.exec_module(module)
        except ZoplatError:
            del sys.modules[module.__name__]
            raise
        return module


def _imported(name: str, shown: str) -> ModuleType:
    with _import_errors_in_one_line(shown):
        return import_module(name)


@contextmanager
def _import_errors_in_one_line(shown: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as problem:
        file, line = place_of(problem) or ("", 0)
        name = Path(file).name
        where = f"line {line}" if name == Path(shown).name else f"{name}, line {line}"
        reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        raise ZoplatError(f"{shown} can't be imported: {reason} ({where})") from None


def _of(modules: list[ModuleType], distribution: str) -> Target:
    """What modules register; for a package that registers nothing itself, what the modules in it do."""
    found = Catalogue()
    for module in modules:
        before = len(found.entries)
        _ask(found, module, distribution)
        if len(found.entries) == before and hasattr(module, "__path__"):
            for inside in iter_modules(module.__path__, f"{module.__name__}."):
                if _has_hooks(inside.name):
                    _ask(found, _imported(inside.name, inside.name), distribution)
    return Target(list(found), [])


def _has_hooks(name: str) -> bool:
    """Whether a module's text mentions hooks; others are not imported."""
    spec = find_spec(name)
    file = Path(spec.origin) if spec and spec.origin else None
    return file is not None and file.suffix == ".py" and b"hookimpl" in file.read_bytes()


def _ask(found: Catalogue, module: ModuleType, distribution: str) -> None:
    unmarked = [name for name in map(hook_of, KINDS) if hasattr(getattr(module, name, None), "__code__")]
    unmarked = [name for name in unmarked if not hasattr(getattr(module, name), "zoplat_impl")]
    if unmarked:
        raise ZoplatError(f"{module.__name__}.{unmarked[0]} is not marked as a hook: write @hookimpl above it.")
    try:
        found.add(module, distribution, getattr(module, "__version__", "not installed"))
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        raise ZoplatError(f"The hooks of {module.__name__} can't be asked: {reason}") from None


@contextmanager
def _reachable(*folders: Path) -> Iterator[None]:
    """Folders on the search path of modules while the block runs."""
    before = sys.path[:]
    sys.path[:0] = [str(folder) for folder in folders if folder.is_dir()]
    try:
        yield
    finally:
        sys.path[:] = before


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")

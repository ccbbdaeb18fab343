"""The rooms of the house: who imports whom, and who says what it is for. Read from the source, nothing is run."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "zoplat": ROOT / "zoplat",
    "zoplat_plugins": ROOT / "plugins" / "zoplat_plugins",
    "zoplat_devices": ROOT / "devices" / "zoplat_devices",
}
VOCABULARY = {"blocks", "direction", "drift", "rounding", "space"}
VOCABULARY |= {"device", "errors", "estimator", "oracle", "rule", "sampler"}
HEAVY = {"torch", "transformers", "peft", "tokenizers"}
ARRAYS = {"numpy", "scipy", "safetensors", "numba"}
TERMINAL = {"click", "rich"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return {**found, "zoplat_example": ROOT / "docs" / "examples" / "zoplat-example" / "zoplat_example.py"}


MODULES = modules()


def imports(name: str, eager: bool = False) -> set[str]:
    """Dotted names that a module imports; with `eager`, only those of its top level."""
    names: set[str] = set()
    for node in _statements(ast.parse(MODULES[name].read_text(encoding="utf-8")), eager):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; the house writes whole names"
            base = str(node.module)
            names |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return names


def _statements(node: ast.AST, eager: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if eager and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _statements(child, eager)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room(prefix: str) -> list[str]:
    return [name for name in MODULES if name == prefix or name.startswith(f"{prefix}.")]


PROGRAM = "zoplat_devices.edge"
"""A command line of its own, beside the devices that it needs."""
ENGINE = [n for n in room("zoplat") if not n.startswith(("zoplat.cli", "zoplat.testing")) and n != "zoplat.__main__"]


@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_the_vocabulary_imports_the_standard_library_and_itself(name: str) -> None:
    known = {f"zoplat.{word}" for word in VOCABULARY}
    for imported in imports(f"zoplat.{name}"):
        assert imported in known or imported.partition(".")[0] in sys.stdlib_module_names, (
            f"zoplat.{name} imports {imported}"
        )


def test_the_vocabulary_imports_downwards_only() -> None:
    graph = {name: {i.removeprefix("zoplat.") for i in imports(f"zoplat.{name}")} & VOCABULARY for name in VOCABULARY}
    done: set[str] = set()
    while graph:
        free = {name for name, needed in graph.items() if needed <= done}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {name: needed for name, needed in graph.items() if name not in free}


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_room_knows_no_framework_no_plugin_and_no_device(name: str) -> None:
    forbidden = HEAVY | {"zoplat_plugins", "zoplat_devices", "click"}
    assert not tops(imports(name)) & forbidden, name
    assert not {imported for imported in imports(name) if imported.startswith("zoplat.cli")}


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("zoplat.testing")])
def test_no_module_imports_arrays_or_frameworks_on_sight(name: str) -> None:
    """So that `zoplat --help` is quick although plugin modules are imported to read their hooks."""
    has_hooks = "def zoplat_devices()" in MODULES[name].read_text(encoding="utf-8")
    if has_hooks or not name.startswith("zoplat_devices"):
        assert not tops(imports(name, eager=True)) & (HEAVY | ARRAYS), name


def test_only_the_catalogue_and_the_hooks_know_pluggy() -> None:
    users = {name for name in MODULES if "pluggy" in tops(imports(name))}
    assert users == {"zoplat.plugins", "zoplat.hookspecs"}


@pytest.mark.parametrize("name", room("zoplat.cli"))
def test_commands_hold_no_algorithm(name: str) -> None:
    assert not tops(imports(name)) & (HEAVY | ARRAYS | {"zoplat_plugins", "zoplat_devices"}), name
    vocabulary = {"zoplat.direction", "zoplat.oracle", "zoplat.space", "zoplat.sampler", "zoplat.rule"}
    assert not imports(name) & vocabulary, name


@pytest.mark.parametrize("name", room("zoplat.testing"))
def test_the_kit_needs_no_framework(name: str) -> None:
    assert not tops(imports(name)) & (HEAVY | TERMINAL | {"zoplat_plugins"}), name


@pytest.mark.parametrize("name", [*room("zoplat_plugins"), "zoplat_example"])
def test_a_plugin_imports_public_names_and_public_parts_of_other_plugins(name: str) -> None:
    allowed = {"zoplat", "zoplat_plugins", *sys.stdlib_module_names}
    assert tops(imports(name)) <= allowed, name
    assert {imported for imported in imports(name) if imported.startswith("zoplat.")} == set(), name
    assert not _private_names(name), name


@pytest.mark.parametrize("name", [name for name in room("zoplat_devices") if name != PROGRAM])
def test_a_device_knows_no_algorithm_and_no_command_line(name: str) -> None:
    assert not tops(imports(name)) & {"zoplat_plugins", *TERMINAL}, name
    engine = {"zoplat.engine", "zoplat.settings", "zoplat.results", "zoplat.journal", "zoplat.plugins", "zoplat.cli"}
    assert not {imported for imported in imports(name) if imported in engine or imported.startswith("zoplat.cli.")}
    assert PROGRAM not in imports(name)


def test_the_edge_runner_imports_no_framework_and_no_algorithm() -> None:
    assert not tops(imports(PROGRAM)) & (HEAVY | {"zoplat_plugins", "rich"})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_and_what_they_offer_say_what_they_are_for(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), name
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if "hookimpl" in map(ast.unparse, node.decorator_list):  # its specification says it
                continue
            assert ast.get_docstring(node), f"{name}.{node.name}"


def _private_names(name: str) -> set[str]:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_")
    }

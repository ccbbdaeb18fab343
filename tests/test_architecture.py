"""The rooms of the house: what each may import, and what every file owes its reader. Nothing is run.

All imports count, those inside functions and those under TYPE_CHECKING too: a type that is needed only for a signature
ties two modules together just as well for whoever reads them.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "zoplat": ROOT / "zoplat",
    "zoplat_plugins": ROOT / "plugins" / "zoplat_plugins",
    "zoplat_devices": ROOT / "devices" / "zoplat_devices",
}
EXAMPLE = ROOT / "docs" / "examples" / "zoplat-example" / "zoplat_example.py"

VOCABULARY = {"core", "space"}
SERVICES = {"guard", "hookspecs", "paths", "registry"}
"""Single modules that stand between the rooms: the hooks, the catalogue, its guard, and where files are kept."""
BELOW_TRAINING = VOCABULARY | SERVICES | {"tasks", "config", "evaluation"}
"""What a run needs. Rooms are named after what they hold: `zoplat.run`, `.compare` and `.plan` are functions."""
ENGINE: dict[str, set[str]] = {
    "core": {"space"},
    "space": {"core"},
    "guard": set(),
    "paths": {"core"},
    "hookspecs": {"core", "tasks"},
    "registry": {"core", "guard", "hookspecs", "tasks"},
    "tasks": VOCABULARY | SERVICES,
    "config": VOCABULARY | SERVICES | {"tasks"},
    "evaluation": VOCABULARY | SERVICES | {"tasks", "config"},
    "training": BELOW_TRAINING,
    "comparison": BELOW_TRAINING | {"training"},
    "report": BELOW_TRAINING | {"training", "comparison"},
    "bundle": BELOW_TRAINING | {"training"},
    "testing": VOCABULARY | SERVICES | {"tasks", "config", "training"},
    "planning": BELOW_TRAINING | {"training"},
    "errors": {"core"},
    "calls": BELOW_TRAINING | {"training", "comparison", "report", "planning", "testing"},
    "cli": BELOW_TRAINING | {"training", "comparison", "report", "bundle", "planning", "testing", "calls"},
}
"""Room of `zoplat` → the other rooms that it may import."""
DEVICES: dict[str, set[str]] = {
    "memory": set(),
    "text": set(),
    "kernels": {"memory"},
    "reference": {"kernels", "memory", "text"},
    "pytorch": {"kernels", "memory", "text"},
    "onnx": {"kernels", "memory", "text", "pytorch"},
    "served": {"kernels", "memory", "text", "pytorch"},
    "edge": {"kernels", "memory", "text", "onnx"},
    "optimizer": {"pytorch"},
}
"""Room of `zoplat_devices` → the other rooms there that it may import."""
DEVICES_MAY_USE = VOCABULARY | {"hookspecs", "paths"}
"""Rooms of `zoplat` that a device may import. `edge` is a command line of its own and may use what `cli` may."""
OPTIMIZER_MAY_USE = DEVICES_MAY_USE | {"registry", "config", "training"}
"""The optimizer of PyTorch makes steps as a run does, in somebody else's loop."""
DOOR = "zoplat.torch"
"""The one module of the engine that leads to a device, by names that are imported when they are used."""
TESTING_MAY_USE = "zoplat_devices.kernels"
"""Contract tests need numbers without a device: the reference noise, which is numpy."""

FRAMEWORKS = {"torch", "transformers", "peft", "tokenizers"}
ARRAYS = {"numpy", "scipy", "safetensors", "numba"}
TERMINAL = {"click", "rich"}
TRACKERS = {"tensorboard", "mlflow", "wandb", "trackio"}
"""Libraries that the plugins of `zoplat_plugins.trackers` import when a run is tracked."""
PROBES = {"pynvml"}
"""Libraries that the plugins of `zoplat_plugins.probes` import when they are opened."""
LONGEST = 350
"""Lines of a file of the engine or the devices; a longer one says at its head because of what."""
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
"""Public, in spite of the underscore."""
OF_FRAMEWORKS = {"_parameters", "_commit_hash", "_exit", "_no_split_modules", "_skip_keys_device_placement"}
"""Attributes of PyTorch's modules, of transformers' configurations and of `os` that have no public form."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return {**found, "zoplat_example": EXAMPLE}


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@cache
def imports(name: str, eager: bool = False) -> frozenset[str]:
    """Dotted names that a module imports anywhere; with `eager`, only those that importing it imports."""
    names: set[str] = set()
    for node in _executed(tree(name)) if eager else ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            base = str(node.module)
            names |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return frozenset(names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _executed(child)


def tops(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room_of(module: str) -> str:
    """The room of a module inside its package; empty for the package itself."""
    return [*module.split("."), ""][1]


def within(prefix: str) -> list[str]:
    return [name for name in MODULES if name == prefix or name.startswith(f"{prefix}.")]


ENGINE_MODULES = [n for n in within("zoplat") if n not in ("zoplat", "zoplat.__main__", DOOR)]
OPENED_LATER = ("zoplat.testing", "zoplat.cli", "zoplat.__main__")


def test_every_room_is_known() -> None:
    """A new room is a decision: it gets a line in the tables above and in CONTRIBUTING.md."""
    assert {room_of(name) for name in ENGINE_MODULES} == set(ENGINE)
    assert {room_of(name) for name in within("zoplat_devices")} - {""} == set(DEVICES)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [room for room in (*ENGINE, *DEVICES) if any((SOURCES[p] / room).is_dir() for p in SOURCES)]
    assert [room for room in rooms if f"`{room}`" not in page] == []


@pytest.mark.parametrize("name", ENGINE_MODULES)
def test_a_room_of_the_engine_imports_only_rooms_below_it(name: str) -> None:
    own = room_of(name)
    for imported in imports(name):
        package = imported.partition(".")[0]
        if package == "zoplat":
            allowed = ENGINE[own] | {own} | ({""} if own in ("cli", "bundle") else set())  # for the version
            assert room_of(imported) in allowed, f"{name} ({own}) imports {imported}"
        elif own == "testing" and imported.startswith(TESTING_MAY_USE):
            continue
        else:
            assert package not in ("zoplat_plugins", "zoplat_devices"), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in ENGINE_MODULES if room_of(name) in VOCABULARY])
def test_core_and_space_import_the_standard_library_and_each_other(name: str) -> None:
    for imported in imports(name):
        assert imported.startswith(("zoplat.core", "zoplat.space")) or (
            imported.partition(".")[0] in sys.stdlib_module_names
        ), f"{name} imports {imported}"


@pytest.mark.parametrize("name", ["zoplat", *ENGINE_MODULES])
def test_the_engine_knows_no_framework_no_plugin_and_no_device(name: str) -> None:
    forbidden = FRAMEWORKS | {"zoplat_plugins"}
    if room_of(name) != "cli":
        forbidden |= {"click"}
    if room_of(name) != "testing":
        forbidden |= {"zoplat_devices"}
    assert not tops(imports(name)) & forbidden, name


def test_the_door_to_the_optimizer_imports_nothing_by_itself() -> None:
    assert tops(imports(DOOR, eager=True)) <= {"importlib", "typing"}
    assert {name for name in MODULES if DOOR in imports(name)} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {i for i in imports(name) if i in MODULES and i != name} for name in MODULES}
    circles = [sorted(group) for group in components(graph) if len(group) > 1]
    assert not circles, "circles of imports:\n" + "\n".join(" ↔ ".join(circle) for circle in sorted(circles))


def test_components_finds_circles() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert sorted(map(sorted, components(graph))) == [["a", "b", "c"], ["d"], ["e"]]


def components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components, by Tarjan's algorithm: modules that reach each other by imports."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for neighbour in sorted(graph[node]):
            if neighbour not in order:
                visit(neighbour)
                lowest[node] = min(lowest[node], lowest[neighbour])
            elif neighbour in stack:
                lowest[node] = min(lowest[node], order[neighbour])
        if lowest[node] == order[node]:
            begin = stack.index(node)
            found.append(set(stack[begin:]))
            del stack[begin:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("zoplat.testing")])
def test_no_module_imports_arrays_or_frameworks_at_its_top(name: str) -> None:
    """So that `zoplat --help` is quick although the modules of plugins and devices are imported to read their hooks."""
    has_hooks = "def zoplat_devices()" in MODULES[name].read_text(encoding="utf-8")
    if has_hooks or not name.startswith("zoplat_devices"):
        assert not tops(imports(name, eager=True)) & (FRAMEWORKS | ARRAYS), name


def test_reading_the_hooks_of_a_device_imports_no_framework() -> None:
    """The same for whatever such a module imports at its top."""
    for name in MODULES:
        if "def zoplat_devices()" in MODULES[name].read_text(encoding="utf-8"):
            seen, ahead = set(), [name]
            while ahead:
                module = ahead.pop()
                if module not in seen and module in MODULES:
                    seen.add(module)
                    assert not tops(imports(module, eager=True)) & FRAMEWORKS, f"{name} imports {module}"
                    ahead += imports(module, eager=True)


def test_only_the_catalogue_and_the_hooks_know_pluggy() -> None:
    assert {name for name in MODULES if "pluggy" in tops(imports(name))} == {"zoplat.registry", "zoplat.hookspecs"}


@pytest.mark.parametrize("name", within("zoplat.cli"))
def test_commands_hold_no_algorithm(name: str) -> None:
    assert not tops(imports(name)) & (FRAMEWORKS | ARRAYS), name
    vocabulary = {f"zoplat.core.{word}" for word in ("direction", "oracle", "sampler", "rule", "estimate", "noise")}
    assert not imports(name) & vocabulary, name
    assert not {imported for imported in imports(name) if imported.startswith("zoplat.space")}, name


@pytest.mark.parametrize("name", within("zoplat.testing"))
def test_the_kit_needs_no_framework(name: str) -> None:
    assert not tops(imports(name)) & (FRAMEWORKS | TERMINAL | {"zoplat_plugins"}), name


@pytest.mark.parametrize("name", [*within("zoplat_plugins"), "zoplat_example"])
def test_a_plugin_imports_public_names_and_public_parts_of_other_plugins(name: str) -> None:
    own = TRACKERS if name.startswith("zoplat_plugins.trackers.") else set()
    own |= PROBES if name.startswith("zoplat_plugins.probes.") else set()
    assert tops(imports(name)) <= {"zoplat", "zoplat_plugins", *sys.stdlib_module_names, *own}, name
    assert not tops(imports(name, eager=True)) & (TRACKERS | PROBES), name
    assert not {imported for imported in imports(name) if imported.startswith("zoplat.")}, name
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module == "zoplat":
            assert {alias.name for alias in node.names} <= public_names(), name


@cache
def public_names() -> set[str]:
    """What `zoplat.__all__` lists."""
    [names] = [
        node.value
        for node in tree("zoplat").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return set(ast.literal_eval(names))


@pytest.mark.parametrize("name", within("zoplat_devices"))
def test_a_device_knows_no_algorithm_no_engine_and_no_command_line(name: str) -> None:
    own = room_of(name)
    is_program = own == "edge"
    assert not tops(imports(name)) & ({"zoplat_plugins"} | (set() if is_program else TERMINAL)), name
    for imported in imports(name):
        package, room = imported.partition(".")[0], room_of(imported)
        if package == "zoplat_devices":
            assert room in DEVICES.get(own, set()) | {own}, f"{name} imports {imported}"
        elif package == "zoplat":
            own_allowed = OPTIMIZER_MAY_USE if own == "optimizer" else DEVICES_MAY_USE
            allowed = ENGINE["cli"] | {"cli", ""} if is_program else own_allowed
            assert room in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", within("zoplat_devices.edge"))
def test_the_edge_runner_imports_no_framework_and_no_algorithm(name: str) -> None:
    assert not tops(imports(name)) & (FRAMEWORKS | {"zoplat_plugins", "rich"})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_a_private_name_of_another(name: str) -> None:
    private = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in SOURCES
        for alias in node.names
        if is_private(alias.name) or any(map(is_private, str(node.module).split(".")))
    }
    assert not private, f"{name} imports {sorted(private)}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_reads_or_writes_private_names_of_objects_of_another(name: str) -> None:
    """`self._x` and `cls._x`, and `other._x` where the module itself has a class with such an attribute."""
    own = private_names_of(tree(name)) | OF_FRAMEWORKS
    frameworks = framework_names(tree(name))
    found = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not _is_own(node.value):
            attribute, line = node.attr, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "delattr", "hasattr"):
            attribute, line = _spelled(node), node.lineno
        else:
            continue
        if is_private(attribute) and attribute not in own and ast.unparse(node).partition(".")[0] not in frameworks:
            found.append(f"{MODULES[name].relative_to(ROOT)}:{line}: {ast.unparse(node)}")
    assert not found, "\n".join(found)


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name not in NAMED_TUPLE


def _is_own(value: ast.expr) -> bool:
    return ast.unparse(value) in ("self", "cls", "super()")


def _spelled(call: ast.Call) -> str:
    """The attribute that a `getattr` names by a constant; empty for another call, and for one on self."""
    if len(call.args) < 2 or _is_own(call.args[0]) or not isinstance(call.args[1], ast.Constant):
        return ""
    return str(call.args[1].value)


def private_names_of(module: ast.Module) -> set[str]:
    """Private attributes and methods of the classes of a module, and functions of its own."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def framework_names(module: ast.Module) -> set[str]:
    """Names under which a module knows frameworks, whose private names are theirs to change and ours to watch."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] in FRAMEWORKS | ARRAYS
    }


FILES = [
    path
    for folder in (SOURCES["zoplat"], SOURCES["zoplat_devices"])
    for path in sorted(folder.rglob("*"))
    if path.suffix in (".py", ".c")
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_long_file_says_at_its_head_why_it_is_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > LONGEST:
        head = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else text.partition("*/")[0]
        assert "because" in (head or ""), (
            f"{path.relative_to(ROOT)} has {lines} lines. Give its second idea a file, or end its docstring with "
            "'In one file because …'."
        )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_and_what_they_offer_say_what_they_are_for(name: str) -> None:
    assert ast.get_docstring(tree(name)), name
    for node in tree(name).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if "hookimpl" in map(ast.unparse, node.decorator_list):  # its specification says it
                continue
            assert ast.get_docstring(node), f"{name}.{node.name}"

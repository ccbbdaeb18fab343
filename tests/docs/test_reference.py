"""Everything that can be found in the code is on its page of the reference, and the pages name nothing else.

What there is comes from the sources, by other means than those that make the pages.
"""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import click
import pytest

from docs.licences import OF_EXTRAS, extras, licence, needed
from docs.reference_pages import ANSWERS, EXIT, LIBRARIES, OURS, SET, THEIRS
from zoplat import hookspecs
from zoplat.cli import main
from zoplat.core import errors
from zoplat_devices.edge.runner import main as edge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
SOURCES = sorted(path for place in ("zoplat", "plugins", "devices") for path in (ROOT / place).rglob("*.py"))


@cache
def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, click.Command]]:
    """Both programs, and every command of them, with the name that is typed."""
    for program, group in (("zoplat", main), ("zoplat-edge", edge)):
        root = click.Context(group, info_name=program)
        yield program, group
        for name in group.list_commands(root):
            command = group.get_command(root, name)
            assert command
            yield f"{program} {name}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_options_and_arguments_on_the_page(name: str) -> None:
    _, _, section = page("commands").partition(f"\n## {name}\n")
    section = section.partition("\n## ")[0]
    assert section, "no heading"
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert not parameter.hidden, f"{parameter.name} is hidden"
            assert parameter.help, f"{parameter.opts[0]} has no help"
            assert all(re.search(rf"{flag}\b", section) for flag in parameter.opts), parameter.opts
        else:
            assert parameter.human_readable_name.upper() in section.upper()


HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "zoplat_spec")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_on_the_page_with_an_example_that_ships(hook: str) -> None:
    _, _, section = page("hooks").partition(f"\n## {hook}\n")
    section = section.partition("\n## ")[0]
    assert hookspecs.__dict__[hook].__doc__ in section
    found = re.search(rf"# ([\w.]+)\n@hookimpl\ndef {hook}\(\)", section)
    assert found
    assert hasattr(importlib.import_module(found[1]), hook)


def test_the_page_of_hooks_has_no_others() -> None:
    assert re.findall(r"^## (\w+)$", page("hooks"), re.MULTILINE) == HOOKS


DOORS = ("zoplat", "zoplat.torch", "zoplat.testing")


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_on_the_page_with_its_docstring(door: str) -> None:
    module = importlib.import_module(door)
    headings = re.findall(rf"^### {re.escape(door)}\.(\w+)$", page("python"), re.MULTILINE)
    assert sorted(headings) == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type):
            assert (value.__doc__ or "").strip().partition("\n")[0] in page("python")


def is_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def reads_environment(function: ast.expr) -> bool:
    """Whether a function is a method of os.environ, or os.getenv."""
    return isinstance(function, ast.Attribute) and (is_environment(function.value) or function.attr == "getenv")


def variables_in(path: Path) -> Iterator[str]:
    """The environment variables that a module reads or sets; names of constants are looked up."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Subscript) and is_environment(node.value):
            yield text_of(node.slice, path)
        elif isinstance(node, ast.Call) and reads_environment(node.func):
            yield text_of(node.args[0], path)
        elif isinstance(node, ast.Dict) and None in node.keys and any(map(is_environment, node.values)):
            yield from (text_of(key, path) for key in node.keys if key)
        elif isinstance(node, ast.GeneratorExp) and any(map(is_environment, ast.walk(node.elt))):
            yield from (
                text_of(one, path) for one in ast.walk(node.generators[0].iter) if isinstance(one, ast.Constant)
            )


def text_of(node: ast.expr, path: Path) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    module: object = module_of(path)
    for name in ast.unparse(node).split("."):
        module = getattr(module, name)
    return str(module)


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(".".join(parts[1:] if parts[0] in ("plugins", "devices") else parts))


def test_every_environment_variable_is_on_the_page_and_no_other() -> None:
    users = [path for path in SOURCES if "environ" in path.read_text(encoding="utf-8")]
    found = {name for path in users for name in variables_in(path)}
    assert len(found) > 10
    assert found == {*OURS, *THEIRS, *SET}
    listed = re.findall(r"^\| `(\w+)` \|", page("environment-variables"), re.MULTILINE)
    assert sorted(listed) == sorted([*OURS, *THEIRS, *SET, *LIBRARIES])


def statuses_in(path: Path) -> Iterator[int]:
    """The exit statuses that a module names as numbers or by a constant."""
    for node in ast.walk(tree(path)):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name in ("SystemExit", "sys.exit", "os._exit") or name.endswith("().exit"):
            yield from (int(text_of(one, path)) for one in node.args if isinstance(one, ast.Constant | ast.Name))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "exit_status":
            yield int(text_of(node.value, path))


def test_every_exit_status_is_on_the_page() -> None:
    found = {status for path in SOURCES for status in statuses_in(path)} | {0, click.UsageError.exit_code}
    assert found == {*EXIT}
    listed = re.findall(r"^\| (\d+) \|", page("exit-status"), re.MULTILINE)
    assert [int(status) for status in listed] == list(EXIT)
    assert (errors.ZoplatError.exit_status, errors.RunFailed.exit_status) == (2, 1)


def test_every_command_whose_exit_status_answers_says_so() -> None:
    """Those that end by a status of their own, in place of an error."""
    answering = set()
    for path in (ROOT / "zoplat" / "cli").glob("*.py"):
        if path.name != "__init__.py" and re.search(r"raise SystemExit|\.exit\(|status.*different", path.read_text()):
            answering.add(path.stem)
    assert answering == {*ANSWERS}


def test_licences_name_every_package_that_an_install_has() -> None:
    text = page("licences")
    direct = {
        re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in metadata.requires("zoplat") or [] if "extra" not in line
    }
    for name in {*needed(), *direct}:
        assert f"| {name} | {licence(name)} |" in text
    for path in (ROOT / "zoplat").rglob("data/*"):
        assert path.parent.relative_to(ROOT).as_posix() in text or "testing" in path.parts


def test_licences_name_every_package_of_an_extra_in_the_words_of_its_metadata() -> None:
    assert extras().keys() == OF_EXTRAS.keys()
    for name, written in OF_EXTRAS.items():
        assert f" | {written} |" in next(row for row in page("licences").splitlines() if row.startswith(f"| {name} |"))
        if name != "torchao" and any(metadata.distributions(name=name)):
            assert written == licence(name)


def test_the_version_of_the_hooks_is_on_the_page_of_stability() -> None:
    assert f"zoplat_api = {hookspecs.API}\n" in page("stability")
    assert f"It is {hookspecs.API}." in page("stability")


def test_the_citation_has_the_version_and_the_licence_of_the_project() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in project["authors"]]
    assert {"cff-version", "message", "title"} <= cited.keys()

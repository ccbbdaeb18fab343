"""zoplat check: its targets, its output and its exit status."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoplat.registry import catalogue
from zoplat.testing.check import CONTRACTS, in_words, properties

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "zoplat-example"
WRONG = ROOT / "tests" / "contracts" / "wrong"

SOUND = '''"""Uniform perturbations."""

from dataclasses import dataclass

from zoplat import Sampler, hookimpl


@dataclass(frozen=True)
class Uniform(Sampler):
    """Entries on [−√3, √3)."""

    def fill(self, out, tile, key, noise):
        out[:] = (2 * noise.uniform(tile.shape, key, tile) - 1) * 3**0.5


@hookimpl
def zoplat_samplers():
    return {"flat": Uniform()}
'''
TWO = SOUND.replace('{"flat": Uniform()}', '{"flat": Uniform(), "level": Uniform()}')


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("gaussian", "gaussian"),
        ("zoplat_plugins.uniform", "uniform"),
        (ROOT / "plugins/zoplat_plugins/sphere.py", "sphere"),
    ],
)
def test_a_name_a_module_and_a_file_of_a_package_are_found(zoplat: Any, target: Any, part: str) -> None:
    done = zoplat("check", target)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"sampler {part}: 12 properties hold, 4 do not apply\n"
    assert done.stderr == f"checking sampler {part} (1 of 1)\n"


def test_a_file_that_is_not_installed_is_checked_and_forgotten(zoplat: Any) -> None:
    Path("flat.py").write_text(SOUND)
    before = dict(catalogue().entries)
    done = zoplat("check", "flat.py")
    assert (done.exit_code, done.stdout) == (0, "sampler flat: 12 properties hold, 4 do not apply\n")
    assert catalogue().entries == before


def test_a_part_with_a_registered_name_can_be_checked(zoplat: Any) -> None:
    Path("again.py").write_text(SOUND.replace('"flat"', '"gaussian"'))
    assert zoplat("check", "again.py").stdout.startswith("sampler gaussian: 12 properties hold")


def test_a_folder_with_a_package_is_checked(zoplat: Any) -> None:
    Path("levels").mkdir()
    Path("levels", "__init__.py").write_text('"""Nothing here."""\n')
    Path("levels", "flat.py").write_text(SOUND.replace('"flat"', '"flat-in-levels"'))
    assert zoplat("check", "./levels").stdout.startswith("sampler flat-in-levels: 12 properties hold")


def test_a_folder_with_a_project_is_checked(zoplat: Any) -> None:
    Path("project", "src").mkdir(parents=True)
    Path("project", "pyproject.toml").write_text('[project.entry-points.zoplat]\nflat = "flat_of_project"\n')
    Path("project", "src", "flat_of_project.py").write_text(TWO)
    done = zoplat("check", "project")
    assert done.stdout.splitlines()[-1] == "2 parts: 24 properties hold, 8 do not apply"


def test_a_distribution_is_checked_by_its_name(zoplat: Any, distribution: Callable[..., Path]) -> None:
    distribution("zoplat-two", TWO)
    assert zoplat("check", "zoplat-two").stdout.splitlines()[-1].startswith("2 parts: ")
    assert zoplat("check", "Zoplat_Two", "--only", "level").stdout.startswith("sampler level: ")


def test_a_property_that_fails_is_named_with_its_reason(zoplat: Any) -> None:
    done = zoplat("check", WRONG / "same_noise.py")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "sampler same-noise: 11 properties hold, 4 do not apply, 1 fails",
        "  ✗ two blocks of one shape get different numbers",
        "    Two blocks of one shape get the same 20 numbers: the address lacks the tile.",
    ]


def test_json_is_one_object_with_every_property(zoplat: Any) -> None:
    done = zoplat("check", WRONG / "same_noise.py", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["held"], found["not_applicable"], found["failed"]) == (11, 4, 1)
    [part] = found["parts"]
    assert (part["kind"], part["name"], part["failed"], len(part["properties"])) == ("sampler", "same-noise", 1, 16)
    outcomes = {row["outcome"]: row["message"] for row in part["properties"]}
    assert "SameNoise has no density." in [row["message"] for row in part["properties"]]
    assert "20 numbers" in outcomes["failed"]
    assert outcomes["held"] == ""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("gausian", ("Unknown target 'gausian'. Did you mean 'gaussian'?",)),
        ("nowhere.py", ("There is no file or folder nowhere.py.",)),
        (
            "zoplat_plugins.presets",
            ("registers no estimator, sampler, step rule, device or task. It registers only a preset",),
        ),
        ("numpy", ("'numpy' registers no estimator, sampler, step rule, device or task.",)),
        ("broken.py", ("broken.py can't be imported: ModuleNotFoundError: No module named 'no_such'", "(line 3)")),
        ("torn.py", ("torn.py can't be imported: SyntaxError: ", "(line 1)")),
        ("empty", ("holds no plugin that can be found: no __init__.py, and no [project.entry-points.zoplat]",)),
        ("mistaken.py", ("The hooks of zoplat_checked_mistaken can't be asked: TypeError: the sampler 'flat' is no",)),
    ],
)
def test_a_target_that_cannot_be_loaded_is_explained_in_one_line(
    zoplat: Any, target: str, words: tuple[str, ...]
) -> None:
    Path("broken.py").write_text('"""Broken."""\n\nimport no_such\n')
    Path("torn.py").write_text("def (\n")
    Path("mistaken.py").write_text(SOUND.replace("Uniform()}", "Uniform}"))
    Path("empty").mkdir()
    message = zoplat.refused("check", target)
    for part in words:
        assert part in message
    assert len(message.splitlines()) == 1


def test_an_unknown_part_of_a_target_is_an_error(zoplat: Any) -> None:
    message = zoplat.refused("check", WRONG / "same_noise.py", "--only", "same-nois")
    assert "Unknown part 'same-nois'. Did you mean 'same-noise'?" in message


def test_a_distribution_that_cannot_be_imported_is_reported(zoplat: Any, distribution: Callable[..., Path]) -> None:
    distribution("zoplat-broken", "import no_such\n")
    assert "Plugin 'zoplat_broken' (zoplat-broken 1.0) could not be loaded" in zoplat.refused("check", "zoplat-broken")


def test_an_exception_in_a_plugin_is_reported_without_a_traceback(zoplat: Any) -> None:
    Path("falls.py").write_text(SOUND.replace("out[:] = (2", "out[:] = 1 / 0 * (2"))
    done = zoplat("check", "falls.py")
    assert done.exit_code == 1
    assert "It raised ZeroDivisionError: division by zero  (falls.py, line 13)" in done.stdout
    assert "Traceback" not in done.output


def test_pytest_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(SOUND)
    code = "import sys; sys.modules['pytest'] = None; from zoplat.cli import main; main(['check', 'flat.py', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == 0


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_property_is_explained(kind: str) -> None:
    page = " ".join((ROOT / "docs/how-to/check-a-plugin.md").read_text(encoding="utf-8").split())
    missing = [name for name in map(in_words, properties(kind)) if f"**{name}" not in page]
    assert not missing


@pytest.mark.slow
def test_the_example_holds(zoplat: Any) -> None:
    done = zoplat("check", EXAMPLE)
    assert done.exit_code == 0, done.output

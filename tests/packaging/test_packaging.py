"""The wheel and the example plugin in a clean environment, used as an outsider uses them: without torch."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "zoplat-example"
NEEDED = ("click", "numpy", "pluggy", "psutil", "rich", "safetensors", "tomli-w")
Call = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def checked(*command: object, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, EXAMPLE):
        checked(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment in which both wheels are installed, without torch."""
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = (programs / "python", "-m", "pip", "install", "--quiet")
    checked(*install, "-c", ROOT / "constraints.txt", *NEEDED)
    checked(*install, "--no-deps", *wheels)
    return programs


@pytest.fixture(scope="module")
def outsider(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs the installed `zoplat` in an empty folder."""
    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [programs / "zoplat", *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_wheel_holds_code_kernels_data_and_licence_and_nothing_else(wheels: list[Path]) -> None:
    [wheel] = [path for path in wheels if path.name.startswith("zoplat-")]
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "zoplat/cli/costs.json",
        "zoplat/comparison/published.toml",
        "zoplat/config/recipe.toml",
        "zoplat/py.typed",
        "zoplat/report/sort.js",
        "zoplat/report/style.css",
        "zoplat/tasks/data/sentiment.jsonl.gz",
        "zoplat/tasks/data/README.md",
        "zoplat/testing/estimators.py",
        "zoplat_devices/edge/edge-requirements.txt",
        "zoplat_devices/kernels/kernels.c",
        "zoplat_devices/py.typed",
        "zoplat_plugins/mezo.py",
        "zoplat_plugins/presets/mezo-paper.toml",
        "zoplat_plugins/py.typed",
        "zoplat_plugins/references.bib",
    } <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zoplat", "zoplat_devices", "zoplat_plugins"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_an_outsiders_method_runs_with_an_outsiders_sampler(outsider: Call) -> None:
    flags = ("--estimator", "forward-difference", "--sampler", "triangular", "--device", "reference", "--steps", 5)
    done = outsider("run", *flags, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["estimator"], summary["sampler"]) == ("forward-difference", "triangular")
    assert (summary["status"], summary["steps"], summary["forward_passes"]) == ("done", 5, 25)
    replayed = outsider("replay", summary["run_dir"], "--json")
    assert json.loads(replayed.stdout)["weights_digest"] == summary["weights_digest"]


def test_listings_name_the_distribution_of_the_plugin(outsider: Call) -> None:
    rows = {row["name"]: row for row in json.loads(outsider("list", "samplers", "--json").stdout)}
    assert (rows["triangular"]["distribution"], rows["triangular"]["version"]) == ("zoplat-example", "0.1.0")
    assert rows["gaussian"]["distribution"] == "zoplat"
    assert "(zoplat-example 0.1.0)" in outsider("list", "samplers").stdout
    shown = outsider("show", "forward-difference").stdout
    for words in ("estimator forward-difference  (zoplat-example 0.1.0)", "L(θ + εzᵢ) − L(θ)", "queries = 4"):
        assert words in shown


def test_an_outsider_checks_a_plugin_without_pytest(outsider: Call) -> None:
    done = outsider("check", "zoplat-example", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["failed"]) == (0, 0), done.stdout
    assert [part["name"] for part in found["parts"]] == ["forward-difference", "triangular"]


def test_without_torch_doctor_and_the_default_device_say_what_to_install(outsider: Call) -> None:
    found = json.loads(outsider("doctor", "--json").stdout)
    assert found["versions"]["torch"] is None
    assert found["failed"] == []
    assert found["devices"]["reference"] == "ready"
    assert "torch" in found["devices"]["cpu"]
    done = outsider("run", "--steps", 1)
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_outsiders_plugin_can_be_type_checked(programs: Path, tmp_path: Path) -> None:
    """With the annotations of the installed package, which `py.typed` offers."""
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    options = ("--cache-dir", tmp_path / "cache", "--python-executable", programs / "python")
    checked(sys.executable, "-m", "mypy", *options, EXAMPLE / "zoplat_example.py", cwd=tmp_path)


def test_the_example_keeps_the_contracts() -> None:
    checked(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", EXAMPLE)

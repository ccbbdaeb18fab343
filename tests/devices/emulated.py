"""A board made of files: Debian for 64-bit ARM and the board's packages in a folder, and qemu that runs its Python.

The processor is the Cortex-A76 of a Raspberry Pi 5. Nothing has to be mounted or registered: with `-L`, qemu looks for
files of the system in the folder first, for /proc/cpuinfo too, which ONNX Runtime reads. Making the folder takes
debootstrap as root, some minutes and 400 MB; it is used again for as long as the list of packages stays the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "devices" / "zoplat_devices" / "edge" / "edge-requirements.txt"
CONSTRAINTS = ROOT / "constraints.txt"
FOLDER = "ZOPLAT_TEST_BOARD"
"""The environment variable that names the folder."""
SUITE, PYTHON = "bookworm", "3.11"
PLATFORMS = [f"manylinux_2_{n}_aarch64" for n in (17, 27, 28, 31, 34, 35)] + ["manylinux2014_aarch64"]
"""Tags of wheels that run on `SUITE`, whose glibc is 2.36."""
PROCESSOR = "cortex-a76"
CPUINFO = """processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""What the system says of a core of a Raspberry Pi 5."""


class EmulatedBoard:
    """A board in a folder.

    Args:
        folder: with the system and the packages; made if they are not there.
        wheel: of zoplat.
        work: for the board's home and cache, and for zoplat's own files.
    """

    def __init__(self, folder: Path, wheel: Path, work: Path) -> None:
        self.emulator = needed("qemu-aarch64-static", "qemu-user-static")
        self.system, self.packages = system(folder), packages(folder)
        self.zoplat, self.home = work / "zoplat", work / "home"
        self.home.mkdir()
        install = ["--no-deps", "--no-index", "--target", str(self.zoplat), str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *install], check=True, capture_output=True)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Python of the board, with arguments; nothing of this machine's environment is handed on."""
        environment = {
            "PATH": str(self.home),  # neither a compiler nor anything else of this machine
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "QEMU_CPU": PROCESSOR,
            "PYTHONPATH": f"{self.zoplat}:{self.packages}",
            "PYTHONUNBUFFERED": "1",
            "ZOPLAT_CACHE": str(self.home / "cache"),
        }
        python = self.system / "usr" / "bin" / f"python{PYTHON}"
        command = [self.emulator, "-L", self.system, python, *arguments]
        return subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def edge(self, *arguments: object) -> subprocess.Popen[str]:
        """`zoplat-edge` on the board."""
        return self.start("-m", "zoplat_devices.edge.runner", *arguments)


def named_folder() -> Path:
    """The folder that `FOLDER` names; the test is skipped where it names none."""
    if not (named := os.environ.get(FOLDER)):
        pytest.skip(f"{FOLDER} names no folder for Debian on 64-bit ARM: 400 MB, made once from Debian's mirrors")
    folder = Path(named).resolve()
    assert not folder.is_relative_to(ROOT), f"{FOLDER}={named} is inside of the repository"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def needed(program: str, package: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    if not (path := shutil.which(program)):
        pytest.skip(f"{program} is not installed: apt-get install {package}")
    return path


def system(folder: Path) -> Path:
    """Debian with Python, unpacked and not configured: nothing of it is started but Python."""
    target = folder / SUITE
    if target.exists():
        return target
    debootstrap = needed("debootstrap", "debootstrap")
    if os.geteuid():
        pytest.skip(f"{target} is not there, and debootstrap makes it as root only")
    draft = folder / f"{SUITE}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    what = ["--arch=arm64", "--foreign", "--variant=minbase", "--include=python3", SUITE, str(draft)]
    done = subprocess.run([debootstrap, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        if re.search(r"Failed getting release file|Couldn't download", done.stdout + done.stderr):
            pytest.skip(f"no mirror of Debian here: {done.stdout.strip().splitlines()[-1]}")
        raise AssertionError(done.stdout + done.stderr)
    archives = draft / "var" / "cache" / "apt" / "archives"
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(draft)], check=True)
    shutil.rmtree(archives)
    (draft / "proc").mkdir(exist_ok=True)
    cores = os.cpu_count() or 1
    (draft / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(core) for core in range(cores)))
    draft.rename(target)
    return target


def packages(folder: Path) -> Path:
    """What `requirements.txt` of a bundle lists, as wheels of the package index for 64-bit ARM."""
    listed = sha256(REQUIREMENTS.read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()[:12]
    target = folder / f"packages-{listed}"
    if target.exists():
        return target
    draft = folder / "packages.draft"
    shutil.rmtree(draft, ignore_errors=True)
    of_board = ["--only-binary=:all:", "--python-version", PYTHON, *(f"--platform={name}" for name in PLATFORMS)]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", *of_board]
    what = ["-c", str(CONSTRAINTS), "-r", str(REQUIREMENTS), "--target", str(draft)]
    done = subprocess.run([*install, *what], capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Failed to establish a new connection" in done.stderr:
        pytest.skip(f"no wheels for 64-bit ARM here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    draft.rename(target)
    return target

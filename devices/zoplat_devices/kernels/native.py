"""The compiled kernels of `kernels.c`: built once by the compiler that is installed, cached on disk, loaded by ctypes.

A shared library costs a process some hundred kilobytes, a just-in-time compiler a hundred megabytes. The `ziglang`
package brings a C compiler as a wheel, so that no system compiler is needed; where there is neither that nor `cc`,
numpy makes the same bits, slowly. Bundles contain libraries that were compiled for boards.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np

from zoplat.core.noise import Stream
from zoplat.paths import cache_folder
from zoplat_devices.kernels.tables import TERMS, Jobs, Kernels, Sums
from zoplat_devices.kernels.traced import Program

FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")
BOARDS = {"x86_64": ["x86_64-linux-gnu", "-mcpu=x86_64_v3"], "aarch64": ["aarch64-linux-gnu"]}
"""Machine → zig's target and options for it."""
NEEDED = {"x86_64": {"avx2", "fma"}}
"""Machine → features that its processor must have to run the library compiled for `BOARDS`."""


class Call(ctypes.Structure):
    """`Call` of kernels.c: what the jobs of one call share."""

    _fields_ = [
        ("terms", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("origin", ctypes.c_int64),
        ("stride", ctypes.c_int32),
        ("factor", ctypes.c_float),
        ("is_stochastic", ctypes.c_int32),
    ]


class Rule(ctypes.Structure):
    """`Rule` of kernels.c: a traced rule on one block."""

    _fields_ = [
        ("update", ctypes.c_void_p),
        ("direction", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("step_count", ctypes.c_int32),
        ("array_count", ctypes.c_int32),
        ("written", ctypes.c_uint32),
    ]


class NativeKernels(Kernels):
    """Kernels for the processor; several threads share the jobs of one call.

    Args:
        library: compiled from kernels.c.
        threads: how many; one for each core that the process may use when 0.
    """

    runs_rules = True

    def __init__(self, library: ctypes.CDLL, threads: int = 0) -> None:
        self.library = library
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = threads or cores
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="zoplat")

    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        factor: float = 1.0,
        origin: int = 0,
        is_stochastic: bool = False,
        subset: slice | None = None,
    ) -> None:
        rows = jobs.rows if subset is None else jobs.rows[subset]
        self._in_parallel(self.library.zoplat_run, rows, _call(sums, factor, origin, is_stochastic))

    def rule(
        self, jobs: Jobs, update: Sums, factor: float, direction: Sums, program: Program, arrays: Sequence[int]
    ) -> None:
        before, entries = _call(update, factor), _call(direction)
        steps, addresses = program.table(), np.array(arrays, np.int64)
        written = sum(1 << register for register in program.written)
        tables = (ctypes.addressof(before), ctypes.addressof(entries), steps.ctypes.data, addresses.ctypes.data)
        self._in_parallel(self.library.zoplat_rule, jobs.rows, Rule(*tables, len(steps), len(addresses), written))

    def _in_parallel(self, function: Callable[..., None], rows: np.ndarray, shared: ctypes.Structure) -> None:
        """Call a kernel in several threads, which take jobs from one shared counter until none is left."""
        counter = ctypes.c_int32(0)
        arguments = (rows.ctypes.data, len(rows), ctypes.addressof(shared), ctypes.addressof(counter))
        extra = min(self._threads, len(rows)) - 1
        others = [self._pool.submit(function, *arguments) for _ in range(extra)]
        function(*arguments)
        for other in others:
            other.result()

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        self.library.zoplat_numbers(out, TERMS[law], *stream, first, count)


def _call(sums: Sums, factor: float = 1.0, origin: int = 0, is_stochastic: bool = False) -> Call:
    return Call(sums.terms.ctypes.data, sums.counts.ctypes.data, origin, sums.terms.shape[1], factor, is_stochastic)


def kernels(threads: int = 0) -> NativeKernels | None:
    """The kernels of `library`; None where there is none."""
    found = library()
    return NativeKernels(found, threads) if found else None


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built if they are not cached; None where no compiler is installed.

    The environment variable ZOPLAT_KERNELS names a library to load instead; "numpy" disables compiled kernels.
    """
    if named := os.environ.get("ZOPLAT_KERNELS"):
        return None if named == "numpy" else load_library(Path(named))
    for compiler in compilers():
        path = _cached_build(compiler)
        if path:
            return load_library(path)
    return None


def compilers() -> list[list[str]]:
    """Commands of the C compilers that are installed, preferred one first."""
    found = []
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    if shutil.which("cc"):
        found.append(["cc"])
    return found


def build_for_boards(folder: Path) -> None:
    """Cross-compile libraries for the machines of `BOARDS` to MACHINE.so in a new folder; nothing without zig."""
    if not importlib.util.find_spec("ziglang"):
        return
    plain = [flag for flag in FLAGS if not flag.startswith("-m")]
    folder.mkdir()
    for machine, target in BOARDS.items():
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", *target, "-nostdlib"]
        _compile([*compiler, *plain], folder / f"{machine}.so")


def built_for_this_machine(folder: Path) -> Path | None:
    """The library in a folder of `build_for_boards` that runs on this machine, if there is one."""
    machine = platform.machine()
    path = folder / f"{machine}.so"
    return path if path.exists() and NEEDED.get(machine, set()) <= {*_processor().split()} else None


def _cached_build(compiler: list[str]) -> Path | None:
    identity = " ".join([*compiler[1:], *FLAGS, platform.machine(), _processor()])
    name = f"kernels-{sha256(_source() + identity.encode()).hexdigest()[:16]}.so"
    target = cache_folder() / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    return target if _compile([*compiler, *FLAGS], target) else None


def _compile(compiler: list[str], target: Path) -> bool:
    """Compile kernels.c to a shared library; returns whether that succeeded."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        text, made = Path(folder, "kernels.c"), Path(folder, target.name)
        text.write_bytes(_source())
        command = [*compiler, str(text), "-o", str(made)]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        if done.returncode:
            return False
        made.replace(target)
    return True


def _source() -> bytes:
    return resources.files(__package__).joinpath("kernels.c").read_bytes()


def _processor() -> str:
    """Features of the processor, which identify its instruction set; as far as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def load_library(path: Path) -> ctypes.CDLL:
    """Load a library of kernels and declare the types of its functions."""
    library = ctypes.CDLL(str(path))
    pointer, i32, u32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64
    for function in (library.zoplat_run, library.zoplat_rule):
        function.argtypes, function.restype = [pointer, i32, pointer, pointer], None
    library.zoplat_numbers.argtypes = [pointer, i32, u32, u32, i64, i64]
    library.zoplat_numbers.restype = None
    return library

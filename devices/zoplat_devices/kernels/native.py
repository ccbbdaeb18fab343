"""The compiled kernels of `kernels.c`: built once by the compiler at hand, cached on disk, loaded by ctypes.

A shared library costs a process some hundred kilobytes where a compiler that lives in the process costs a
hundred megabytes. The `ziglang` package brings a C compiler as a wheel, so no machine needs its own; where
there is neither that nor `cc`, numpy makes the same bits, slowly. Bundles bring libraries for boards along.
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
"""Machine → what zig is told to compile for it."""
NEEDED = {"x86_64": {"avx2", "fma"}}
"""Machine → what its processor must have for that."""


class Call(ctypes.Structure):
    """`Call` of kernels.c."""

    _fields_ = [
        ("terms", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("base", ctypes.c_int64),
        ("most", ctypes.c_int32),
        ("keep", ctypes.c_float),
        ("is_stochastic", ctypes.c_int32),
    ]


class Rule(ctypes.Structure):
    """`Rule` of kernels.c."""

    _fields_ = [
        ("moves", ctypes.c_void_p),
        ("direction", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("held", ctypes.c_int32),
        ("written", ctypes.c_uint32),
    ]


class NativeKernels(Kernels):
    """Those of the processor; several threads share the jobs of one call.

    Args:
        library: of the kernels.
        threads: how many; as many as the process has cores when 0.
    """

    rules = True

    def __init__(self, library: ctypes.CDLL, threads: int = 0) -> None:
        self.library = library
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = threads or cores
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="zoplat")

    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        keep: float = 1.0,
        base: int = 0,
        is_stochastic: bool = False,
        which: slice | None = None,
    ) -> None:
        rows = jobs.rows if which is None else jobs.rows[which]
        self._share(self.library.zoplat_run, rows, _call(sums, keep, base, is_stochastic))

    def rule(
        self, jobs: Jobs, moves: Sums, keep: float, direction: Sums, program: Program, arrays: Sequence[int]
    ) -> None:
        before, entries = _call(moves, keep), _call(direction)
        steps, held = program.table(), np.array(arrays, np.int64)
        written = sum(1 << register for register in program.written)
        places = (ctypes.addressof(before), ctypes.addressof(entries), steps.ctypes.data, held.ctypes.data)
        self._share(self.library.zoplat_rule, jobs.rows, Rule(*places, len(steps), len(held), written))

    def _share(self, function: Callable[..., None], rows: np.ndarray, shared: ctypes.Structure) -> None:
        """Jobs done by several threads."""
        taken = ctypes.c_int32(0)
        arguments = (rows.ctypes.data, len(rows), ctypes.addressof(shared), ctypes.addressof(taken))
        helpers = min(self._threads, len(rows)) - 1
        others = [self._pool.submit(function, *arguments) for _ in range(helpers)]
        function(*arguments)
        for other in others:
            other.result()

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        self.library.zoplat_numbers(out, TERMS[law], *stream, first, count)


def _call(sums: Sums, keep: float = 1.0, base: int = 0, is_stochastic: bool = False) -> Call:
    return Call(sums.terms.ctypes.data, sums.counts.ctypes.data, base, sums.terms.shape[1], keep, is_stochastic)


def kernels(threads: int = 0) -> NativeKernels | None:
    """Those of `library`, or None likewise."""
    found = library()
    return NativeKernels(found, threads) if found else None


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, built if need be; None where no compiler is at hand.

    ZOPLAT_KERNELS names a library that was built before, or with "numpy" asks for none.
    """
    if told := os.environ.get("ZOPLAT_KERNELS"):
        return None if told == "numpy" else opened(Path(told))
    for compiler in compilers():
        path = _built(compiler)
        if path:
            return opened(path)
    return None


def compilers() -> list[list[str]]:
    """Commands that compile C here, best first."""
    found = []
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    if shutil.which("cc"):
        found.append(["cc"])
    return found


def for_boards(folder: Path) -> None:
    """Write libraries for other machines as MACHINE.so, where zig is installed."""
    if not importlib.util.find_spec("ziglang"):
        return
    plain = [flag for flag in FLAGS if not flag.startswith("-m")]
    folder.mkdir()
    for machine, target in BOARDS.items():
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", *target, "-nostdlib"]
        _compiled([*compiler, *plain], folder / f"{machine}.so")


def for_this_machine(folder: Path) -> Path | None:
    """The library that `for_boards` wrote for a machine like this one, if it did."""
    machine = platform.machine()
    path = folder / f"{machine}.so"
    return path if path.exists() and NEEDED.get(machine, set()) <= {*_processor().split()} else None


def _built(compiler: list[str]) -> Path | None:
    identity = " ".join([*compiler[1:], *FLAGS, platform.machine(), _processor()])
    name = f"kernels-{sha256(_source() + identity.encode()).hexdigest()[:16]}.so"
    target = cache_folder() / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    return target if _compiled([*compiler, *FLAGS], target) else None


def _compiled(compiler: list[str], target: Path) -> bool:
    """Whether a library could be made."""
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
    """What tells one processor's instruction set from another's, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def opened(path: Path) -> ctypes.CDLL:
    """A library of kernels, with the types of its functions."""
    library = ctypes.CDLL(str(path))
    pointer, i32, u32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64
    for function in (library.zoplat_run, library.zoplat_rule):
        function.argtypes, function.restype = [pointer, i32, pointer, pointer], None
    library.zoplat_numbers.argtypes = [pointer, i32, u32, u32, i64, i64]
    library.zoplat_numbers.restype = None
    return library

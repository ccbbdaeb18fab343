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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np

from zoplat.core.errors import ZoplatError
from zoplat.core.noise import Stream
from zoplat.paths import in_cache, is_private, private_folder, replace_text
from zoplat_devices.kernels.noise import LAWS
from zoplat_devices.kernels.tables import DTYPES, JOB, TERMS, Jobs, Kernels, Sums, term
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
    """`Rule` of kernels.c: a traced rule."""

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

    moves_codes = True
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
        self,
        jobs: Jobs,
        update: Sums,
        factor: float,
        direction: Sums,
        program: Program,
        arrays: np.ndarray,
        is_stochastic: bool = False,
    ) -> None:
        before, entries = _call(update, factor, is_stochastic=is_stochastic), _call(direction)
        steps, addresses = program.table(), np.ascontiguousarray(arrays, np.int64)
        written = sum(1 << register for register in program.written)
        tables = (ctypes.addressof(before), ctypes.addressof(entries), steps.ctypes.data, addresses.ctypes.data)
        shared = Rule(*tables, len(steps), addresses.shape[1], written)
        self._in_parallel(self.library.zoplat_rule, jobs.rows, shared)

    def _in_parallel(self, function: Callable[..., None], rows: np.ndarray, shared: ctypes.Structure) -> None:
        """Call a kernel in several threads, which take jobs from one shared counter until none is left.

        An interrupt is raised when all of them are done, since they write to arrays that nobody would keep.
        """
        counter = ctypes.c_int32(0)
        arguments = (rows.ctypes.data, len(rows), ctypes.addressof(shared), ctypes.addressof(counter))
        others: list[Future[None]] = []
        try:
            for _ in range(min(self._threads, len(rows)) - 1):
                others.append(self._pool.submit(function, *arguments))
            function(*arguments)
        finally:
            _finish(others)

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        self.library.zoplat_numbers(out, TERMS[law], *stream, first, count)


def _finish(others: Sequence[Future[None]]) -> None:
    """Wait for other threads, whatever comes; what came is raised then."""
    try:
        wait(others)
    except BaseException:
        _finish(others)
        raise


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

    Raises:
        ZoplatError: the library that ZOPLAT_KERNELS names can't be loaded.
    """
    if named := os.environ.get("ZOPLAT_KERNELS"):
        return None if named == "numpy" else load_library(Path(named))
    for compiler in compilers():
        try:
            if found := _built(compiler):
                return found
        except (OSError, ZoplatError):  # no room for it, or the folder forbids libraries: numpy makes the same bits
            continue
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


def _built(compiler: list[str]) -> ctypes.CDLL | None:
    """The kernels by one compiler, from the cache or made now; None if it can't compile them.

    A library from the cache is code that runs as this user, so it is loaded only from a place that nobody else can
    write, with the digest beside it; any other is built anew.
    """
    identity = " ".join([*compiler[1:], *FLAGS, platform.machine(), _processor()])
    name = f"kernels-{sha256(_source() + identity.encode()).hexdigest()[:16]}.so"
    kept = in_cache("kernels", name)
    if _is_sound(kept):
        try:
            return load_library(kept)
        except ZoplatError:  # numbers that are not those of the definition, say of another processor
            pass
    target = private_folder("kernels") / name
    if not _compile([*compiler, *FLAGS], target):
        return None
    target.chmod(0o700)
    replace_text(_beside(target), sha256(target.read_bytes()).hexdigest())
    return load_library(target)


def _is_sound(library: Path) -> bool:
    """Whether a library is as it was built, and could not have been replaced by another user."""
    try:
        if not all(is_private(path) for path in (library.parent, library)):
            return False
        return _beside(library).read_text(encoding="ascii") == sha256(library.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return False


def _beside(library: Path) -> Path:
    """The file with the digest of a library."""
    return library.with_suffix(".sha256")


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
        with made.open("rb") as file:  # or a power cut could leave the name without the bytes
            os.fsync(file.fileno())
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
    """Load a library of kernels, declare the types of its functions, and try it.

    Raises:
        ZoplatError: it is no such library, or its numbers are not those of the definition.
    """
    try:
        library = _declared(ctypes.CDLL(str(path)))
    except (OSError, AttributeError, ValueError) as problem:
        raise ZoplatError(
            f"The kernels in {path} can't be loaded: {problem}. If ZOPLAT_KERNELS names them, unset it; "
            "ZOPLAT_KERNELS=numpy does without."
        ) from None
    if not is_right(library):
        raise ZoplatError(
            f"The kernels in {path} don't compute what zoplat defines, so they are not used. If ZOPLAT_KERNELS names "
            "them, unset it; ZOPLAT_KERNELS=numpy does without."
        )
    return library


def is_right(library: ctypes.CDLL) -> bool:
    """A trial: the numbers of every law, and a sum that jobs add to weights, bit for bit as the definition has them."""
    first, count, keys = 300, 600, (0x9E3779B9, 0x7F4A7C15)
    for law, definition in LAWS.items():
        made, expected = np.full(count, np.nan, np.float32), definition(keys, first, count)
        library.zoplat_numbers(made.ctypes.data, TERMS[law], *keys, first, count)
        if made.tobytes() != expected.astype(np.float32).tobytes():
            return False
    weights = np.arange(count, dtype=np.float32)
    sums, jobs = Sums(1, 1), Jobs(np.zeros(2, JOB))  # two: another version may have another layout
    sums.add([0], term("sign", [keys]), True, 0.5)
    jobs.rows["source"] = jobs.rows["target"] = weights.ctypes.data
    jobs.rows["dtype"] = DTYPES["float32"]
    jobs.rows["start"], jobs.rows["stop"] = (0, 512), (512, count)
    NativeKernels(library, 1).run(jobs, sums, 2.0)
    expected = 2 * np.arange(count, dtype=np.float32) + np.float32(0.5) * LAWS["sign"](keys, 0, count)
    return bool(weights.tobytes() == expected.tobytes())


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, i32, u32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64
    for function in (library.zoplat_run, library.zoplat_rule):
        function.argtypes, function.restype = [pointer, i32, pointer, pointer], None
    library.zoplat_numbers.argtypes = [pointer, i32, u32, u32, i64, i64]
    library.zoplat_numbers.restype = None
    return library

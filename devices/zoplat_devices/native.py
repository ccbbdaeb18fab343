"""The compiled kernels of `kernels.c`: built once by the compiler at hand, cached on disk, loaded by ctypes.

A shared library costs a process some hundred kilobytes where a compiler that lives in the process costs a
hundred megabytes. The `ziglang` package brings a C compiler as a wheel, so no machine needs its own; where
there is neither that nor `cc`, numpy makes the same bits, slowly.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np

from zoplat.paths import cache_folder

FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")


TERM = np.dtype(
    [
        ("kind", np.int32),
        ("rank", np.int32),
        ("key0", np.uint32),
        ("key1", np.uint32),
        ("coefficient", np.float32),
        ("columns", np.int32),
        ("u", np.intp),
        ("v", np.intp),
        ("scale", np.intp),
        ("by_root", np.int64),
    ]
)
"""`Term` of kernels.c."""

JOB = np.dtype(
    [
        ("source", np.intp),
        ("target", np.intp),
        ("start", np.int64),
        ("stop", np.int64),
        ("terms", np.intp),
        ("count", np.int32),
        ("dtype", np.int32),
        ("keep", np.float32),
        ("by_chance", np.int32),
    ]
)
"""`Job` of kernels.c."""

KINDS = {"normal": 0, "sign": 1, "uniform": 2, "low-rank": 3, "values": 4, "coarse": 5}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
FROM_FLOAT32 = {"bfloat16": 3, "float16": 4}
SUM = 5


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, built if need be; None where no compiler is at hand or ZOPLAT_KERNELS=numpy asks for none."""
    if os.environ.get("ZOPLAT_KERNELS") == "numpy":
        return None
    for compiler in compilers():
        path = _built(compiler)
        if path:
            return _declared(ctypes.CDLL(str(path)))
    return None


def compilers() -> list[list[str]]:
    """Commands that compile C here, best first."""
    found = []
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    if shutil.which("cc"):
        found.append(["cc"])
    return found


def _built(compiler: list[str]) -> Path | None:
    source = resources.files(__package__).joinpath("kernels.c").read_bytes()
    identity = " ".join([*compiler[1:], *FLAGS, platform.machine(), _processor()])
    name = f"kernels-{sha256(source + identity.encode()).hexdigest()[:16]}.so"
    target = cache_folder() / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        text, made = Path(folder, "kernels.c"), Path(folder, name)
        text.write_bytes(source)
        command = [*compiler, *FLAGS, str(text), "-o", str(made)]
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        if done.returncode:
            return None
        made.replace(target)
    return target


def _processor() -> str:
    """What tells one processor's instruction set from another's, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, i32, u32, i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64
    library.zoplat_run.argtypes = [pointer, i32, pointer]
    library.zoplat_run.restype = None
    library.zoplat_numbers.argtypes = [pointer, i32, u32, u32, i64, i64]
    library.zoplat_numbers.restype = None
    return library

"""What an exception means to the user: a mistake or a full disk is one message, anything else is a bug with a file.

This is the one place that turns exceptions into messages for the terminal. Errors that know more, such as the line of a
file, are raised as `ZoplatError` where they are found.
"""

from __future__ import annotations

import errno
import platform
import tempfile
import time
import traceback
from pathlib import Path

from zoplat import __version__
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.paths import cache_folder, named_cache

OF_THE_SYSTEM = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "EMFILE", "ENFILE"),
        *("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EEXIST", "ENOTEMPTY", "EBUSY", "ESTALE"),
    )
    if hasattr(errno, name)
}
"""Errors of files that a run can meet: a full disk, no permission, a folder that vanished."""


def explained(problem: Exception) -> ZoplatError | None:
    """The message for an exception that a user or the machine can cause; None for a bug."""
    if isinstance(problem, ZoplatError):
        return problem
    if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
        return ZoplatError(f"{str(problem.filename)[:60]}…: the name is too long for a file. Use a shorter one.")
    if isinstance(problem, OSError) and problem.errno in OF_THE_SYSTEM and (problem.filename or problem.filename2):
        hint = " Make room and go on." if problem.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)) else ""
        return RunFailed(f"{problem.filename or problem.filename2}: {problem.strerror}.{hint}")
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return RunFailed(f"{problem.strerror}. Make room and go on.")
    if isinstance(problem, UnicodeEncodeError) and "surrogates" in problem.reason:
        near = problem.object[max(0, problem.start - 20) : problem.end + 20]
        return ZoplatError(f"Half of a surrogate pair or a byte that is no UTF-8 in {near!r}. Remove it.")
    if isinstance(problem, ValueError) and str(problem) in ("embedded null byte", "embedded null character"):
        return ZoplatError("A name of a file has a zero byte in it. Remove it.")
    if isinstance(problem, MemoryError):
        return RunFailed("The memory of this machine was not enough. Use a smaller model, or a smaller --batch-size.")
    return None


def reported(problem: BaseException) -> str:
    """Two lines about a bug: what it was, and the file with its traceback."""
    said = f"{type(problem).__name__}: {problem}".partition("\n")[0][:300]
    try:
        where = f"The traceback is in {_kept(problem)}; please send it along"
    except OSError:
        where = "Its traceback could not be kept"
    return f"an unexpected {said}\nThis is a bug in zoplat or in a plugin. {where}. `zoplat --debug …` shows it here."


def _kept(problem: BaseException) -> Path:
    """A new file with the traceback: in the cache, or in the folder for temporary files where there is no cache."""
    named = named_cache()
    folder = named / "errors" if named and cache_folder() == named else Path(tempfile.gettempdir())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    began = time.strftime("zoplat-error-%Y%m%d-%H%M%S-")
    text = "".join(traceback.format_exception(problem))
    with tempfile.NamedTemporaryFile(
        "w", prefix=began, suffix=".txt", dir=folder, delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(f"zoplat {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n{text}")
    return Path(file.name)

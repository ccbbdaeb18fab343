"""Files with parts, as the functions take them in place of `--plugin`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

Files: TypeAlias = str | Path | Sequence[str | Path]
"""One Python file, or several."""


def registered(files: Files) -> tuple[Path, ...]:
    """Register the parts of some files; returns their whole paths.

    Raises:
        ZoplatError: there is no such file, it can't be imported, or a name in it is taken.
    """
    each = [files] if isinstance(files, str | Path) else files
    paths = tuple(Path(file).absolute() for file in each)
    if paths:
        from zoplat.testing.target import register  # and with it all contracts

        for path in paths:
            register(path)
    return paths

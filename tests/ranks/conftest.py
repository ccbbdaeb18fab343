"""Command lines of runs of a small model, for several processes that torchrun starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def command(small_model: Callable[..., Path], rows: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """A command line of `zoplat run` on a model of some kilobytes."""
    model, data = small_model(), rows(tmp_path / "rows")

    def make(out: str, *flags: str) -> list[str]:
        fixed: list[Any] = ["--model", model, "--task", "sentiment", "--data", data, "--dtype", "float32"]
        fixed += ["--device", "cpu", "--batch-size", 4, "--lr", "1e-3", "--out", out, "--quiet"]
        return ["run", *map(str, fixed), *flags]

    return make

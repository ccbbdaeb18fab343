"""The files of a bundle that ONNX Runtime needs on a board: a graph, compiled kernels and a list of packages."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from zoplat_devices.kernels import native
from zoplat_devices.onnx.kept_graph import notice

GRAPH, KERNELS, REQUIREMENTS = "graph", "kernels", "requirements.txt"
"""Names in a bundle: two folders, and a file for `pip install -r`."""


def write(graph: Path, starts: set[str], bundle: Path) -> None:
    """Write them into a bundle.

    Args:
        graph: folder of the graph.
        starts: names of those of its files with initial values that are copied; all other files are.
        bundle: folder that has none of these yet.
    """
    (bundle / GRAPH).mkdir()
    for path in graph.iterdir():
        if not path.name.startswith("start") or path.name in starts:
            shutil.copyfile(path, bundle / GRAPH / path.name)
    text = resources.files("zoplat_devices.edge").joinpath("edge-requirements.txt").read_bytes()
    (bundle / REQUIREMENTS).write_bytes(text)
    native.build_for_boards(bundle / KERNELS)
    if not (bundle / KERNELS).exists():
        notice(
            "No kernels are in this bundle, for ziglang, which compiles them, is not installed: "
            "pip install 'zoplat[kernels]', and pack again. Without them a board makes the same bits with numpy, "
            "slower."
        )

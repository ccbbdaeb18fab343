"""Graphs in the cache: found again by what they were made of, exported where there is none yet."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat.paths import cache_folder
from zoplat_devices.onnx.versions import ENGINES, MAKERS, installed

FORMAT = 4
"""Version of the folder's layout, part of the cache key: with another one every graph is exported again."""


@dataclass(frozen=True)
class KeptGraph:
    """A graph on disk.

    Attributes:
        folder: of the graph; its files are listed in graph.py.
        start: name of the file in it with the initial values of the trained weights.
    """

    folder: Path
    start: str


def kept_graph(device: Device, spec: ModelSpec) -> KeptGraph:
    """The graph of a model, exported to the cache if it is not there.

    Raises:
        ZoplatError: the model can't be found or exported.
    """
    from zoplat_devices.pytorch.sources import DEFAULT, located

    model = spec.model or DEFAULT
    _, identity = located(model, notice)
    versions = installed(MAKERS)
    folder, start = cache_folder() / "onnx" / cache_key(spec, identity, versions), start_name(spec)
    if not folder.exists():
        _check_makers(model)
        from zoplat_devices.onnx.export import export

        notice(f"making an ONNX graph of {model}, which takes minutes, once; it is kept in {folder}")
        export(device, spec, folder, start, identity, versions, notice)
    elif not (folder / start).exists():
        from zoplat_devices.onnx.export import Source

        Source(device, spec, notice).write_start(folder / start)
    return KeptGraph(folder, start)


def _check_makers(model: str) -> None:
    """Raise ZoplatError where a package is missing that makes graphs; they are found out late otherwise."""
    if absent := [name for name in MAKERS if importlib.util.find_spec(name) is None]:
        raise ZoplatError(
            f"To make an ONNX graph of {model}, PyTorch's exporter needs {' and '.join(absent)}, not installed here: "
            "pip install 'zoplat[onnx]'. Only opening a graph that was made, or a bundle, goes without."
        )


def cache_key(spec: ModelSpec, identity: str, versions: dict[str, str]) -> str:
    """Name of a graph's folder, by all that it depends on.

    Args:
        spec: what of the model is trained, its head and its base.
        identity: identifies the weights of the model.
        versions: of the packages that make a graph; a quantised base depends on the engine's version too.
    """
    key = [FORMAT, identity, asdict(spec.tune), spec.head, spec.base, versions]
    key += [next(iter(installed(ENGINES).values()), None)] if spec.base != "plain" else []
    return sha256(json.dumps(key).encode()).hexdigest()[:24]


def start_name(spec: ModelSpec) -> str:
    """Name of the file with the initial values of the trained weights; those of adapters depend on the seed."""
    return f"start-{spec.seed}.safetensors" if spec.tune.is_adapter else "start.safetensors"


def notice(text: str) -> None:
    """Tell the user what takes so long."""
    print(text, file=sys.stderr)

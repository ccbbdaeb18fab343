"""Versions of the packages that a graph is made by and run by."""

from __future__ import annotations

from importlib import metadata

MAKERS = ("torch", "transformers", "peft", "onnx", "onnxscript")
"""Packages that take part in making a graph; another version of one may make another graph."""
ENGINES = ("onnxruntime", "onnxruntime-gpu")
"""Packages that run a graph; at most one of them can be installed."""


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Name → version, of those packages that are installed."""
    return {name: version for name in names if (version := version_of(name))}


def version_of(name: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

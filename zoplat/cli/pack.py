"""zoplat pack: a bundle, with which a board makes the run."""

from pathlib import Path
from typing import Any

import click

from zoplat.cli.options import BUDGET, OUTPUT, PARTS, SETTINGS, WORK, Sectioned, as_settings, echo_json, flags

DEVICE = "onnx"
"""The device that writes the bundle unless --device names another."""


@click.command(cls=Sectioned)
@flags(PARTS, WORK, BUDGET, SETTINGS)
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder for the bundle.")
@OUTPUT
def pack(to: Path, as_json: bool, **given: Any) -> None:
    """Write a bundle to train on a board without torch: graph, weights, rows, settings and checksums.

    The flags are those of `zoplat run`; the device is onnx. `zoplat-edge run BUNDLE` makes the run on the board.
    """
    from zoplat.bundle.pack import pack as write_bundle
    from zoplat.config.layers import resolve

    bundle = write_bundle(resolve({**as_settings(given), "device": given["device"] or DEVICE}), to)
    facts = bundle.manifest["facts"]
    if as_json:
        echo_json({"status": "done", "to": str(to), "bytes": bundle.bytes, **facts})
        return
    click.echo(f"{facts['model']}, {facts['tune']}, {facts['estimator']} on {facts['task']}")
    for name, size in _folders(bundle.manifest["files"]).items():
        click.echo(f"  {name:<20} {size / 2**20:8.2f} MiB")
    click.echo(
        f"{to}: {bundle.bytes / 2**20:.1f} MiB. Copy it to the board, and zoplat's wheel beside it; there\n"
        f"  pip install --no-deps -r {to.name}/requirements.txt zoplat-*.whl\n"
        f"  zoplat-edge run {to.name}"
    )


def _folders(files: dict[str, Any]) -> dict[str, int]:
    """Bytes of each folder of a bundle, and of each file outside of them."""
    sizes: dict[str, int] = {}
    for path, known in files.items():
        name = path.split("/")[0] + ("/" if "/" in path else "")
        sizes[name] = sizes.get(name, 0) + known["bytes"]
    return sizes

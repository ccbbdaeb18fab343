"""A look at a checkpoint before transformers reads it: nothing in it runs code, hangs, or asks for endless memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError, is_out_of_memory
from zoplat.core.permissions import REMOTE_CODE, is_granted

COUNTS = re.compile(r"(layers?|experts|blocks|labels)$")
"""Names of settings by which transformers makes so many Python objects."""
MOST = 10_000
GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value in a GGUF file → its bytes."""
GGUF_TEXT, GGUF_LIST = 8, 9
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Settings that may name a repository with compiled kernels."""


def trust() -> dict[str, Any]:
    """The argument of `from_pretrained` that lets a checkpoint's own Python run, or not; it never asks."""
    return {"trust_remote_code": is_granted(REMOTE_CODE)}


def screen(source: str, name: str) -> None:
    """Refuse a folder whose files are none or whose configuration can't be meant; a hub id is left to transformers.

    Args:
        source: a folder or a hub id.
        name: of the model, as the user gave it.

    Raises:
        ZoplatError: what was found in which file.
    """
    os.environ["USE_HUB_KERNELS"] = "NO"  # read when transformers is imported
    folder = Path(source)
    if not folder.is_dir():
        return
    for path in (*folder.glob("*.json"), *folder.glob("*.safetensors")):
        if not path.is_file():
            raise ZoplatError(f"--model {name}: {path.name} is not a file.")
    for path in folder.glob("*.safetensors.index.json"):
        weights = _read(path).get("weight_map")
        for file in weights.values() if isinstance(weights, dict) else ():
            if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
                raise ZoplatError(f"--model {name}: {path.name} names {file!r}, which is no file beside it.")
    limit = _read(folder / "tokenizer_config.json").get("model_max_length")
    if limit is not None and not (isinstance(limit, int | float) and limit > 0):
        raise ZoplatError(
            f"--model {name}: tokenizer_config.json has model_max_length {str(limit)[:80]!r}, which is no number of "
            "tokens. Correct it, or remove it."
        )
    for key, value in _settings(_read(folder / "config.json")):
        if key in KERNELS and isinstance(value, str) and "/" in value:
            raise ZoplatError(
                f"--model {name}: config.json wants the kernels of {value!r}, which are compiled code from a hub; "
                f"zoplat doesn't load them. Remove {key} from it."
            )
        if COUNTS.search(key):
            check_count(name, key, value)


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Raise whatever transformers raises for a model that it can't load as a ZoplatError.

    Damaged files make it raise nearly anything, of struct or of attributes that are not there. Where memory was not
    enough, that goes through.
    """
    try:
        yield
    except ZoplatError:
        raise
    except Exception as problem:
        if is_out_of_memory(problem):
            raise
        first = str(problem).strip().partition("\n")[0]
        if "trust_remote_code" in str(problem) or "custom code" in first:
            raise ZoplatError(
                f"--model {name}: the checkpoint comes with Python of its own, which zoplat does not run. Use another "
                "checkpoint; or, if you trust its authors with everything that you may do here, --trust-remote-code."
            ) from problem
        first = first if isinstance(problem, OSError | ValueError) and first else f"{type(problem).__name__}: {first}"
        raise ZoplatError(f"--model {name}: transformers could not load it: {first[:500]}") from problem


def check_count(name: str, key: str, value: Any) -> None:
    """Raise ZoplatError for a number of layers or the like that no model has."""
    if isinstance(value, int) and value > MOST:
        raise ZoplatError(f"--model {name}: {key} is {value}, more than the {MOST} that zoplat takes for a model's.")


def check_gguf(path: Path) -> None:
    """Raise ZoplatError for a GGUF file whose values don't fit into it, or with more layers than a model has."""
    try:
        from gguf import GGUFReader
    except ImportError:  # transformers says what to install
        return
    _check_values(path)
    for field in GGUFReader(path).fields.values():
        if field.name.endswith((".block_count", ".expert_count")):
            check_count(str(path), field.name, int(field.contents()))


def _check_values(path: Path) -> None:
    """Raise ZoplatError where the values of a GGUF file have no known type, or announce more than the file holds.

    The library that reads them believes what they announce, and can be busy for hours with lists within lists.
    """
    end = path.stat().st_size
    with path.open("rb") as file:

        def skip(size: int) -> None:
            if size > end - file.tell():
                raise ZoplatError(f"--model {path}: its values announce more than the file holds. Fetch it again.")
            file.seek(size, os.SEEK_CUR)

        def number(size: int) -> int:
            skip(size)
            file.seek(-size, os.SEEK_CUR)
            return int.from_bytes(file.read(size), "little")

        if file.read(4) != b"GGUF" or number(4) not in (2, 3):
            return  # the library says what it can't read
        number(8)  # of tensors
        for _ in range(number(8)):
            skip(number(8))
            kind, count = number(4), 1
            if kind == GGUF_LIST:
                kind, count = number(4), number(8)
            if kind == GGUF_TEXT:
                for _ in range(count):
                    skip(number(8))
            elif kind in GGUF_BYTES:
                skip(count * GGUF_BYTES[kind])
            else:
                raise ZoplatError(f"--model {path}: a value of type {kind}, which no model needs. Fetch it again.")


def _settings(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a configuration and of those inside it."""
    for key, value in table.items():
        yield key, value
        if isinstance(value, dict):
            yield from _settings(value)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file has none, which transformers then says in its own words."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}

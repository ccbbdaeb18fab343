"""What models of transformers are made of, without libraries that training has no use for."""

from __future__ import annotations

import importlib
import sys

from zoplat_devices.pytorch.hiding import hidden, import_without_compiler
from zoplat_devices.pytorch.quiet import quiet

MODELS = ("transformers.modeling_utils", "transformers.generation.utils")


def import_lean() -> None:
    """Import what models are made of, without torch's compiler and torchao, and without Triton where there is no GPU.

    Together with what `import_transformers` leaves out that is 115 MiB and half the time. All of it can be imported
    later nevertheless.
    """
    if MODELS[0] in sys.modules:
        return
    with quiet(), hidden("torchao"):
        import_without_compiler(*MODELS)
    importlib.import_module("transformers.utils").is_torchao_available.cache_clear()

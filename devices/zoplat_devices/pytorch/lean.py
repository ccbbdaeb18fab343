"""Libraries without what a processor has no use for."""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

from zoplat_devices.pytorch.quiet import quiet


def import_lean() -> None:
    """Import what models are made of, which imports torch's compiler and torchao, without Triton where there is no GPU.

    Triton takes 75 MiB and nothing runs it there. It can be imported later nevertheless.
    """
    import torch

    if torch.cuda.is_available() or {"triton", "transformers.modeling_utils"} & sys.modules.keys():
        return
    hidden = cast(dict[str, Any], sys.modules)
    hidden["triton"] = None
    try:
        with quiet():
            importlib.import_module("transformers.modeling_utils")
    finally:
        del hidden["triton"]

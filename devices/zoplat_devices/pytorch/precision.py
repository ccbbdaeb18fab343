"""What `auto` means for a model: the precision of its weights, how they are restored, and how updates are rounded."""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.core.blocks import Block
from zoplat.core.codes import PACKED
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import PACKED as OF_PACKED
from zoplat.core.model_spec import Head, ModelSpec
from zoplat.space.parameter_space import Restore
from zoplat.space.rounding import NARROW, RoundingName
from zoplat_devices.pytorch.settings import PyTorchSettings


def base_dtype(spec: ModelSpec, kind: str, head: Head) -> str:
    """bfloat16 for a frozen base where the device multiplies in it natively, else float32; or what the user chose.

    The new head of a classifier is trained in the precision of its base, and 8 bits of mantissa are too few for small
    steps, so its base is float32.
    """
    import torch

    if spec.dtype != "auto":
        return spec.dtype
    native_cpu = kind == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    is_frozen = (spec.tune.is_adapter or spec.tune.name in OF_PACKED) and head != "classifier"
    return "bfloat16" if is_frozen and (native_cpu or kind == "cuda") else "float32"


def dtypes_of(blocks: Sequence[Block]) -> list[str]:
    """The dtypes of some blocks, each once, in alphabetical order."""
    return sorted({block.dtype for block in blocks})


def choose_restore(settings: PyTorchSettings, blocks: Sequence[Block]) -> Restore:
    """How perturbed weights are restored: exactly for 16-bit weights and for those in files, unless it was set.

    Raises:
        ZoplatError: the forward pass is compiled or recorded, and would not see weights formed while a layer runs.
    """
    restore: Restore = "exact" if settings.is_streaming or _has_narrow(blocks) else "in-place"
    if settings.restore != "auto":
        restore = settings.restore
    if settings.static_forward and restore == "exact":
        raise ZoplatError(
            f"{settings.static_forward} can't see weights that are formed while a layer runs, as restore=exact does, "
            f"which is usual for {dtypes_of(blocks)[0]} weights. Use -o device.restore=in-place."
        )
    return restore


def choose_rounding(settings: PyTorchSettings, blocks: Sequence[Block], restore: Restore) -> RoundingName:
    """How updates of 16-bit weights are rounded: stochastically under exact restore, unless it was set."""
    if settings.rounding != "auto":
        return settings.rounding
    return "stochastic" if _has_narrow(blocks) and restore == "exact" else "nearest"


def _has_narrow(blocks: Sequence[Block]) -> bool:
    """Whether some weights have 16 bits, or are codes of 4."""
    return any(block.dtype in (*NARROW, PACKED) for block in blocks)

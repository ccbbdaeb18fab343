"""What a run takes whatever its model: the libraries, the context of a GPU, the workspace of its products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoplat.planning.profiles import Profile

MIB = 1 << 20
LIBRARIES = "python, torch and transformers"
"""The owner of what there is before a model is opened."""


@dataclass(frozen=True)
class Share:
    """Bytes of one owner.

    Attributes:
        owner: whose they are.
        low, expected, high: the least, the likely and the most bytes; the same where they are counted.
        note: where a number comes from that was not counted.
    """

    owner: str
    low: int
    expected: int
    high: int
    note: str = ""

    @classmethod
    def counted(cls, owner: str, size: int) -> Share:
        """Bytes that are known."""
        return cls(owner, size, size, size)


def fixed_costs(
    kind: str, libraries: int, kept: int = 0, profile: Profile | None = None, is_backward: bool = False
) -> tuple[Share, ...]:
    """Shares that no rehearsal sees, in the memory that is planned.

    Args:
        kind: of the device: "cpu", "cuda" or "mps".
        libraries: resident bytes of this process once the libraries and the tokenizer were loaded.
        kept: bytes of small arrays that an allocator of the host holds after they were freed.
        profile: the machine that is meant; this one when None.
        is_backward: whether steps ask for gradients.
    """
    capability, unified = (profile.capability, profile.unified) if profile else (0, False)
    later = FIRST_STEPS["backward" if is_backward else "forward"]
    host = Share(
        LIBRARIES,
        int(0.9 * libraries),
        libraries + later,
        int(libraries + 1.3 * later),
        "measured in this process, and a default for what the first steps read",
    )
    if kind == "cpu":
        expected, high = max(kept, 16 * MIB), kept + 64 * MIB
        return (
            host,
            Share("allocator of the host", 0, expected, high, "small arrays that were freed; at least a default"),
        )
    if kind != "cuda":
        return (host, Share("context of the accelerator", 0, 200 * MIB, 1024 * MIB, "default, not measured"))
    workspace = WORKSPACE.get(capability)
    products = (
        Share("workspace of cuBLAS", workspace, workspace, workspace, "its default")
        if workspace
        else Share("workspace of cuBLAS", *SMALL_OR_LARGE, "its default, by architecture")
    )
    context = Share("CUDA context", *CONTEXT, "default, not measured on this card")
    return (products, context, *((host,) if unified else ()))


CONTEXT = (250 * MIB, 450 * MIB, 900 * MIB)
"""Of a process with torch: from what smaller cards load lazily to what large ones do with all kernels in use."""
WORKSPACE: Mapping[int, int] = {9: 32 * MIB, **dict.fromkeys((6, 7, 8), 8519680)}
"""Major compute capability → bytes that torch lets cuBLAS use for products: CUBLAS_WORKSPACE_CONFIG's defaults."""
SMALL_OR_LARGE = (8519680, 8519680, 32 * MIB)

FIRST_STEPS = {"forward": 56 * MIB, "backward": 110 * MIB}
"""What is imported, and read of code, while a model is opened and in the first steps: docs/results/memory.md."""

"""The kernels of `gpu_kernels.py`: tables sent to the device that has the weights, one launch for each dtype."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from zoplat.core.noise import Stream
from zoplat_devices.kernels.tables import DTYPES, TERMS, Jobs, Kernels, Sums

PINNED = {"enable_fp_fusion": False, "sanitize_overflow": False, "num_warps": 4}
"""How kernels are launched: products and sums round by themselves, words wrap around."""

NARROW = (DTYPES["bfloat16"], DTYPES["float16"])


class TritonKernels(Kernels):
    """Those of a GPU, in the order of its stream.

    Args:
        device: of torch.
        programs: `gpu_kernels`.
    """

    def __init__(self, device: Any, programs: ModuleType) -> None:
        self.device = device
        self._programs = programs
        self._slice = int(programs.SLICE.value * programs.GROUP.value)
        self._wave = int(programs.ROWS.value * programs.GROUP.value)
        self._group = int(programs.GROUP.value)

    def run(
        self,
        jobs: Jobs,
        sums: Sums,
        keep: float = 1.0,
        base: int = 0,
        is_stochastic: bool = False,
        which: slice | None = None,
    ) -> None:
        if jobs.copy is None:
            jobs.copy = [self._sent(jobs.rows, dtype) for dtype in np.unique(jobs.rows["dtype"])]
        if sums.copy is None:
            sums.copy = self._words(sums.terms), self._words(sums.counts), *self._kind(sums)
        terms, counts, kind, has_scales = sums.copy
        for sent in jobs.copy:
            first, count = sent.range_of(which)
            if count:
                self._programs.move[(count * sent.slices,)](
                    sent.rows,
                    terms,
                    counts,
                    first,
                    sent.slices,
                    sums.terms.shape[1],
                    keep,
                    base,
                    kind,
                    has_scales,
                    sent.dtype,
                    is_stochastic and sent.dtype in NARROW,
                    sent.is_aligned and base % 16 == 0,
                    **PINNED,
                )

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        groups = -(-(first + count) // self._group) - first // self._group
        grid = (-(-groups * self._group // self._wave),)
        self._programs.numbers[grid](out, *stream, first, count, TERMS[law], **PINNED)

    def _sent(self, rows: np.ndarray, dtype: int) -> _Sent:
        """The jobs of one dtype on the device."""
        places = np.flatnonzero(rows["dtype"] == dtype)
        some = rows[places]
        entries = some["stop"] - some["start"] // self._group * self._group
        slices = int(-(-entries.max() // self._slice))
        is_aligned = not ((some["source"] | some["target"]) % 16).any()
        return _Sent(self._words(some), int(dtype), slices, is_aligned, places)

    def _kind(self, sums: Sums) -> tuple[int, bool]:
        """The one that all terms have, or `MIXED`; and whether some are scaled."""
        is_used = np.arange(sums.terms.shape[1]) < (sums.counts * sums.fused)[:, None]
        used = sums.terms[is_used]
        found = np.unique(used["kind"])
        return int(found[0]) if len(found) == 1 else int(self._programs.MIXED.value), bool(used["scale"].any())

    def _words(self, rows: np.ndarray) -> Any:
        """Records as a tensor of the device, in words of 64 bits where they have some."""
        import torch

        word = np.int64 if rows.dtype.fields else rows.dtype
        flat = np.ascontiguousarray(rows).reshape(-1).view(word)
        return torch.from_numpy(flat).to(self.device, non_blocking=True)


class _Sent:
    """Jobs of one dtype as a device holds them.

    Attributes:
        rows: tensor of words.
        dtype: of `DTYPES` or `FROM_FLOAT32`.
        slices: programs that the longest job takes.
        is_aligned: whether sources and targets begin at multiples of 16 bytes.
    """

    def __init__(self, rows: Any, dtype: int, slices: int, is_aligned: bool, places: np.ndarray) -> None:
        self.rows, self.dtype, self.slices, self.is_aligned = rows, dtype, slices, is_aligned
        self._places = places

    def range_of(self, which: slice | None) -> tuple[int, int]:
        """First and count of some of all jobs among these."""
        if which is None:
            return 0, len(self._places)
        first, stop = np.searchsorted(self._places, (which.start, which.stop))
        return int(first), int(stop - first)


class Broken(Exception):
    """Triton is installed and can't be used here."""


def kernels(device: Any) -> TritonKernels | None:
    """Those for a device of torch; None where Triton is not installed.

    Raises:
        Broken: Triton can't make a kernel, for which it needs a C compiler and the headers of Python, or a kernel that
            makes the numbers of the definition.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from zoplat_devices.kernels import gpu_kernels

        made = TritonKernels(device, gpu_kernels)
        agrees = _agrees(made)
    except Exception as problem:  # whatever Triton, its compiler or its driver may throw
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
        raise Broken(f"Triton is installed but makes no kernels here: {reason}") from problem
    if not agrees:
        raise Broken("Triton's kernels make other numbers here than the definition.")
    return made


def _agrees(made: TritonKernels) -> bool:
    """Whether two groups of normals have the bits of the definition."""
    import torch

    from zoplat_devices.kernels.noise import ReferenceNoise

    trial = torch.zeros(1024, device=made.device)  # memory may hold what an earlier trial left
    made.numbers(trial.data_ptr(), "normal", (1, 2), 0, len(trial))
    expected = ReferenceNoise().numbers("normal", (1, 2), 0, (len(trial),))
    return trial.cpu().numpy().tobytes() == expected.tobytes()

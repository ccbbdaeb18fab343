"""The kernels of `gpu_kernels.py`: tables copied to the device of the weights, one launch for each dtype."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from zoplat.core.noise import Stream
from zoplat_devices.kernels.tables import DTYPES, TERMS, Jobs, Kernels, Sums

PINNED = {"enable_fp_fusion": False, "sanitize_overflow": False, "num_warps": 4}
"""Launch options that pin every bit: no fusion of products and sums, integers wrap around."""

NARROW = (DTYPES["bfloat16"], DTYPES["float16"])


class TritonKernels(Kernels):
    """Kernels in Triton, launched on the current stream of a device.

    Args:
        device: torch device that holds the weights.
        programs: the module `gpu_kernels`.
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
        factor: float = 1.0,
        origin: int = 0,
        is_stochastic: bool = False,
        subset: slice | None = None,
    ) -> None:
        if jobs.uploaded is None:
            jobs.uploaded = [self._uploaded(jobs.rows, dtype) for dtype in np.unique(jobs.rows["dtype"])]
        if sums.uploaded is None:
            sums.uploaded = self._words(sums.terms), self._words(sums.counts), *self._kind(sums)
        terms, counts, kind, has_scales = sums.uploaded
        for part in jobs.uploaded:
            first, count = part.range_of(subset)
            if count:
                self._programs.move[(count * part.slices,)](
                    part.rows,
                    terms,
                    counts,
                    first,
                    part.slices,
                    sums.terms.shape[1],
                    factor,
                    origin,
                    kind,
                    has_scales,
                    part.dtype,
                    is_stochastic and part.dtype in NARROW,
                    part.is_aligned and origin % 16 == 0,
                    **PINNED,
                )

    def numbers(self, out: int, law: str, stream: Stream, first: int, count: int) -> None:
        groups = -(-(first + count) // self._group) - first // self._group
        grid = (-(-groups * self._group // self._wave),)
        self._programs.numbers[grid](out, *stream, first, count, TERMS[law], **PINNED)

    def _uploaded(self, rows: np.ndarray, dtype: int) -> _UploadedJobs:
        """The jobs of one dtype, copied to the device."""
        positions = np.flatnonzero(rows["dtype"] == dtype)
        some = rows[positions]
        entries = some["stop"] - some["start"] // self._group * self._group
        slices = int(-(-entries.max() // self._slice))
        is_aligned = not ((some["source"] | some["target"]) % 16).any()
        return _UploadedJobs(self._words(some), int(dtype), slices, is_aligned, positions)

    def _kind(self, sums: Sums) -> tuple[int, bool]:
        """The kind of all terms, or `MIXED` where they differ; and whether some are scaled."""
        is_used = np.arange(sums.terms.shape[1]) < (sums.counts * sums.fused)[:, None]
        used = sums.terms[is_used]
        found = np.unique(used["kind"])
        return int(found[0]) if len(found) == 1 else int(self._programs.MIXED.value), bool(used["scale"].any())

    def _words(self, rows: np.ndarray) -> Any:
        """A table as a tensor on the device; records become words of 64 bits."""
        import torch

        word = np.int64 if rows.dtype.fields else rows.dtype
        flat = np.ascontiguousarray(rows).reshape(-1).view(word)
        return torch.from_numpy(flat).to(self.device, non_blocking=True)


class _UploadedJobs:
    """Jobs of one dtype on a device.

    Attributes:
        rows: tensor of words, (jobs · JOB_WORDS).
        dtype: of `DTYPES` or `FROM_FLOAT32`.
        slices: Triton programs that the longest job takes.
        is_aligned: whether sources and targets begin at multiples of 16 bytes.
    """

    def __init__(self, rows: Any, dtype: int, slices: int, is_aligned: bool, positions: np.ndarray) -> None:
        self.rows, self.dtype, self.slices, self.is_aligned = rows, dtype, slices, is_aligned
        self._positions = positions

    def range_of(self, subset: slice | None) -> tuple[int, int]:
        """(first, count) among these jobs of a range of all jobs; everything when None."""
        if subset is None:
            return 0, len(self._positions)
        first, stop = np.searchsorted(self._positions, (subset.start, subset.stop))
        return int(first), int(stop - first)


class Broken(Exception):
    """Triton is installed but can't be used here."""


def kernels(device: Any) -> TritonKernels | None:
    """Kernels for a torch device, once a trial run has shown the right bits; None where Triton is not installed.

    Raises:
        Broken: Triton can't compile a kernel, for which it needs a C compiler and the headers of Python, or its random
            numbers differ from the definition.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from zoplat_devices.kernels import gpu_kernels

        made = TritonKernels(device, gpu_kernels)
        is_right = _matches_definition(made)
    except Exception as problem:  # whatever Triton, its compiler or its driver may throw
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
        raise Broken(f"Triton is installed but makes no kernels here: {reason}") from problem
    if not is_right:
        raise Broken("Triton's kernels make other numbers here than the definition.")
    return made


def _matches_definition(made: TritonKernels) -> bool:
    """Trial run: whether two groups of normals have the bits of the definition."""
    import torch

    from zoplat_devices.kernels.noise import ReferenceNoise

    trial = torch.zeros(1024, device=made.device)  # zeros: fresh memory may hold the right numbers of an earlier trial
    made.numbers(trial.data_ptr(), "normal", (1, 2), 0, len(trial))
    expected = ReferenceNoise().numbers("normal", (1, 2), 0, (len(trial),))
    return trial.cpu().numpy().tobytes() == expected.tobytes()

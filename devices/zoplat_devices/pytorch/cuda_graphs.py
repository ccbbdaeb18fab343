"""CUDA graphs: the forward pass of a batch is recorded once for each shape, and replayed from buffers of its own.

Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch

from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch.scoring import Batch

Replay = Callable[[], Any]
"""Runs what was recorded once more."""


class Graphs:
    """The mean loss of batches by replayed recordings.

    A shape is recorded the second time it occurs. The weights are read in place, so updates to them are seen; weights
    that a layer forms while it runs would not be.

    Args:
        record: runs a function and records it; returns its result and what runs it again into the same result.
    """

    def __init__(self, record: Callable[[Replay], tuple[Any, Replay]]) -> None:
        self.record = record
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[Batch, Any, Replay]] = {}

    def __call__(self, batch: Batch, mean: Callable[[Batch], Any]) -> Any:
        """The loss that `mean` computes of a batch, in a tensor that later replays do not overwrite."""
        shape = _shape(batch)
        if shape not in self._recorded:
            if shape not in self._seen:
                self._seen.add(shape)
                return mean(batch)
            static = _copied(batch)
            self._recorded[shape] = static, *self.record(lambda: mean(static))
        static, loss, replay = self._recorded[shape]
        for held, new in zip(_tensors(static), _tensors(batch), strict=True):
            held.copy_(new)
        replay()
        return loss.clone()


class CudaRecorder:
    """Records on a side stream; all recordings share one memory pool."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Replay) -> tuple[Any, Replay]:
        """The result of a run, and what computes it again.

        Raises:
            ZoplatError: the model does something that can't be recorded, such as reading a number on the host.
        """
        graph, side_stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            run()
        torch.cuda.current_stream().wait_stream(side_stream)
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                result = run()
        except RuntimeError as problem:
            reason = (str(problem).splitlines() or ["no reason is given"])[0]
            raise ZoplatError(
                f"-o device.graphs=true: the model's forward pass could not be recorded ({reason}). Leave it out."
            ) from problem
        return result, graph.replay


def _shape(batch: Batch) -> Hashable:
    """All that a recording depends on: shapes and dtypes of tensors, and every other value."""
    return tuple((name, _signature(value)) for name, value in _values(batch))


def _signature(value: Any) -> Hashable:
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else repr(value)


def _values(batch: Batch) -> Iterator[tuple[str, Any]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        yield from value.items() if isinstance(value, dict) else [(field.name, value)]


def _tensors(batch: Batch) -> list[Any]:
    return [value for _, value in _values(batch) if isinstance(value, torch.Tensor)]


def _copied(batch: Batch) -> Batch:
    """The same batch with copies of its tensors."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: copied(part) for name, part in value.items()}
        return value.clone() if isinstance(value, torch.Tensor) else value

    return replace(batch, **{field.name: copied(getattr(batch, field.name)) for field in fields(batch)})

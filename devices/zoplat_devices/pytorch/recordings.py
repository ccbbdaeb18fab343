"""Recordings: the moves and forward passes of a step as one CUDA graph, replayed with the words of each new step.

Work comes as steps of a queue. What is new in it are words, which one copy from pinned memory takes to a fixed buffer.
Work of one name is performed step by step the first time, recorded the second time, and replayed from then on: no
Python and no launches between its forward passes, and a single wait, for the losses. The memory of recordings is that
of the largest one; it is given back before the model runs in any other way, so that the two never add up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, Protocol

import torch

from zoplat_devices.kernels.queue import Step
from zoplat_devices.kernels.tables import Kernels

MOST = 48
"""Recordings of one run: enough for sixteen shapes, as the first step after an evaluation, any other step and a bare
forward pass are recorded apart; or for the parts of a method that moves one part of the weights at a time."""
TRIED, WORTH = 200, 2
"""Work is recorded while there are no more recordings than `TRIED` and one for `WORTH` replays: making one takes about
as long as performing its work a few times."""
SEEN = 1024
"""Names of work that are remembered."""


class Graph(Protocol):
    """One recording of a recorder."""

    def replay(self) -> None:
        """Do the work once more."""

    def reset(self) -> None:
        """Release what the recording holds; it is not replayed again."""


class Recorder(Protocol):
    """Records work on a device.

    Attributes:
        bytes: memory that its recordings hold.
    """

    bytes: int

    def record(self, run: Callable[[], Any]) -> tuple[Any, Graph]:
        """Record what a function does, without doing it; returns its result's place, and the recording.

        Raises:
            RuntimeError: the function does something that can't be recorded, such as reading a number on the host.
        """

    def release(self) -> None:
        """Give back the memory of recordings, all of which were reset."""


class CudaRecorder:
    """Records CUDA graphs on one stream of its own; they share one memory pool.

    In place of `torch.cuda.graph`, which runs the garbage collector each time.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._pool: Any = None
        self._stream: Any = None

    def record(self, run: Callable[[], Any]) -> tuple[Any, Graph]:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before, graph = torch.cuda.memory_reserved(), torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = run()
                graph.capture_end()
            except BaseException:
                self._abandon(graph)
                raise
        self.bytes += max(0, torch.cuda.memory_reserved() - before)
        return result, graph

    def _abandon(self, graph: Any) -> None:
        """End a recording that has failed; PyTorch before 2.13 throws before it has stopped allocating in the pool."""
        with suppress(RuntimeError):  # it says again that the recording has failed
            graph.capture_end()
        with suppress(RuntimeError, AttributeError):  # or has stopped
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        with suppress(RuntimeError):
            graph.reset()

    def release(self) -> None:
        self._pool, self.bytes = None, 0
        torch.cuda.empty_cache()


class Recording(NamedTuple):
    """One recording.

    Attributes:
        keeps: what has memory that the recording reads and writes.
        host, words: where words are put, pinned, and where they are copied to.
        losses: (n,), overwritten by every replay.
        graph: does the work once more.
    """

    keeps: Sequence[Any]
    host: Any
    words: Any
    losses: Any
    graph: Graph


class Recordings:
    """Performs queued work, from recordings where it has been done before.

    Args:
        recorder: makes them; None where all work is performed step by step.
        device: of torch.
        say: called once with why something is not recorded.
        kernels: that work is launched with; None where there are none.
    """

    def __init__(
        self, recorder: Recorder | None, device: Any, say: Callable[[str], None], kernels: Kernels | None = None
    ) -> None:
        self._recorder, self._device, self._say = recorder, device, say
        self._recording_kernels = kernels.recording if kernels else nullcontext
        self._seen: set[Hashable] = set()
        self._made: OrderedDict[Hashable, Recording] = OrderedDict()
        self._recorded = self._replayed = 0

    @property
    def bytes(self) -> int:
        """Memory of the recordings, on the device."""
        own = sum(int(made.words.nbytes) for made in self._made.values())
        return own + (self._recorder.bytes if self._recorder else 0)

    @property
    def count(self) -> int:
        """Number of recordings."""
        return len(self._made)

    def perform(self, steps: Sequence[Step], obstacle: str = "") -> Any:
        """Do some work; returns the tensor of its losses, (n,) float64, which later work may overwrite, or None.

        Args:
            steps: the work.
            obstacle: why it can't be recorded; empty where it can.
        """
        with torch.inference_mode():
            made = self._recording(steps, obstacle)
            if made is None:
                self.release()
                words = self._pinned(steps).to(self._device, non_blocking=True)
                return _run(steps, words)
            _fill(made.host, steps)
            made.words.copy_(made.host, non_blocking=True)
            made.graph.replay()
            return made.losses

    def release(self) -> None:
        """Give back the memory of all recordings; they are made again when their work comes again."""
        if self._recorder and self._made:
            while self._made:
                self._evict()
            self._recorder.release()

    def _evict(self) -> None:
        """Reset the recording that was not used for longest."""
        self._made.popitem(last=False)[1].graph.reset()

    def _recording(self, steps: Sequence[Step], obstacle: str) -> Recording | None:
        """The recording of some work, made now if the work was done before; None where there is none."""
        if self._recorder is None:
            return None
        if obstacle:
            self._give_up(obstacle)
            return None
        name = tuple(step.name for step in steps)
        if name in self._made:
            self._made.move_to_end(name)
            self._replayed += 1
            return self._made[name]
        if name not in self._seen:
            if len(self._seen) == SEEN:
                self._seen.clear()
            self._seen.add(name)
            return None
        if self._recorded >= TRIED + self._replayed / WORTH:
            self._give_up(f"batches have too many shapes, {len(self._seen)} so far, for recordings to be used again")
            return None
        if len(self._made) == MOST:
            self._evict()
        return self._record(name, steps)

    def _record(self, name: Hashable, steps: Sequence[Step]) -> Recording | None:
        assert self._recorder is not None
        host = self._pinned(steps)
        words = host.to(self._device, non_blocking=True)
        words = words.clone() if words is host else words  # of the processor
        try:
            with self._recording_kernels():
                losses, graph = self._recorder.record(lambda: _run(steps, words))
        except RuntimeError as problem:
            self._give_up((str(problem).splitlines() or ["no reason is given"])[0])
            return None
        self._recorded += 1
        self._made[name] = made = Recording([step.keeps for step in steps], host, words, losses, graph)
        return made

    def _pinned(self, steps: Sequence[Step]) -> Any:
        """The words of all steps in one array on the host."""
        count = sum(len(step.words) for step in steps)
        host = torch.empty(count, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        _fill(host, steps)
        return host

    def _give_up(self, reason: str) -> None:
        """Record nothing from now on."""
        with suppress(RuntimeError):  # after a recording that failed, versions of PyTorch can't give memory back
            self.release()
        self._recorder = None
        self._say(f"steps are not recorded, and take the host's time: {reason}")


def _fill(host: Any, steps: Sequence[Step]) -> None:
    """Write the words of all steps to an array, one after the other."""
    array, begin = host.numpy(), 0
    for step in steps:
        array[begin : begin + len(step.words)] = step.words
        begin += len(step.words)


def _run(steps: Sequence[Step], words: Any) -> Any:
    """Perform steps; the losses of all, (n,) float64, or None where there are none."""
    losses, begin = [], 0
    for step in steps:
        found = step.run(words[begin : begin + len(step.words)])
        begin += len(step.words)
        if found is not None:
            losses.append(found.double().view(-1))
    return torch.cat(losses) if losses else None

"""A stand-in for CUDA's recorder: operations are noted while they run, and replayed without Python between them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from zoplat_devices.kernels import gpu

WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "unique")
"""Operations that read a number on the host, or copy one from it, which CUDA refuses while it records."""


class Noted(TorchDispatchMode):  # type: ignore[misc]  # torch has no types here
    """Notes every operation, with the tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Callable[[], None]] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = str(function).split(".")[1]
        if name in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        made = function(*given, **(named or {}))
        given, named = tree_map(_at_this_address, (given, named or {}))
        places = [x for x in tree_leaves(made) if isinstance(x, torch.Tensor)]

        def again() -> None:
            found = [x for x in tree_leaves(function(*given, **named)) if isinstance(x, torch.Tensor)]
            for place, new in zip(places, found, strict=True):
                if place.data_ptr() != new.data_ptr():
                    place.copy_(new)

        self.operations.append(again)
        return made


def _at_this_address(x: Any) -> Any:
    """The same memory, whatever a parameter points to afterwards."""
    return x.detach() if isinstance(x, torch.Tensor) else x


class Played:
    """A recording as a function.

    Attributes:
        is_reset: whether it may not be replayed any more.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function, self.is_reset = function, False

    def replay(self) -> None:
        assert not self.is_reset
        self.function()

    def reset(self) -> None:
        self.is_reset = True


class StandInRecorder:
    """Records and replays on the processor; kernels are launched by a replay alone, as CUDA has it.

    Attributes:
        replays: how often a recording was replayed.
        bytes: always 1 for each recording.
    """

    def __init__(self) -> None:
        self.bytes = self.replays = self.recorded = self.releases = 0

    def record(self, run: Callable[[], Any]) -> tuple[Any, "Played"]:
        noted = Noted()

        def noted_launch(launch: Any, structure: Any, origin: int) -> None:
            noted.operations.append(lambda: start(launch, structure, origin))

        with pytest.MonkeyPatch.context() as patch:
            start = gpu._Launch.start
            patch.setattr(gpu._Launch, "start", noted_launch)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            with noted:
                result = run()
        self.recorded, self.bytes = self.recorded + 1, self.bytes + 1

        def replay() -> None:
            self.replays += 1
            for operation in noted.operations:
                operation()

        return result, Played(replay)

    def release(self) -> None:
        self.releases, self.bytes = self.releases + 1, 0


@contextmanager
def recorded_by(recorder: Any, kernels: Any, notices: list[str]) -> Iterator[None]:
    """Every session that is opened has these kernels and this recorder; None for steps that are only queued."""
    from zoplat_devices.pytorch import session
    from zoplat_devices.pytorch.recordings import Recordings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoplat_devices.pytorch.backends.kernels_for", lambda kind: kernels)
        patch.setattr(
            session,
            "build_recordings",
            lambda settings, scorer, own: Recordings(recorder, torch.device("cpu"), notices.append, own),
        )
        yield

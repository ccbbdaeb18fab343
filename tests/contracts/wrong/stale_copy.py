"""A device whose forward passes read a copy of its weights, and that takes every option without a word."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from zoplat import Device, ModelSpec, Session, hookimpl
from zoplat_devices.reference import Reference, ReferenceSession


@dataclass(frozen=True)
class StaleCopy(Device):
    """The reference device with the fault."""

    takes_models: ClassVar[bool] = False

    def missing(self) -> str | None:
        return None

    def open(self, spec: ModelSpec) -> Session:
        return Stale(Reference(), spec)


class Stale(ReferenceSession):
    """Reads the weights as they were when it was opened."""

    def __init__(self, device: Reference, spec: ModelSpec) -> None:
        super().__init__(device, spec)
        self.start = copy.deepcopy(self.weights)

    def _perturbed(self) -> dict[str, Any]:
        return self.start


@hookimpl
def zoplat_devices() -> dict[str, Device]:
    return {"stale-copy": StaleCopy()}

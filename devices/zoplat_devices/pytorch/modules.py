"""A device for one module of PyTorch, of any kind: images, sound, tables. Its author says what is read and scored.

class Digits(ModuleDevice):
    def build(self, spec): …                  a module
    def read(self, example): …                an input, such as a tensor of pixels
    def scores(self, model, inputs): …        (rows, options)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoplat.core.device import Reader, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.pytorch.device import PyTorch

NOT_HERE = ("head", "prefix", "prompt")
"""Ways of tuning that need a language model."""


@dataclass(frozen=True)
class ModuleDevice(PyTorch):
    """A module of PyTorch that scores the options of a row, whatever the row is. To be inherited.

    The rows of a task are text; what that stands for (a file's name, numbers) is up to `read`.
    """

    answers: ClassVar[frozenset[str]] = frozenset({"losses", "jvp", "gradient"})
    takes_models: ClassVar[bool] = False

    @property
    def summary(self) -> str:
        return (type(self).__doc__ or type(self).__name__).strip().partition("\n")[0].rstrip(".")

    @property
    def priority(self) -> None:  # type: ignore[override]  # it is used when it is named
        return None

    @abstractmethod
    def build(self, spec: ModelSpec) -> Any:
        """The module, in float32; random numbers of torch are drawn from the seed of the run."""

    @abstractmethod
    def read(self, example: Example) -> Any:
        """What the module reads of a row, on the host; called once for each row, when a run is opened.

        Raises:
            ZoplatError: the row can't be read; the file and the line are added.
        """

    @abstractmethod
    def scores(self, model: Any, inputs: Sequence[Any]) -> Any:
        """Scores of all options of some rows, such as logits: a tensor, (rows, options).

        Args:
            model: the module, or a copy with an adapter inside its layers.
            inputs: as `read` made them, one for each row.
        """

    def open(self, spec: ModelSpec) -> Session:
        if self.strategy not in ("auto", "sequential") or self.compile:
            raise ZoplatError(
                "This device evaluates one point after the other. Leave -o device.strategy and compile out."
            )
        if self.map:
            raise ZoplatError("This device keeps its module on one GPU. Leave -o device.map out.")
        if spec.model is not None:
            raise ZoplatError(f"This device has a model of its own; it can't open '{spec.model}'. Leave --model out.")
        if spec.base != "plain":
            raise ZoplatError(f"This device does not store weights as {spec.base}. Leave --base out.")
        if spec.tune.name in NOT_HERE:
            raise ZoplatError(
                f"--tune {spec.tune.name} is for language models. Use full, lora with -o tune.targets=REGEX, or a "
                "regular expression for names of weights."
            )
        from zoplat_devices.pytorch.module_session import ModuleSession

        return ModuleSession(self, self, spec)

    def reader(self, spec: ModelSpec, fetches: bool = False) -> None:
        return None

    def rehearse(self, spec: ModelSpec, reader: Reader | None = None) -> None:
        return None

    def convert(self, spec: ModelSpec) -> None:
        return None

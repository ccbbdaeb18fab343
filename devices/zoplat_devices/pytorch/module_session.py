"""A module of PyTorch that is no language model, opened for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.memory import HostMemory, trim
from zoplat_devices.pytorch.derivatives import Derivatives
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.opening import configure_torch
from zoplat_devices.pytorch.precision import base_dtype
from zoplat_devices.pytorch.scoring import inner_model
from zoplat_devices.pytorch.session import PyTorchSession
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.tuning import tuned


class Own(Protocol):
    """What is a module's own; see `ModuleDevice`."""

    def build(self, spec: ModelSpec) -> Any:
        """The module."""

    def read(self, example: Example) -> Any:
        """What the module reads of a row."""

    def scores(self, model: Any, inputs: Sequence[Any]) -> Any:
        """Scores of all options of some rows."""


class ModuleSession(PyTorchSession):
    """The module of a device, opened: its forward pass and its rows are its own, all else is as for language models.

    Args:
        settings: of the device.
        own: has the module, and says how rows are read and scored.
        spec: what of it is trained.
    """

    _can_batch = False

    def __init__(self, settings: PyTorchSettings, own: Own, spec: ModelSpec) -> None:
        self._host = HostMemory()
        configure_torch(settings)
        self._libraries, self._files = self._host.now(), self._host.of_files()
        self.own, self.target, self.head = own, torch.device(settings.kind), "classifier"
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            module = own.build(spec)
        module = module.to(getattr(torch, base_dtype(spec, settings.kind, self.head))).eval().requires_grad_(False)
        # peft's wrapper of a masked model passes on whatever it is given
        self.loaded = Loaded(module, None, type(module).__name__, None, head="masked")
        self.model = tuned(self.loaded, spec).to(self.target)
        self._open_space(settings, spec)
        self.recordings, self.records = None, False
        self.scorer: Any = ModuleScorer(own, inner_model(self.model))
        self.derivatives = Derivatives(self.model, self.space)
        self._open_strategies(settings, spec)
        self.facts = {**self._facts(settings, spec), "head": self.head}
        trim()

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        for example in examples:
            if example.loss == "tokens" or example.is_open:
                raise ZoplatError("This device scores options, and has no tokens. Use --objective options.")
        return [Row(example, 1, self.own.read(example)) for example in examples]

    def chat(self, prompts: Sequence[str]) -> list[str]:
        raise ZoplatError("This device has no chat template. Leave --template out.")

    def allocations(self) -> None:  # type: ignore[override]  # logits are known by the size of a vocabulary
        return None

    def export(self, directory: Path) -> None:
        if hasattr(self.model, "save_pretrained"):
            self.model.save_pretrained(directory)
            return
        from safetensors.torch import save_model

        directory.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(directory / "model.safetensors"))


class ModuleScorer:
    """Scores and losses of rows by a module.

    Args:
        own: says how rows are scored.
        model: the module.
    """

    sees_padding = False

    def __init__(self, own: Own, model: Any) -> None:
        self.own, self.model = own, model

    def loss(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch: a float, or on CUDA a tensor of one float64."""
        with torch.inference_mode():
            loss = self.mean_loss(rows)
            return loss.double() if loss.is_cuda else float(loss)

    def mean_loss(self, rows: Sequence[Row]) -> Any:
        """The same as a tensor, under the caller's mode of differentiation, computed in float32."""
        scores = self._scores(rows)
        labels = torch.tensor([row.example.label for row in rows], device=scores.device)
        return torch.nn.functional.cross_entropy(scores, labels)

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, float32."""
        with torch.inference_mode():
            found: list[list[float]] = self._scores(rows).tolist()
            return found

    @contextmanager
    def eager(self) -> Iterator[None]:
        """As the module runs always."""
        yield

    def _scores(self, rows: Sequence[Row]) -> Any:
        scores = self.own.scores(self.model, [row.tokens for row in rows])
        expected = (len(rows), len(rows[0].example.options))
        if tuple(scores.shape) != expected:
            raise ZoplatError(
                f"`scores` of device {type(self.own).__name__} gave a tensor of {tuple(scores.shape)} for "
                f"{expected[0]} rows of {expected[1]} options each."
            )
        return scores.float()

"""A LoRA adapter without the weights of its model: initial values, and the two files that PEFT and servers read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.pytorch.parameters import tensor_of
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.rehearsal.models import shaped
from zoplat_devices.pytorch.screening import load_errors
from zoplat_devices.pytorch.sources import DEFAULT
from zoplat_devices.pytorch.tuning import blocks, tuned
from zoplat_devices.pytorch.unloaded import source_of, tokenizer_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter's folder."""
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""


class Adapter:
    """The adapter that a run trains; of its model the configuration and the tokenizer are read.

    Args:
        device: makes blocks of arrays.
        spec: the model and the tuning, a LoRA.

    Attributes:
        loaded: the model by its shapes, with its tokenizer.
        blocks: the factors A and B of each layer.
        arrays: the same by name; numpy, float32.

    Raises:
        ZoplatError: there is no such model, it is not a causal one, or peft can't place the adapter.
    """

    def __init__(self, device: Device, spec: ModelSpec) -> None:
        name = spec.model or DEFAULT
        with quiet(), load_errors(name):
            tokenizer = tokenizer_of(source_of(name))
        self.loaded, _ = shaped(replace(spec, dtype="float32"), "cpu", tokenizer)
        if self.loaded.head != "causal":
            raise ZoplatError(
                f"Device 'served' asks for log-probabilities of next tokens; {self.loaded.name} is a "
                f"{self.loaded.head} model. Use --head causal, or --device cpu."
            )
        _give_entries(self.loaded.model)
        self.model = tuned(self.loaded, spec)
        found = blocks(device, self.model)
        self.arrays: dict[str, Any] = {block.name: tensor_of(block).numpy() for block in found}
        self.blocks = [device.block(block.name, self.arrays[block.name], "float32", block.layer) for block in found]
        self._config = self._written_config()

    def write(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        """Write a folder that PEFT loads, with these values of the factors by block name."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        (folder / CONFIG).write_bytes(self._config)
        save_file({f"{PREFIX}{name}": array for name, array in arrays.items()}, folder / WEIGHTS)

    def export(self, folder: Path) -> None:
        """Write what the arrays hold now, as PEFT itself does, with the tokenizer."""
        self.model.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)

    def _written_config(self) -> bytes:
        """The configuration file as PEFT writes it."""
        with tempfile.TemporaryDirectory() as folder, quiet():
            self.model.save_pretrained(folder)
            return Path(folder, CONFIG).read_bytes()


def _give_entries(model: Any) -> None:
    """Replace parameters of shapes alone by ones whose entries are all one number in memory.

    PEFT makes adapters where the layers are, and draws their initial values in the order of a model with weights.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            entries = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(entries, requires_grad=False))

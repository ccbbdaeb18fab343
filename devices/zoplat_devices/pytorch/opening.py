"""The steps by which a session is put together: torch, the model, its space, its tokens and its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import Head, ModelSpec
from zoplat.space.backend import Backend
from zoplat.space.parameter_space import ParameterSpace
from zoplat_devices.kernels.tables import Kernels
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.heads import is_autoregressive
from zoplat_devices.pytorch.lean import import_lean
from zoplat_devices.pytorch.loaded import Loaded, embeddings, padding_token, token_limit
from zoplat_devices.pytorch.mapped import move_to_files
from zoplat_devices.pytorch.pages import onto_large_pages
from zoplat_devices.pytorch.precision import base_dtype, choose_restore, choose_rounding
from zoplat_devices.pytorch.quiet import notice
from zoplat_devices.pytorch.recordings import CudaRecorder, Recordings
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.pytorch.settings import PyTorchSettings
from zoplat_devices.pytorch.sharding import check_spread, spread
from zoplat_devices.pytorch.strategies.window import to_pinned_memory
from zoplat_devices.pytorch.tuning import tuned
from zoplat_devices.text.encoding import Encoder

COMPILER = "inductor"
"""The backend of torch.compile."""


def configure_torch(settings: PyTorchSettings) -> None:
    """Set the threads and the precision of matrix products, which are global to the process."""
    import_lean()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32


def check_streamed(settings: PyTorchSettings, spec: ModelSpec) -> None:
    """Raise ZoplatError where the streaming strategy is to bring in packed weights."""
    if settings.is_streaming and spec.base != "plain":
        raise ZoplatError(f"strategy=streaming takes weights as they are stored. Leave --base {spec.base} out.")


def target_of(settings: PyTorchSettings) -> Any:
    """The device of torch that runs the model."""
    if settings.is_windowed:
        return torch.device("cuda", torch.cuda.current_device())  # whatever a thread's current one is
    return torch.device(settings.kind)


def open_model(settings: PyTorchSettings, spec: ModelSpec, load: Callable[..., Loaded]) -> tuple[Loaded, Any]:
    """(the model as it was loaded, the model that runs: with its adapter, on the device, its weights in place)."""

    def dtype(head: Head) -> Any:
        return getattr(torch, base_dtype(spec, settings.kind, head))

    check_streamed(settings, spec)
    is_in_files = settings.is_streaming and not settings.is_windowed
    more = spec.head, spec.classes, spec.seed, spec.base, is_in_files, spec.class_names
    loaded = load(spec.model, dtype, notice, *more)
    model = tuned(loaded, spec)
    if settings.is_windowed:
        if virtual.count(model):
            raise ZoplatError(
                f"--tune {spec.tune.name} adds virtual tokens beside the layers, which strategy=streaming does not "
                "bring to a GPU. Use --tune lora or full."
            )
        to_pinned_memory(model, target_of(settings))
        return loaded, model
    if settings.map:
        check_spread(spec)
        spread(model, loaded.model, settings.spread)
        return loaded, model
    model = model.to(torch.device(settings.kind))
    if is_in_files:
        move_to_files(model)
    elif settings.kind == "cpu":
        onto_large_pages(model)
    return loaded, model


def build_space(
    settings: PyTorchSettings, spec: ModelSpec, blocks: Sequence[Block], backend: Backend
) -> ParameterSpace:
    """The space of the trained weights, on the kernels of the device."""
    restore = choose_restore(settings, blocks)
    rounding = choose_rounding(settings, blocks, restore)
    return ParameterSpace(
        blocks,
        backend,
        restore,
        rounding,
        spec.seed,
        weights_in_files=settings.is_streaming and not settings.is_windowed,
        state_in_files=settings.is_streaming or settings.state != "memory",
    )


def build_encoder(settings: PyTorchSettings, loaded: Loaded, model: Any) -> Encoder:
    """Text to tokens, with room for the virtual ones."""
    config = loaded.model.config
    start = config.decoder_start_token_id if loaded.head == "seq2seq" else None
    limit = token_limit(loaded, virtual.count(model), settings.max_tokens)
    words = embeddings(loaded.model)
    return Encoder(loaded.tokenizer, limit, loaded.head, start, config.num_labels, words)


def build_scorer(settings: PyTorchSettings, loaded: Loaded, model: Any, device: Any = None) -> Scorer:
    """The forward pass, compiled where the settings say so; on a device of torch, that of the settings when None."""
    head, device = loaded.head, device or torch.device(settings.kind)
    left = head == "causal" or (head == "classifier" and is_autoregressive(loaded.model.config))
    most = token_limit(loaded, virtual.count(model), settings.max_tokens)
    scorer = Scorer(model, device, head, padding_token(loaded), left, loaded.order, most)
    if settings.compile:
        scorer.run = torch.compile(scorer.run, backend=COMPILER)
    return scorer


def is_eager(settings: PyTorchSettings) -> bool:
    """Whether the model runs as it is, on one device and with its weights there, so that steps can be recorded."""
    return not (settings.compile or settings.map or settings.is_streaming)


def build_recordings(settings: PyTorchSettings, scorer: Scorer, kernels: Kernels | None) -> Recordings | None:
    """What records steps; None where the settings or the device leave nothing to record."""
    if settings.kind != "cuda" or not settings.record or not is_eager(settings):
        return None
    if scorer.sees_padding:
        notice("the model sees padding, so its rows are read one length after the other, and steps are not recorded")
        return None
    return Recordings(CudaRecorder(), scorer.device, notice, kernels)

"""Which weights of a model are trainable: adapters by peft, groups of its own weights, or names."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from zoplat.core.blocks import Block
from zoplat.core.codes import CodesBlock
from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.model_spec import ADAPTERS, VIRTUAL, Base, ModelSpec, Tuning
from zoplat_devices.pytorch.heads import head_modules
from zoplat_devices.pytorch.hiding import hidden, undistributed
from zoplat_devices.pytorch.loaded import Loaded
from zoplat_devices.pytorch.packed import packed_layers
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.virtual import cache_shape, set_start

TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS", "masked": "FEATURE_EXTRACTION"}
"""Head → the task type of peft whose forward pass fits; for masked models, which have none, one that passes all on."""


def tuned(loaded: Loaded, spec: ModelSpec) -> Any:
    """The model with its trainable parameters marked, inside an adapter of peft where one is trained.

    Raises:
        ZoplatError: the model has no such parameters, or they can't be trained.
    """
    if spec.tune.is_adapter:
        return _with_adapter(loaded, spec)
    if spec.tune.name == "codes":
        return _with_codes(loaded)
    parameters = dict(loaded.model.named_parameters())
    chosen = _group(loaded, spec.tune.name)
    for name in chosen:
        if stored := packed_type(parameters[name]):
            raise ZoplatError(
                f"--tune {spec.tune.name} selects {name}, whose values are packed as {stored} and can't move by small "
                f"steps. Use an adapter ({', '.join(ADAPTERS)}), a regular expression that leaves it out"
                f"{', or scales' if spec.base == 'int4' else ''}."
            )
        if spec.tune.name == "scales":  # as adapters are, beside a base of 16 bits too
            parameters[name].data = parameters[name].data.float()
        parameters[name].requires_grad_(True)
    return loaded.model


def check_tuning(loaded: Loaded, tune: Tuning) -> None:
    """Raise ZoplatError where a tuning is neither known nor a regular expression that finds parameters.

    Args:
        loaded: a model, which may have no weights.
        tune: what is to be trained.
    """
    if not tune.is_adapter and tune.name not in GROUPS:
        _group(loaded, tune.name)


def packed_type(parameter: Any) -> str:
    """The type that a parameter's quantised values are packed in; "" where it is a plain floating-point tensor."""
    import torch

    if type(parameter.data) is not torch.Tensor:
        return type(parameter.data).__name__
    return "" if parameter.is_floating_point() else str(parameter.dtype).removeprefix("torch.")


def blocks(device: Device, model: Any) -> list[Block]:
    """The trainable tensors as blocks, each storage once, in registration order."""
    codes = {id(layer.codes) for layer in packed_layers(model).values() if layer.trains_codes}
    found = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.append(block_of(device, name, parameter.detach()))
        elif id(parameter) in codes:
            found.append(CodesBlock(_plain(name), parameter.detach(), layer=_layer(name)))
    return found


def block_of(device: Device, name: str, tensor: Any) -> Block:
    """A trainable tensor as a block, named as the model names it outside of its adapter."""
    return device.block(_plain(name), tensor, str(tensor.dtype).removeprefix("torch."), _layer(name))


def _plain(name: str) -> str:
    """A name without what an adapter of peft puts before and into it."""
    return re.sub(r"\.default(?=\.|$)", "", name.removeprefix("base_model.model."))


def _layer(name: str) -> int | None:
    """The layer that a parameter belongs to by its name."""
    found = re.search(r"\.(?:layers?|h|blocks?)\.(\d+)\.", f".{_plain(name)}")
    return int(found.group(1)) if found else None


def _group(loaded: Loaded, name: str) -> list[str]:
    """Names of the model's own parameters in a group, or those that a regular expression finds."""
    model = loaded.model
    names = [own for own, _ in model.named_parameters()]
    if name == "full":
        return names
    if name in GROUPS:
        chosen, what = GROUPS[name]
        found = set(chosen(loaded))
        if not found:
            raise ZoplatError(f"--tune {name}: {type(model).__name__} has no {what}. Use --tune lora, for example.")
        found |= _classification_head(loaded) if loaded.head == "classifier" else set()
        return [own for own in names if own in found]
    try:
        pattern = re.compile(name)
    except re.error as problem:
        raise ZoplatError(
            f"--tune {name}: not full, lora or a regular expression ({problem}), nor one of "
            f"{', '.join([*ADAPTERS[1:], *GROUPS])}."
        ) from None
    selected = [own for own in names if pattern.search(own)]
    if not selected:
        close = get_close_matches(name, ["full", *ADAPTERS, *GROUPS], n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise ZoplatError(f"--tune {name} finds no parameter of the model; they are named like {names[0]}.{guess}")
    return selected


def _biases(loaded: Loaded) -> Iterator[str]:
    for name, _ in loaded.model.named_parameters():
        if name.rpartition(".")[2] == "bias" or name.endswith("_bias"):
            yield name


def _norms(loaded: Loaded) -> Iterator[str]:
    for name, module in loaded.model.named_modules():
        if _normalises(module):
            for own, _ in module.named_parameters():
                yield f"{name}.{own}"


def _normalises(module: Any) -> bool:
    """Whether a module whose parameters are vectors is scale-invariant: it gives the same for 16x and for 64x."""
    import torch

    own = list(module.parameters(recurse=False))
    if not own or any(True for _ in module.children()) or any(p.dim() != 1 or len(p) != len(own[0]) for p in own):
        return False
    if len(own[0]) < 2 or not own[0].is_floating_point():
        return False
    x = torch.linspace(-3, 5, 2 * len(own[0]), dtype=torch.float32).view(1, 2, -1).to(own[0])
    try:
        with torch.inference_mode():
            one, other = module(16 * x), module(64 * x)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):  # it takes other inputs
        return False
    same_kind = isinstance(one, torch.Tensor) and one.shape == x.shape
    return same_kind and bool(torch.allclose(one, other, rtol=0.02, atol=1e-3 * float(own[0].abs().max())))


def _scales(loaded: Loaded) -> Iterator[str]:
    for name in packed_layers(loaded.model):
        yield f"{name}.scales"


def _codes(loaded: Loaded) -> Iterator[str]:
    for name in packed_layers(loaded.model):
        yield f"{name}.codes"


def _with_codes(loaded: Loaded) -> Any:
    """The model with its codes marked."""
    _group(loaded, "codes")
    if loaded.head == "classifier":
        raise ZoplatError(
            "--tune codes: a classification head is trained along with the weights, in floats, which codes can't be "
            "beside. Use --tune scales or lora."
        )
    for layer in packed_layers(loaded.model).values():
        layer.trains_codes = True
    return loaded.model


def _head(loaded: Loaded) -> Iterator[str]:
    if loaded.head == "classifier":
        yield from _classification_head(loaded)
        return
    own = {id(parameter) for parameter in loaded.model.get_output_embeddings().parameters()}
    for name, parameter in loaded.model.named_parameters():  # a tied weight has the name of its first use
        if id(parameter) in own:
            yield name


def _classification_head(loaded: Loaded) -> set[str]:
    """Names of its parameters."""
    tops = tuple(f"{name}." for name in head_modules(loaded.model, loaded.new))
    return {name for name, _ in loaded.model.named_parameters() if name.startswith(tops)}


GROUPS: dict[str, tuple[Callable[[Loaded], Iterator[str]], str]] = {
    "bitfit": (_biases, "biases"),
    "norms": (_norms, "layers of normalisation with weights"),
    "head": (_head, "head"),
    "scales": (_scales, "packed weights, which --base int4 makes"),
    "codes": (_codes, "packed weights, which --base int4 makes"),
}
"""Group → how its parameters are found, and what they are; a classification head is trained along with each."""


def _with_adapter(loaded: Loaded, spec: ModelSpec) -> Any:
    """The model of peft around a model; its new weights are drawn from the seed of the run."""
    import torch

    if spec.tune.name in VIRTUAL and loaded.head == "classifier" and loaded.model.config.is_encoder_decoder:
        name = type(loaded.model).__name__
        raise ZoplatError(f"--tune {spec.tune.name}: {name} takes no virtual tokens. Use --tune lora.")
    if spec.tune.name == "dora" and spec.base == "int4":
        raise ZoplatError("--tune dora computes with the weights themselves, unpacked. Use --tune lora.")
    try:
        with torch.random.fork_rng(), quiet(), _without_torchao(spec.base):
            from peft import get_peft_model

            torch.manual_seed(spec.seed)
            model = get_peft_model(loaded.model, _config(loaded, spec.tune))
    except ValueError as problem:
        first = str(problem).partition("\n")[0]
        raise ZoplatError(
            f"--tune {spec.tune.name}: peft can't place adapters: {first}  (-o tune.targets=REGEX)"
        ) from problem
    if spec.tune.name == "prompt" and loaded.head == "classifier":  # its warning: rows must end together, as they do
        logging.getLogger("transformers.modeling_layers").addFilter(lambda record: "inputs_embeds" not in record.msg)
    if spec.tune.name in VIRTUAL and spec.tune.start == "text":
        set_start(model, loaded, spec.tune)
    return model.eval()


@contextmanager
def _without_torchao(base: Base) -> Iterator[None]:
    """A context in which peft does not look for layers that are quantised or distributed, where there are none.

    It would import torchao, torch's compiler and distributed tensors: 90 MiB.
    """
    if base != "plain":
        yield
        return
    with undistributed():
        from peft import import_utils
    with hidden("torchao"):
        yield
    import_utils.is_torchao_available.cache_clear()


def _config(loaded: Loaded, tune: Tuning) -> Any:
    """The configuration of peft for a tuning."""
    import peft

    common: dict[str, Any] = {"task_type": TASKS[loaded.head]}
    if loaded.head == "classifier":
        common["modules_to_save"] = head_modules(loaded.model, loaded.new)
    targets = rf".*\.({tune.targets})" if tune.targets else None
    if tune.name in ("lora", "dora"):
        return peft.LoraConfig(
            r=tune.rank, lora_alpha=tune.alpha, target_modules=targets, use_dora=tune.name == "dora", **common
        )
    if tune.name == "ia3":
        inputs: list[str] | None = [] if targets else None  # no layer whose inputs are scaled in place of its outputs
        return peft.IA3Config(target_modules=targets, feedforward_modules=inputs, **common)
    if tune.name == "prompt":
        width = loaded.model.get_input_embeddings().embedding_dim
        return peft.PromptTuningConfig(
            num_virtual_tokens=tune.tokens, token_dim=width, num_transformer_submodules=1, **common
        )
    layers, heads, size = cache_shape(loaded)
    config = peft.PrefixTuningConfig(num_virtual_tokens=tune.tokens, num_layers=layers, **common)
    config.token_dim, config.num_attention_heads = heads * size, heads
    return config

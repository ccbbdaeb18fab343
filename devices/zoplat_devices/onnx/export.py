"""From a model of PyTorch to a folder that `ort_graph` opens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example
from zoplat.core.model_spec import ModelSpec
from zoplat_devices.onnx import proof
from zoplat_devices.onnx.graph import ANSWERS, BATCH, GRAPH, TOKENIZER, Facts, Graph, PlainTokenizer, feeds
from zoplat_devices.onnx.stacked import Stacked
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.loaded import Loaded, token_limit
from zoplat_devices.pytorch.models import load
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.scoring import Scorer, inner_model
from zoplat_devices.pytorch.tuning import blocks, tuned
from zoplat_devices.text.encoding import Encoder

TOLERANCE = 1e-4
POINTS = 7  # in the example that a graph is made from, a number that is no other size there
EXAMPLES = [
    Example("The plot was thin, but the actors were fine and we laughed. It was", (" terrible", " great"), 1),
    Example("No. It was", (" not very good", " bad", " a pleasure"), 0),
]
"""What scores of both are compared on."""
SLACK = {"plain": 0.1, "int8": 0.5}
"""Base → share of what an edit does to the loss that the graph may be off by; other weights have other slopes."""


class Source:
    """A model of PyTorch that a graph is made of.

    Raises:
        ZoplatError: the model can't be loaded, tuned or asked for the scores of options.
    """

    def __init__(self, device: Device, spec: ModelSpec, notice: Callable[[str], None]) -> None:
        self.loaded = load(spec.model, torch.float32, notice, spec.head, spec.classes, spec.seed)
        if self.loaded.head != "causal":
            raise ZoplatError(
                f"Device 'onnx' runs causal language models; {self.loaded.name} is a {self.loaded.head} one. "
                "Use --device cpu."
            )
        self.model = tuned(self.loaded, spec)
        self.blocks = blocks(device, self.model)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        named = zip(self.blocks, self.parameters.values(), strict=True)
        self.arrays = {block.name: parameter.detach().numpy() for block, parameter in named}
        self.encoder = _encoder(self.loaded, virtual.count(self.model), self.loaded.tokenizer)
        self.scorer = Scorer(self.model, torch.device("cpu"))

    def write_start(self, path: Path) -> None:
        """What is trained, as it is now."""
        from safetensors.numpy import save_file

        save_file({block.name: block.array.numpy() for block in self.blocks}, path)

    def proof(self) -> proof.Proof:
        """What edits do to the loss."""
        rows, parameters = self.encoder.encode([proof.EXAMPLE]), self.parameters.values()

        def slopes() -> dict[str, Any]:
            told = torch.autograd.grad(self.scorer.mean_loss(rows), list(parameters), allow_unused=True)
            found = [torch.zeros_like(p) if slope is None else slope for slope, p in zip(told, parameters, strict=True)]
            return dict(zip(self.arrays, (slope.numpy() for slope in found), strict=True))

        return proof.found(self.arrays, lambda: self.scorer.loss(rows), slopes)


def export(
    device: Device,
    spec: ModelSpec,
    target: Path,
    start: str,
    identity: str,
    versions: dict[str, str],
    notice: Callable[[str], None],
) -> None:
    """Make a folder, whole or not at all; nothing where another process was quicker.

    Raises:
        ZoplatError: the model can't be exported, or the graph answers otherwise than the model.
    """
    if spec.base != "plain" and spec.tune.name == "full":
        raise ZoplatError(f"--base {spec.base}: with --tune full no weight is frozen. Use an adapter, or leave it out.")
    source = Source(device, spec, notice)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        source.write_start(beside / start)
        source.loaded.tokenizer.backend_tokenizer.save(str(beside / TOKENIZER))
        _write_graph(source, beside, spec)
        _facts(source, spec, beside, start, identity, versions).write(beside)
        beside.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _facts(source: Source, spec: ModelSpec, folder: Path, start: str, identity: str, versions: dict[str, str]) -> Facts:
    """What there is to say about a folder, once the graph in it was found to answer as the model does."""
    tokenizer = source.loaded.tokenizer
    plain = PlainTokenizer(folder, tokenizer.bos_token_id)
    encoder = _encoder(source.loaded, virtual.count(source.model), plain)
    graph = Graph(folder, source.arrays, ["CPUExecutionProvider"], torch.get_num_threads(), pack=False)
    parity = _parity(source, graph, encoder, spec.base)
    rows, where = encoder.encode([proof.EXAMPLE]), str(folder)
    single = source.proof()
    parity["edits_off_by"] = single.compare(source.arrays, lambda: graph.loss(rows), where, SLACK[spec.base])
    grouped = single.grouped(source.arrays, lambda: graph.loss(rows))
    named = zip(source.blocks, source.arrays.values(), strict=True)
    return Facts(
        model=source.loaded.name,
        identity=identity,
        base=spec.base,
        limit=encoder.limit,
        bos=tokenizer.bos_token_id,
        blocks=[{"name": b.name, "layer": b.layer, "shape": list(array.shape)} for b, array in named],
        model_bytes=(folder / f"{GRAPH}.data").stat().st_size + sum(array.nbytes for array in source.arrays.values()),
        parity=parity,
        proof=asdict(grouped),
        proved_on=start,
        versions=versions,
    )


def _parity(source: Source, graph: Graph, encoder: Encoder, base: str) -> dict[str, Any]:
    """Answers of both; those of quantised weights are told, not judged."""
    rows = encoder.encode(EXAMPLES)
    if [row.tokens for row in rows] != [row.tokens for row in source.encoder.encode(EXAMPLES)]:
        raise ZoplatError(
            f"The tokenizer of {source.loaded.name} reads otherwise outside of transformers. Use --device cpu."
        )
    there, here = source.scorer.scores(rows), graph.scores(rows)
    off = max(abs(a - b) for one, two in zip(there, here, strict=True) for a, b in zip(one, two, strict=True))
    found = {"torch": source.scorer.loss(rows), "onnx": graph.loss(rows), "largest_difference": off}
    if base == "plain" and not off <= TOLERANCE * max(1.0, *(abs(score) for scores in there for score in scores)):
        raise ZoplatError(
            f"The exported graph scores an option {off:.2g} off what PyTorch says, more than {TOLERANCE}. "
            "Use --device cpu."
        )
    return {**found, "tolerance": TOLERANCE if base == "plain" else None}


class _Loss(torch.nn.Module):  # type: ignore[misc]
    """From a batch and the trained weights to scores and losses.

    Args:
        source: the model.
        is_stacked: whether weights, scores and losses are those of several points, one after the other.
    """

    def __init__(self, source: Source, is_stacked: bool) -> None:
        super().__init__()
        self.read = _Read(source.model)
        self.is_stacked = is_stacked
        self.names = [f"model.{name}" for name in source.parameters]
        self.before = virtual.count(source.model) if virtual.kind(source.model) == "prompt" else 0
        self.asked: list[Any] = []

    def forward(self, *inputs: Any) -> tuple[Any, Any, Any]:
        ids, sequence, position, token, share, absent, label, weights = inputs
        points = weights[0].shape[0] if self.is_stacked else 1
        self.asked[:] = [points, sequence, position + self.before]
        rows = points * ids.shape[0], points * token.shape[0]
        with Stacked(weights, rows) if self.is_stacked else nullcontext():
            given = ids.repeat(points, 1) if self.is_stacked else ids
            logits = torch.func.functional_call(self.read, dict(zip(self.names, weights, strict=True)), (given,))
        logs = torch.log_softmax(logits.float(), dim=-1).unflatten(0, (points, -1))
        taken = logs.gather(2, token[None, :, None].expand(points, -1, -1))
        scores = (share @ taken[:, None])[..., 0]
        right = scores.gather(2, label[None, :, None].expand(points, -1, -1))[..., 0]
        return scores, (torch.logsumexp(scores + absent, dim=2) - right).mean(dim=1), -scores.sum(dim=(1, 2))

    @contextmanager
    def only_asked(self, model: Any) -> Iterator[None]:
        """The head computes logits of the tokens that are scored, (points · n, words)."""

        def some(_: Any, inputs: tuple[Any, ...]) -> tuple[Any]:
            points, sequence, position = self.asked
            return (inputs[0].unflatten(0, (points, -1))[:, sequence, position].flatten(0, 1),)

        hook = inner_model(model).get_output_embeddings().register_forward_pre_hook(some)
        try:
            yield
        finally:
            hook.remove()


class _Read(torch.nn.Module):  # type: ignore[misc]
    """Logits of token ids, virtual tokens first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any) -> Any:
        return virtual.run(self.model, {"input_ids": ids, "use_cache": False}).logits


def _write_graph(source: Source, folder: Path, spec: ModelSpec) -> None:
    """The graph and its frozen weights, in which trained ones are inputs and sizes of a batch are open."""
    is_stacked = spec.tune.is_adapter
    loss, weights = _Loss(source, is_stacked), [parameter.detach() for parameter in source.parameters.values()]
    points: dict[int, Any] = {}
    if is_stacked:
        weights = [torch.stack([weight] * POINTS) for weight in weights]
        points[0] = torch.export.Dim("points")
    batch = [torch.from_numpy(array) for array in feeds(source.encoder.encode(EXAMPLES), False).values()]
    open_ = torch.export.Dim.DYNAMIC
    sizes = [dict.fromkeys(range(array.dim()), open_) for array in batch]
    with torch.no_grad(), quiet(), loss.only_asked(source.model), _explained(source.loaded.name):
        import onnx_ir

        program = torch.onnx.export(
            loss,
            (*batch, weights),
            dynamo=True,
            dynamic_shapes=((*sizes, [points for _ in weights]),),
            input_names=[*BATCH, *source.arrays],
            output_names=[*ANSWERS],
            verbose=False,
        )
    for node in program.model.graph:
        node.metadata_props.clear()
    if spec.base != "plain":
        from zoplat_devices.onnx.packing import pack

        pack(program.model)
    onnx_ir.save(program.model, folder / GRAPH, external_data=f"{GRAPH}.data", size_threshold_bytes=1 << 10)


def _encoder(loaded: Loaded, before: int, tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, token_limit(loaded, before))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the exporter says about a model that it can't follow, as the user's error."""
    try:
        yield
    except ImportError as problem:
        raise ZoplatError(
            f"To make a graph of {name}, PyTorch's exporter needs a package that is not installed: {problem}. "
            "pip install 'zoplat[onnx]'"
        ) from problem
    except torch.onnx.OnnxExporterError as problem:
        first = str(problem).strip().partition("\n")[0]
        raise ZoplatError(f"{name} can't be exported as an ONNX graph: {first}  Use --device cpu.") from problem

"""Export a model of PyTorch to a folder that `graph.Graph` opens, and compare the two."""

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
from zoplat_devices.onnx.facts import Facts
from zoplat_devices.onnx.graph import BATCH, GRAPH, OUTPUTS, TOKENIZER, Graph, PlainTokenizer, feeds
from zoplat_devices.onnx.points import at_moves
from zoplat_devices.onnx.stacked import Stacked
from zoplat_devices.onnx.stages import stage
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.loaded import Loaded, token_limit
from zoplat_devices.pytorch.models import load
from zoplat_devices.pytorch.quiet import quiet
from zoplat_devices.pytorch.scoring import Scorer, inner_model
from zoplat_devices.pytorch.tuning import blocks, tuned
from zoplat_devices.text.encoding import Encoder

TOLERANCE = 1e-4
"""Largest difference of a score, relative to the scores, between PyTorch and the graph."""
POINTS = 7  # stacked in the example that is traced; equal to none of its other dimensions
EXAMPLES = [
    Example("The plot was thin, but the actors were fine and we laughed. It was", (" terrible", " great"), 1),
    Example("No. It was", (" not very good", " bad", " a pleasure"), 0),
]
"""Examples whose scores by PyTorch and by the graph are compared."""
SLACK = {"plain": 0.1, "int8": 0.5}
"""Base → relative error that the effect of an edit may have in the graph; quantised weights have other slopes."""


class Source:
    """A model of PyTorch that is to be exported.

    Args:
        device: makes blocks of arrays.
        spec: the model, and what of it is trained.
        notice: is called with a line of text for the user.

    Attributes:
        arrays: trained weights by name; numpy arrays that share memory with the model.

    Raises:
        ZoplatError: the model can't be loaded or tuned, or is not a causal one.
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
        """Write the trained weights as they are now."""
        from safetensors.numpy import save_file

        save_file(self.arrays, path)

    def proof(self) -> proof.Proof:
        """Moves of weights with their effects on the loss of PyTorch."""
        rows, parameters = self.encoder.encode([proof.EXAMPLE]), self.parameters.values()

        def gradient() -> dict[str, Any]:
            slopes = torch.autograd.grad(self.scorer.mean_loss(rows), list(parameters), allow_unused=True)
            found = [torch.zeros_like(p) if s is None else s for s, p in zip(slopes, parameters, strict=True)]
            return dict(zip(self.arrays, (slope.numpy() for slope in found), strict=True))

        return proof.prove(self.arrays, lambda: self.scorer.loss(rows), gradient)


def export(
    device: Device,
    spec: ModelSpec,
    target: Path,
    start: str,
    identity: str,
    versions: dict[str, str],
    notice: Callable[[str], None],
) -> None:
    """Export a model to a folder, atomically; does nothing if another process has made it at the same time.

    Args:
        device: makes blocks of arrays.
        spec: the model, and what of it is trained.
        target: the folder.
        start: name of the file for the initial values of the trained weights.
        identity: identifies the weights of the model.
        versions: of the packages that take part.
        notice: is called with a line of text for the user.

    Raises:
        ZoplatError: the model can't be exported, or the graph's losses or scores differ from the model's.
    """
    if spec.base != "plain" and spec.tune.name == "full":
        raise ZoplatError(f"--base {spec.base}: with --tune full no weight is frozen. Use an adapter, or leave it out.")
    with stage("graph, 1 of 3: opening the model", notice):
        source = Source(device, spec, notice)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        source.write_start(temporary / start)
        source.loaded.tokenizer.backend_tokenizer.save(str(temporary / TOKENIZER))
        with stage("graph, 2 of 3: tracing the model and writing its graph, the longest part", notice):
            _write_graph(source, temporary, spec)
        with stage("graph, 3 of 3: comparing its losses with the model's", notice):
            _facts(source, spec, temporary, start, identity, versions).write(temporary)
        temporary.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _facts(source: Source, spec: ModelSpec, folder: Path, start: str, identity: str, versions: dict[str, str]) -> Facts:
    """The facts about the graph in a folder, once its losses and scores were found to be those of the model."""
    tokenizer = source.loaded.tokenizer
    plain = PlainTokenizer(folder, tokenizer.bos_token_id)
    encoder = _encoder(source.loaded, virtual.count(source.model), plain)
    graph = Graph(folder, source.arrays, ["CPUExecutionProvider"], torch.get_num_threads(), prepack=False)
    parity = _parity(source, graph, encoder, spec.base)
    rows, arrays = encoder.encode([proof.EXAMPLE]), source.arrays
    in_place = proof.one_by_one(arrays, lambda: graph.loss(rows))
    losses, single = at_moves(graph, rows, arrays) if graph.is_stacked else in_place, source.proof()
    parity["edits_off_by"] = single.compare(arrays, losses, str(folder), SLACK[spec.base])
    grouped = single.grouped(arrays, losses)
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
    """Losses and scores of both; raises ZoplatError where they differ, unless weights are quantised."""
    rows = encoder.encode(EXAMPLES)
    if [row.tokens for row in rows] != [row.tokens for row in source.encoder.encode(EXAMPLES)]:
        raise ZoplatError(
            f"The tokenizer of {source.loaded.name} reads otherwise outside of transformers. Use --device cpu."
        )
    expected, found = source.scorer.scores(rows), graph.scores(rows)
    off = max(abs(a - b) for one, two in zip(expected, found, strict=True) for a, b in zip(one, two, strict=True))
    parity = {"torch": source.scorer.loss(rows), "onnx": graph.loss(rows), "largest_difference": off}
    if base == "plain" and not off <= TOLERANCE * max(1.0, *(abs(score) for scores in expected for score in scores)):
        raise ZoplatError(
            f"The exported graph scores an option {off:.2g} off what PyTorch says, more than {TOLERANCE}. "
            "Use --device cpu."
        )
    return {**parity, "tolerance": TOLERANCE if base == "plain" else None}


class _Loss(torch.nn.Module):  # type: ignore[misc]
    """The module that is exported: from a batch and the trained weights to scores and losses.

    Args:
        source: the model.
        is_stacked: whether weights have a leading dimension of points, and scores and losses too.
    """

    def __init__(self, source: Source, is_stacked: bool) -> None:
        super().__init__()
        self.logits = _Logits(source.model)
        self.is_stacked = is_stacked
        self.names = [f"model.{name}" for name in source.parameters]
        self.before = virtual.count(source.model) if virtual.kind(source.model) == "prompt" else 0
        self.scored: list[Any] = []

    def forward(self, *inputs: Any) -> tuple[Any, Any, Any]:
        ids, sequence, position, token, share, absent, label, weights = inputs
        points = weights[0].shape[0] if self.is_stacked else 1
        self.scored[:] = [points, sequence, position + self.before]
        rows = points * ids.shape[0], points * token.shape[0]
        with Stacked(weights, rows) if self.is_stacked else nullcontext():
            repeated = ids.repeat(points, 1) if self.is_stacked else ids
            logits = torch.func.functional_call(self.logits, dict(zip(self.names, weights, strict=True)), (repeated,))
        logs = torch.log_softmax(logits.float(), dim=-1).unflatten(0, (points, -1))
        taken = logs.gather(2, token[None, :, None].expand(points, -1, -1))
        scores = (share @ taken[:, None])[..., 0]
        right = scores.gather(2, label[None, :, None].expand(points, -1, -1))[..., 0]
        return scores, (torch.logsumexp(scores + absent, dim=2) - right).mean(dim=1), -scores.sum(dim=(1, 2))

    @contextmanager
    def only_scored(self, model: Any) -> Iterator[None]:
        """Within the context, the head computes logits only of the tokens that are scored, (points · n, words)."""

        def select(_: Any, inputs: tuple[Any, ...]) -> tuple[Any]:
            points, sequence, position = self.scored
            return (inputs[0].unflatten(0, (points, -1))[:, sequence, position].flatten(0, 1),)

        hook = inner_model(model).get_output_embeddings().register_forward_pre_hook(select)
        try:
            yield
        finally:
            hook.remove()


class _Logits(torch.nn.Module):  # type: ignore[misc]
    """Logits of token ids, preceded by virtual tokens if the tuning has any."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any) -> Any:
        return virtual.run(self.model, {"input_ids": ids, "use_cache": False}).logits


def _write_graph(source: Source, folder: Path, spec: ModelSpec) -> None:
    """Write the graph and its frozen weights; trained weights are inputs, and the dimensions of a batch are dynamic."""
    is_stacked = spec.tune.is_adapter
    loss, weights = _Loss(source, is_stacked), [parameter.detach() for parameter in source.parameters.values()]
    points: dict[int, Any] = {}
    if is_stacked:
        weights = [torch.stack([weight] * POINTS) for weight in weights]
        points[0] = torch.export.Dim("points")
    batch = [torch.from_numpy(array) for array in feeds(source.encoder.encode(EXAMPLES), False).values()]
    sizes = [dict.fromkeys(range(array.dim()), torch.export.Dim.DYNAMIC) for array in batch]
    with torch.no_grad(), quiet(), loss.only_scored(source.model), _export_errors(source.loaded.name):
        import onnx_ir

        from zoplat_devices.onnx.tidying import tidy

        program = torch.onnx.export(
            loss,
            (*batch, weights),
            dynamo=True,
            dynamic_shapes=((*sizes, [points for _ in weights]),),
            input_names=[*BATCH, *source.arrays],
            output_names=[*OUTPUTS],
            optimize=False,
            verbose=False,
        )
    tidy(program.model)
    for node in program.model.graph:
        node.metadata_props.clear()
    if spec.base != "plain":
        from zoplat_devices.onnx.pieces import cut
        from zoplat_devices.onnx.quantising import quantise

        quantise(program.model)
        cut(program.model.graph)
    onnx_ir.save(program.model, folder / GRAPH, external_data=f"{GRAPH}.data", size_threshold_bytes=1 << 10)


def _encoder(loaded: Loaded, before: int, tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, token_limit(loaded, before))


@contextmanager
def _export_errors(name: str) -> Iterator[None]:
    """Turn errors of the exporter into errors for the user."""
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

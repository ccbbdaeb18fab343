"""What linear layers read in a forward pass: norms of their inputs, and the leading directions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import hypot
from typing import Any, TypeVar

from zoplat.core.blocks import Block
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.core.input_directions import LossAndRows, Rows, count, leading, merged
from zoplat_devices.pytorch.parameters import address, by_address
from zoplat_devices.pytorch.scoring import Scorer

Found = TypeVar("Found")


class LayerInputs:
    """Looks at the inputs of the linear layers that hold a block, over all rows and tokens of a batch but padding.

    Inputs are not kept: what is asked of them is computed while the layer is about to run.

    Args:
        model: the one that runs.
        blocks: the trained weights.
        scorer: runs the model on a batch.
        head: of the model.
    """

    def __init__(self, model: Any, blocks: Sequence[Block], scorer: Scorer, head: str) -> None:
        self._model, self._blocks = model, by_address(blocks)
        self._scorer, self._head = scorer, head

    def norms(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """By block, the Euclidean norm of each input feature."""
        parts = []
        for _, found in self._seen(rows, lambda block, inputs: (inputs * inputs).sum(dim=0)):
            parts.append({name: sum(squares).sqrt().tolist() for name, squares in found.items()})
        return {name: [hypot(*each) for each in zip(*(part[name] for part in parts), strict=True)] for name in parts[0]}

    def directions(self, rows: Sequence[Row], rank: int, rounds: int) -> LossAndRows:
        """The mean loss, and by block leading singular vectors of the inputs, each as long as its singular value."""

        def look(block: Block, inputs: Any) -> Any:
            return power_iteration(inputs, count(block.shape, rank), rounds)

        loss, weight, parts = 0.0, sum(row.weight for row in rows), list[dict[str, Rows]]()
        for (some, own), found in self._seen(rows, look):
            loss += own * (sum(row.weight for row in some) / weight)
            parts.append({name: leading([one.tolist() for one in each]) for name, each in found.items()})
        return loss, merged(parts)

    def _seen(
        self, rows: Sequence[Row], look: Callable[[Block, Any], Found]
    ) -> Iterator[tuple[tuple[Sequence[Row], float], dict[str, list[Found]]]]:
        """For each pass over some rows, (the rows, their loss), and by block what was seen, once a call of its layer.

        One pass, but for models whose rows must be read without padding.
        """
        if self._head == "seq2seq":
            raise ZoplatError("The inputs of layers are not known for seq2seq models. Use another --head.")
        is_padded = self._head == "causal" and not self._scorer.sees_padding
        for some in [rows] if is_padded else [[row] for row in rows]:
            found: dict[str, list[Found]] = {}
            with self._scorer.eager(), self._watched(self._scorer.token_mask(some) if is_padded else None, found, look):
                loss = float(self._scorer.loss(some))
            yield (some, loss), found

    @contextmanager
    def _watched(
        self, token_mask: Any, found: dict[str, list[Found]], look: Callable[[Block, Any], Found]
    ) -> Iterator[None]:
        """What `look` sees of the inputs, (tokens, features) float32, is added to what is found."""

        def note(block: Block, module: Any, inputs: Any) -> None:
            flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            if token_mask is not None and (inputs[0].dim() == 3 or len(flat) == token_mask.numel()):
                seen = len(flat) // len(token_mask)  # the vocabulary head reads the last tokens only
                flat = flat[token_mask[:, -seen:].reshape(-1).to(flat.device)]
            found.setdefault(block.name, []).append(look(block, flat))

        with ExitStack() as stack:
            for module in self._model.modules():
                block = self._blocks.get(address(module.weight)) if _is_linear(module) else None
                if block is not None and block.shape[1] == module.in_features:
                    stack.callback(module.register_forward_pre_hook(partial(note, block)).remove)
            yield


def power_iteration(inputs: Any, rank: int, rounds: int) -> Any:
    """σₖ vₖᵀ of the leading right singular vectors of (tokens, features), by power iteration; (rank, features) float32.

    From Hᵀ times a fixed Gaussian, so that the vectors lie in the span of the inputs. Small factorisations are made on
    the host, which has them for every kind of device.
    """
    import torch

    def orthonormal(columns: Any) -> Any:
        return torch.linalg.qr(columns.cpu()).Q.to(inputs)

    found = inputs.new_zeros(rank, inputs.shape[1])
    start = torch.randn(len(inputs), rank, generator=torch.Generator().manual_seed(0)).to(inputs)
    q = orthonormal(inputs.T @ start)
    for _ in range(rounds):
        q = orthonormal(inputs.T @ (inputs @ q))
    within = (inputs @ q).cpu()
    if not within.isfinite().all():
        return found + torch.nan
    _, values, turned = torch.linalg.svd(within, full_matrices=False)
    found[: len(values)] = (values[:, None] * turned).to(inputs) @ q.T
    return found


def _is_linear(module: Any) -> bool:
    return hasattr(module, "in_features") and getattr(module, "weight", None) is not None

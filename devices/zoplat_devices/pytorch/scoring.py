"""From tokens to the score of each option: the forward pass of a classification by options.

The score of an option is the mean log-probability of its tokens after the prompt (arXiv:2305.17333, Appendix E), or
their sum; of a class, its logit. Logits of words are computed only where one of them is asked for, and options of one
token that follow the same prompt are scored from one sequence.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from zoplat.core.example import Row
from zoplat.core.model_spec import Head
from zoplat_devices.pytorch import virtual
from zoplat_devices.text.layout import Layout, laid_out, right_only


@dataclass(frozen=True)
class Batch:
    """Rows as tensors.

    Attributes:
        inputs: of the model.
        options: the most that a row has.
        sequence, position, token: of each token that is scored: its sequence, its place among the logits, its id.
        slot: of each such token, row · options + option.
        share: of each such token in the score of its option: 1 / tokens, or 1 where they are summed.
        absent: (rows, options), true past the options of a row; None where all rows have as many.
        keep: logits that are computed, counted from the end; 0 for all.
        masks: position of the mask in each sequence of a masked model.
        owner: row of each sequence of a decoder; None where each row has one.
        labels: index of the right option of each row.
        rows: how many.
        weight: what they count for together.
        by_tokens: whether the loss is that of all tokens of the right options.
    """

    inputs: dict[str, Any]
    options: int
    sequence: Any = None
    position: Any = None
    token: Any = None
    slot: Any = None
    share: Any = None
    absent: Any = None
    keep: int = 0
    masks: Any = None
    owner: Any = None
    labels: Any = None
    rows: int = 0
    weight: int = 0
    by_tokens: bool = False


class Scorer:
    """Scores of the options of a batch, by one forward pass.

    Args:
        model: of transformers, inside an adapter of peft or not; in evaluation mode.
        device: of torch, where it is.
        head: what it makes of a text.
        pad: id of the tokens that fill rows up.
        left: whether rows are filled up at their beginnings; where the last token has seen all others.
    """

    def __init__(self, model: Any, device: Any, head: Head = "causal", pad: int = 0, left: bool = True) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.device = device
        self.head = head
        self.pad = pad
        self.left = left
        inner = base(model)
        self.accepts = set(inspect.signature(inner.forward).parameters)
        self.run: Callable[..., Any] = virtual.run
        self.mean: Callable[[Batch], Any] = self._mean
        self._last: tuple[list[Row], bool, Batch] | None = None
        self._here = threading.local()  # several passes may be under way, each in a thread of its own
        words = inner.get_output_embeddings() if head != "classifier" else None
        if words is not None:
            words.register_forward_pre_hook(self._few)

    def loss(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch, found in float32: a float, or on CUDA a tensor that waits to be one."""
        with self.torch.inference_mode():
            loss = self.mean(self._for_loss(rows))
            return loss.double() if loss.is_cuda else float(loss)

    def mean_loss(self, rows: Sequence[Row]) -> Any:
        """The same as a tensor, under whatever mode of differentiation the caller has set."""
        with self.eager():
            return self._mean(self._for_loss(rows))

    @contextmanager
    def eager(self) -> Iterator[None]:
        """The model runs as it is, neither compiled nor recorded: its hooks are heard, its derivatives known."""
        before = self.run, self.mean
        self.run, self.mean = virtual.run, self._mean
        try:
            yield
        finally:
            self.run, self.mean = before

    def losses(self, rows: Sequence[Row], copies: int) -> list[float]:
        """Mean loss of each of several copies of a batch, stacked one after the other."""
        each = self._each(self._for_loss([*rows] * copies)).view(copies, -1).sum(dim=1) / sum(r.weight for r in rows)
        return [float(loss) for loss in each.tolist()]

    def sequences(self, rows: Sequence[Row]) -> int:
        """Sequences that the model reads for the loss of a batch."""
        return sum(1 if right_only(row) else len(row.tokens.inputs) for row in rows)

    def present(self, rows: Sequence[Row]) -> Any:
        """(sequences, tokens) of a batch, false where a token is padding; None where none is."""
        inputs = self._batch(rows, True).inputs
        if "attention_mask" not in inputs:
            return None
        mask = inputs["attention_mask"]
        if virtual.kind(self.model) == "prompt":
            mask = self.torch.cat([mask.new_ones(len(mask), virtual.count(self.model)), mask], dim=1)
        return mask.bool()

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, float32."""
        with self.torch.inference_mode():
            told = self._scores(self._batch(rows, False)).tolist()
        return [scores[: len(row.example.options)] for row, scores in zip(rows, told, strict=True)]

    def _for_loss(self, rows: Sequence[Row]) -> Batch:
        return self._batch(rows, self.head != "classifier" and rows[0].example.loss == "tokens")

    def _mean(self, batch: Batch) -> Any:
        return self._each(batch).sum() / batch.weight

    def _each(self, batch: Batch) -> Any:
        """What each row adds to the loss: its cross-entropy, or that of all tokens of its right option."""
        if batch.by_tokens:
            return self.torch.zeros(batch.rows, device=self.device).index_add(
                0, self.torch.div(batch.slot, batch.options, rounding_mode="floor"), -self._taken(batch)
            )
        return self.torch.nn.functional.cross_entropy(self._scores(batch), batch.labels, reduction="none")

    def _scores(self, batch: Batch) -> Any:
        """(rows, options), −∞ past the options of a row."""
        if self.head == "classifier":
            return self.run(self.model, batch.inputs).logits.float()
        flat = self.torch.zeros(batch.rows * batch.options, device=self.device)
        scores = flat.index_add(0, batch.slot, self._taken(batch) * batch.share).view(batch.rows, batch.options)
        return scores if batch.absent is None else scores.masked_fill(batch.absent, float("-inf"))

    def _taken(self, batch: Batch) -> Any:
        """Log-probability of each token that is scored."""
        torch = self.torch
        self._here.masks = batch.masks
        try:
            logits = self.run(self.model, batch.inputs, batch.owner).logits
        finally:
            self._here.masks = None
        logits = logits[:, -batch.keep :]
        logs = torch.log_softmax(logits[batch.sequence, batch.position].float(), dim=-1)
        return logs[torch.arange(len(logs), device=self.device), batch.token]

    def _few(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the head computes logits of: the place of the mask, or all it is given, without gaps.

        The last positions are a view with gaps, and a bfloat16 product with it copies the whole head once a row.
        """
        hidden = inputs[0]
        masks = getattr(self._here, "masks", None)
        if masks is not None:
            places = masks + (virtual.count(self.model) if virtual.kind(self.model) == "prompt" else 0)
            hidden = hidden[self.torch.arange(len(hidden), device=self.device), places][:, None]
        return (hidden.contiguous(), *inputs[1:])

    def _batch(self, rows: Sequence[Row], right: bool) -> Batch:
        """The tensors of a batch, of all options or of those that its loss needs.

        Those of the last batch are kept, for each is asked for several times.
        """
        by_tokens, right = right, right and any(right_only(row) for row in rows)
        last = self._last
        same = last is not None and last[1] == by_tokens and len(last[0]) == len(rows)
        if last is None or not same or any(a is not b for a, b in zip(last[0], rows, strict=True)):
            with self.torch.inference_mode(False):
                found = replace(
                    self._made(rows, right),
                    labels=self._tensor([row.example.label for row in rows]),
                    rows=len(rows),
                    weight=sum(row.weight for row in rows),
                    by_tokens=by_tokens,
                )
                self._last = last = ([*rows], by_tokens, found)
        return last[2]

    def _made(self, rows: Sequence[Row], right: bool) -> Batch:
        layout = laid_out(rows, self.head, right)
        inputs = self.filled(layout.sequences)
        if self.head == "classifier":
            return Batch(inputs, layout.options)
        if decoder := layout.decoder:
            width = max(len(ids) for ids in decoder)
            inputs["decoder_input_ids"] = self._tensor([ids + [self.pad] * (width - len(ids)) for ids in decoder])
        found = self._tensors(rows, inputs, layout)
        own = not decoder or len(layout.owner) == len(rows)
        return found if own else replace(found, owner=self._tensor(layout.owner))

    def _tensors(self, rows: Sequence[Row], inputs: dict[str, Any], layout: Layout) -> Batch:
        sequence, position, token, slot, share = (self._tensor(column) for column in zip(*layout.places, strict=True))
        options, keep, masks, absent = layout.options, 0, None, None
        if self.head == "causal":
            keep = -int(position.min())
            position = position + keep
            if "logits_to_keep" in self.accepts:
                inputs["logits_to_keep"] = keep
        elif self.head == "masked":
            masks = self._tensor([row.tokens.mask for row in rows])
        if any(len(row.example.options) != options for row in rows):
            counts = self._tensor([len(row.example.options) for row in rows])
            absent = self.torch.arange(options, device=self.device)[None] >= counts[:, None]
        return Batch(inputs, options, sequence, position, token, slot, share, absent, keep, masks)

    def _tensor(self, values: Sequence[Any]) -> Any:
        return self.torch.tensor(values, device=self.device)

    def filled(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Sequences filled up to one length, with a mask where their lengths differ."""
        torch, width = self.torch, max(len(ids) for ids in sequences)
        padding = [width - len(ids) for ids in sequences]
        lines = [
            [self.pad] * pad + ids if self.left else ids + [self.pad] * pad
            for pad, ids in zip(padding, sequences, strict=True)
        ]
        inputs: dict[str, Any] = {"input_ids": torch.tensor(lines, device=self.device)}
        if self.head in ("causal", "seq2seq"):
            inputs["use_cache"] = False
        if any(padding):
            pads = torch.tensor(padding, device=self.device)[:, None]
            place = torch.arange(width, device=self.device)[None]
            present = place >= pads if self.left else place < width - pads
            inputs["attention_mask"] = present.long()
            if self.left and "position_ids" in self.accepts:
                inputs["position_ids"] = (place - pads).clamp(min=0)
        return inputs


def base(model: Any) -> Any:
    """The model of transformers inside an adapter of peft."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

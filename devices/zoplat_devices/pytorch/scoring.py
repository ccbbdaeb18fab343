"""From tokens to the score of each option and the loss of a batch, by one forward pass.

The score of an option is the mean log-probability of its tokens after the prompt (arXiv:2305.17333, Appendix E), or
their sum; of a class, its logit. Logits over the vocabulary are computed only at positions that are scored, and options
of one token that follow the same prompt are scored from one sequence.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from zoplat.core.example import Row
from zoplat.core.model_spec import Head
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.padding import differs, run_without, trial_sequences
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
        masks: position of the mask token in each sequence of a masked model.
        owner: row of each sequence of a decoder; None where each row has one.
        labels: index of the right option of each row.
        rows: how many.
        weight: the sum of their weights in a mean loss.
        by_tokens: whether the loss is the mean over all tokens of the right options.
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


Recordings: TypeAlias = "Callable[[Batch, Callable[[Batch], Any]], Any]"
"""The loss of a batch by what was recorded of its shape, or of the function that computes it."""


class MaskPositions(threading.local):
    """A hook of the vocabulary head, which is given its inputs at the mask token, or all of them, contiguous.

    The last positions are a strided view, and a bfloat16 product with it copies the weights of the head once a row.

    Args:
        prompt: number of virtual tokens before each text.

    Attributes:
        masks: position of the mask token in each sequence; None for all inputs. Of each thread, as several forward
            passes may be in progress.
    """

    def __init__(self, prompt: int) -> None:
        import torch

        self.torch = torch
        self.prompt = prompt
        self.masks: Any = None

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of the head, chosen."""
        hidden = inputs[0]
        if self.masks is not None:
            rows = self.torch.arange(len(hidden), device=hidden.device)
            hidden = hidden[rows, self.masks + self.prompt][:, None]
        return (hidden.contiguous(), *inputs[1:])


class Scorer:
    """Scores of the options of a batch and its losses, by one forward pass.

    Args:
        model: of transformers, inside an adapter of peft or not; in evaluation mode.
        device: of torch, where it is.
        head: what it computes from a text.
        pad: id of the padding token.
        left: whether rows are padded on the left; for models whose last token has seen all others.
        order: for each class of the task, its logit; None where a classifier has them in order.

    Attributes:
        run: runs the model, as `virtual.run` does; may be compiled.
        recordings: replays the mean loss of a `Batch`; None where it is computed eagerly.
    """

    def __init__(
        self,
        model: Any,
        device: Any,
        head: Head = "causal",
        pad: int = 0,
        left: bool = True,
        order: Sequence[int] | None = None,
    ) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.device = device
        self.head = head
        self.pad = pad
        self.left = left
        self._order = torch.tensor(order, device=device) if order else None
        inner = inner_model(model)
        self.accepts = set(inspect.signature(inner.forward).parameters)
        self.run: Callable[..., Any] = virtual.run
        self.recordings: Recordings | None = None
        self._cached: tuple[list[Row], bool, Batch] | None = None
        self._positions = MaskPositions(virtual.count(model) if virtual.kind(model) == "prompt" else 0)
        vocabulary_head = inner.get_output_embeddings() if head != "classifier" else None
        if vocabulary_head is not None:
            vocabulary_head.register_forward_pre_hook(self._positions)

    def loss(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch, computed in float32: a float, or on CUDA a tensor of one float64."""
        with self.torch.inference_mode():
            batch = self._loss_batch(rows)
            loss = self.recordings(batch, self._mean) if self.recordings else self._mean(batch)
            return loss.double() if loss.is_cuda else float(loss)

    def mean_loss(self, rows: Sequence[Row]) -> Any:
        """The mean loss as a tensor, under the caller's mode of differentiation."""
        with self.eager():
            return self._mean(self._loss_batch(rows))

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run the model eagerly, neither compiled nor recorded, so that hooks and derivatives work."""
        before = self.run, self.recordings
        self.run, self.recordings = virtual.run, None
        try:
            yield
        finally:
            self.run, self.recordings = before

    def losses(self, rows: Sequence[Row], copies: int) -> list[float]:
        """Mean loss of each of several copies of a batch, stacked one after the other."""
        stacked = self._row_losses(self._loss_batch([*rows] * copies)).view(copies, -1)
        means = stacked.sum(dim=1) / sum(row.weight for row in rows)
        return [float(loss) for loss in means.tolist()]

    def sequences(self, rows: Sequence[Row]) -> int:
        """Number of sequences that the model reads for the loss of a batch."""
        return sum(1 if right_only(row) else len(row.tokens.inputs) for row in rows)

    def token_mask(self, rows: Sequence[Row]) -> Any:
        """(sequences, tokens) of a batch, false where a token is padding; None without padding."""
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
            table = self._scores(self._batch(rows, False)).tolist()
        return [scores[: len(row.example.options)] for row, scores in zip(rows, table, strict=True)]

    def _loss_batch(self, rows: Sequence[Row]) -> Batch:
        return self._batch(rows, self.head != "classifier" and rows[0].example.loss == "tokens")

    def _mean(self, batch: Batch) -> Any:
        return self._row_losses(batch).sum() / batch.weight

    def _row_losses(self, batch: Batch) -> Any:
        """(rows,): the cross-entropy of each row's options, or the sum over all tokens of its right option."""
        if batch.by_tokens:
            row = self.torch.div(batch.slot, batch.options, rounding_mode="floor")
            return self.torch.zeros(batch.rows, device=self.device).index_add(0, row, -self._log_probabilities(batch))
        return self.torch.nn.functional.cross_entropy(self._scores(batch), batch.labels, reduction="none")

    def _scores(self, batch: Batch) -> Any:
        """(rows, options), float32; −∞ past the options of a row."""
        if self.head == "classifier":
            logits = self._logits(batch).float()
            return logits if self._order is None else logits[:, self._order]
        flat = self.torch.zeros(batch.rows * batch.options, device=self.device)
        scores = flat.index_add(0, batch.slot, self._log_probabilities(batch) * batch.share).view(
            batch.rows, batch.options
        )
        return scores if batch.absent is None else scores.masked_fill(batch.absent, float("-inf"))

    def _logits(self, batch: Batch) -> Any:
        """The logits of a batch; without padding where the model's state would see it."""
        if "attention_mask" in batch.inputs and self.sees_padding:
            return run_without(lambda inputs: self.run(self.model, inputs), batch.inputs)
        return self.run(self.model, batch.inputs, batch.owner).logits

    @cached_property
    def sees_padding(self) -> bool:
        """Whether a sequence has other logits beside a longer one than alone, by a trial; see `padding`.

        Only models that are padded on the left may have a state that runs over the padding.
        """
        if not self.left:
            return False
        vocabulary = inner_model(self.model).get_input_embeddings().weight.shape[0]
        short, long = trial_sequences(vocabulary, self.pad)
        with self.torch.inference_mode():
            alone, beside = (virtual.run(self.model, self.padded(some)).logits for some in ([short], [short, long]))
        if self.head == "classifier":
            return differs(alone, beside[:1])
        return differs(alone[:, -1], beside[:1, -1])

    def _log_probabilities(self, batch: Batch) -> Any:
        """Log-probability of each token that is scored, float32."""
        torch = self.torch
        self._positions.masks = batch.masks
        try:
            logits = self._logits(batch)
        finally:
            self._positions.masks = None
        logits = logits[:, -batch.keep :]
        logs = torch.log_softmax(logits[batch.sequence, batch.position].float(), dim=-1)
        return logs[torch.arange(len(logs), device=self.device), batch.token]

    def _batch(self, rows: Sequence[Row], right: bool) -> Batch:
        """The tensors of a batch, with all options or only with the right ones that its loss needs.

        Those of the last batch are cached, since each batch is evaluated at several points.
        """
        by_tokens, right = right, right and any(right_only(row) for row in rows)
        cached = self._cached
        same = cached is not None and cached[1] == by_tokens and len(cached[0]) == len(rows)
        if cached is None or not same or any(a is not b for a, b in zip(cached[0], rows, strict=True)):
            with self.torch.inference_mode(False):
                batch = replace(
                    self._build_batch(rows, right),
                    labels=self._tensor([row.example.label for row in rows]),
                    rows=len(rows),
                    weight=sum(row.weight for row in rows),
                    by_tokens=by_tokens,
                )
                self._cached = cached = ([*rows], by_tokens, batch)
        return cached[2]

    def _build_batch(self, rows: Sequence[Row], right: bool) -> Batch:
        layout = laid_out(rows, self.head, right)
        inputs = self.padded(layout.sequences)
        if self.head == "classifier":
            return Batch(inputs, layout.options)
        if decoder := layout.decoder:
            width = max(len(ids) for ids in decoder)
            inputs["decoder_input_ids"] = self._tensor([ids + [self.pad] * (width - len(ids)) for ids in decoder])
        batch = self._scored_tokens(rows, inputs, layout)
        one_each = not decoder or len(layout.owner) == len(rows)
        return batch if one_each else replace(batch, owner=self._tensor(layout.owner))

    def _scored_tokens(self, rows: Sequence[Row], inputs: dict[str, Any], layout: Layout) -> Batch:
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

    def padded(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Inputs of the model for sequences padded to one length, with an attention mask where their lengths differ."""
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
            column = torch.arange(width, device=self.device)[None]
            is_token = column >= pads if self.left else column < width - pads
            inputs["attention_mask"] = is_token.long()
            if self.left and "position_ids" in self.accepts:
                inputs["position_ids"] = (column - pads).clamp(min=0)
        return inputs


def inner_model(model: Any) -> Any:
    """The model of transformers inside an adapter of peft, or the model itself without one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

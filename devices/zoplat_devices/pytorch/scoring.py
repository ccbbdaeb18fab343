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
from functools import cached_property
from typing import Any

from zoplat.core.example import Row
from zoplat.core.model_spec import Head
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.batch import Batch, BatchBuilder, Packed
from zoplat_devices.pytorch.padding import differs, run_without, trial_sequences
from zoplat_devices.text.layout import right_only


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
            hidden = hidden[rows, self.masks.to(hidden.device) + self.prompt][:, None]
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
        most: the most tokens that it reads.

    Attributes:
        run: runs the model, as `virtual.run` does; may be compiled.
        builder: of its batches.
    """

    def __init__(
        self,
        model: Any,
        device: Any,
        head: Head = "causal",
        pad: int = 0,
        left: bool = True,
        order: Sequence[int] | None = None,
        most: int = 0,
    ) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.device = device
        self.head = head
        self.left = left
        self._order = torch.tensor(order, device=device) if order else None
        inner = inner_model(model)
        accepts = set(inspect.signature(inner.forward).parameters)
        self.builder = BatchBuilder(torch.device(device), head, pad, left, accepts, most)
        self.run: Callable[..., Any] = virtual.run
        self._positions = MaskPositions(virtual.count(model) if virtual.kind(model) == "prompt" else 0)
        vocabulary_head = inner.get_output_embeddings() if head != "classifier" else None
        if vocabulary_head is not None:
            vocabulary_head.register_forward_pre_hook(self._positions)

    def loss(self, rows: Sequence[Row]) -> Any:
        """Mean loss of a batch, computed in float32: a float, or on CUDA a tensor of one float64."""
        with self.torch.inference_mode():
            loss = self.mean(self._loss_batch(rows))
            return loss.double() if loss.is_cuda else float(loss)

    def mean_loss(self, rows: Sequence[Row]) -> Any:
        """The mean loss as a tensor, under the caller's mode of differentiation."""
        with self.eager():
            return self.mean(self._loss_batch(rows))

    def packed(self, rows: Sequence[Row]) -> Packed:
        """The batch whose loss `loss` computes, on the host."""
        return self.builder.packed(rows, self._by_tokens(rows))

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run the model without a compiler, so that hooks and derivatives work."""
        before, self.run = self.run, virtual.run
        try:
            yield
        finally:
            self.run = before

    def losses(self, rows: Sequence[Row], copies: int) -> Any:
        """Mean loss of each of several copies of a batch, stacked one after the other; (copies,) float32."""
        return self.means(self._loss_batch([*rows] * copies), copies)

    def row_losses(self, rows: Sequence[Row], copies: int = 1) -> Any:
        """Loss of each row by itself, of several copies of a batch; (copies, rows) float32."""
        batch = self._loss_batch([*rows] * copies)
        losses = self._row_losses(batch).view(copies, -1)
        if batch.by_tokens:
            losses = losses / self.torch.tensor([float(row.weight) for row in rows], device=self.device)
        return losses

    def sequences(self, rows: Sequence[Row]) -> int:
        """Number of sequences that the model reads for the loss of a batch."""
        return sum(1 if right_only(row) else len(row.tokens.inputs) for row in rows)

    def token_mask(self, rows: Sequence[Row]) -> Any:
        """(sequences, tokens) of a batch, false where a token is padding; None without padding."""
        inputs = self.builder.batch(rows, True).inputs
        if "attention_mask" not in inputs:
            return None
        mask = inputs["attention_mask"]
        if virtual.kind(self.model) == "prompt":
            mask = self.torch.cat([mask.new_ones(len(mask), virtual.count(self.model)), mask], dim=1)
        return mask.bool()

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, float32."""
        with self.torch.inference_mode():
            table = self._scores(self.builder.batch(rows, False)).tolist()
        return [scores[: len(row.example.options)] for row, scores in zip(rows, table, strict=True)]

    def mean(self, batch: Batch) -> Any:
        """Mean loss of a batch, float32."""
        return self._row_losses(batch).sum() / batch.weight

    def means(self, batch: Batch, copies: int) -> Any:
        """Mean loss of each of several copies that a batch consists of, one after the other; (copies,) float32."""
        return self._row_losses(batch).view(copies, -1).sum(dim=1) / (batch.weight / copies)

    def _loss_batch(self, rows: Sequence[Row]) -> Batch:
        return self.builder.batch(rows, self._by_tokens(rows))

    def _by_tokens(self, rows: Sequence[Row]) -> bool:
        """Whether the loss of a batch may need the right options alone."""
        return self.head != "classifier" and rows[0].example.loss == "tokens"

    def _row_losses(self, batch: Batch) -> Any:
        """(rows,): the cross-entropy of each row's options, or the sum over all tokens of its right option."""
        if batch.by_tokens:
            return -self._by_option(batch, self._log_probabilities(batch)).sum(dim=1)
        return self.torch.nn.functional.cross_entropy(self._scores(batch), batch.labels, reduction="none")

    def _scores(self, batch: Batch) -> Any:
        """(rows, options), float32; −∞ past the options of a row."""
        if self.head == "classifier":
            logits = self._logits(batch).float()
            return logits if self._order is None else logits[:, self._order]
        scores = self._by_option(batch, self._log_probabilities(batch) * batch.share)
        return scores if batch.absent is None else scores.masked_fill(batch.absent, float("-inf"))

    def _by_option(self, batch: Batch, values: Any) -> Any:
        """(rows, options): the sum of the values of each option's tokens, in an order that is the same every time."""
        table = self.torch.zeros(batch.rows * batch.options + 1, batch.width, device=self.device)
        table = table.index_put((batch.slot, batch.column), values)  # the last line is of tokens that fill up
        return table.sum(dim=1)[:-1].view(batch.rows, batch.options)

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
        short, long = trial_sequences(vocabulary, self.builder.pad)
        with self.torch.inference_mode():
            alone, beside = (
                virtual.run(self.model, self.builder.padded(some)).logits for some in ([short], [short, long])
            )
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


def inner_model(model: Any) -> Any:
    """The model of transformers inside an adapter of peft, or the model itself without one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

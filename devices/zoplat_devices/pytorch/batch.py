"""Batches of rows as tensors: built on the host, and sent to a device by one copy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, NamedTuple

import torch

from zoplat.core.example import Row
from zoplat.core.model_spec import Head
from zoplat_devices.text.layout import Layout, laid_out, right_only


@dataclass(frozen=True)
class Batch:
    """Rows as tensors.

    Attributes:
        inputs: of the model.
        options: the most that a row has.
        sequence, position, token: of each token that is scored: its sequence, its place among the logits, its id.
        slot: of each such token, row · options + option; rows · options for one that only fills up.
        column: of each such token, its number among those of its slot.
        width: at least the most tokens of a slot.
        share: of each such token in the score of its option: 1 / tokens, or 1 where they are summed.
        absent: (rows, options), true past the options of a row; None where all rows have as many.
        keep: logits that are computed, counted from the end; 0 for all.
        masks: position of the mask token in each sequence of a masked model.
        owner: row of each sequence of a decoder; None where each row has one.
        labels: index of the right option of each row.
        rows: how many.
        weight: the sum of their weights in a mean loss, float32.
        by_tokens: whether the loss is the mean over all tokens of the right options.
    """

    inputs: dict[str, Any]
    options: int
    sequence: Any = None
    position: Any = None
    token: Any = None
    slot: Any = None
    column: Any = None
    width: int = 0
    share: Any = None
    absent: Any = None
    keep: int = 0
    masks: Any = None
    owner: Any = None
    labels: Any = None
    rows: int = 0
    weight: Any = None
    by_tokens: bool = False

    def with_tensors(self, change: Callable[[Any], Any]) -> Batch:
        """The same batch with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: changed(part) for name, part in value.items()}
            return change(value) if isinstance(value, torch.Tensor) else value

        return replace(self, **{field.name: changed(getattr(self, field.name)) for field in fields(self)})

    def values(self) -> Iterator[tuple[str, Any]]:
        """All tensors and other values by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            yield from value.items() if isinstance(value, dict) else [(field.name, value)]


class Packed(NamedTuple):
    """A batch whose tensors are in one array of words.

    Attributes:
        words: (n,) int64 on the host, each tensor from a word of its own on.
        batch: on the host.
    """

    words: Any
    batch: Batch

    @property
    def form(self) -> Hashable:
        """All that work on a batch depends on but for the words: shapes and dtypes, and every value but tensors."""
        return tuple(
            (name, (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else repr(value))
            for name, value in self.batch.values()
        )

    def on(self, words: Any) -> Batch:
        """The batch on a device.

        Args:
            words: (n,) int64 there; the tensors are views of it.
        """
        begin = 0

        def view(tensor: Any) -> Any:
            nonlocal begin
            count = _words(tensor)
            part = words[begin : begin + count].view(tensor.dtype)
            begin += count
            return part[: tensor.numel()].view(tensor.shape)

        return self.batch.with_tensors(view)


def packed(batch: Batch) -> Packed:
    """Put all tensors of a batch on the host into one array."""
    tensors = [value for _, value in batch.values() if isinstance(value, torch.Tensor)]
    words = torch.zeros(sum(map(_words, tensors)), dtype=torch.int64)
    begin = 0
    for tensor in tensors:
        room = words[begin : begin + _words(tensor)].view(tensor.dtype)
        room[: tensor.numel()] = tensor.reshape(-1)
        begin += _words(tensor)
    return Packed(words, batch)


def _words(tensor: Any) -> int:
    """Words that a tensor takes."""
    return -(-int(tensor.nbytes) // 8)


class BatchBuilder:
    """Builds batches for one model.

    Args:
        device: of torch, where they are used.
        head: what the model computes from a text.
        pad: id of the padding token.
        left: whether rows are padded on the left.
        accepts: names of the arguments that the model takes.
        most: the most tokens that it reads.
    """

    def __init__(self, device: Any, head: Head, pad: int, left: bool, accepts: set[str], most: int) -> None:
        self.device, self.head, self.pad, self.left, self.accepts = device, head, pad, left, accepts
        self._most = most
        self._cached: tuple[list[Row], bool, Packed | Batch] | None = None

    def batch(self, rows: Sequence[Row], right: bool) -> Batch:
        """The tensors of rows on the device, with all options or only with the right ones that their loss needs.

        Those of the last rows are cached, since each batch is evaluated at several points.
        """
        made = self._once(rows, right, lambda: self._sent(self._build(rows, right, fills=False)))
        return made if isinstance(made, Batch) else self._sent(made.batch)

    def packed(self, rows: Sequence[Row], right: bool) -> Packed:
        """The same on the host, in one array, filled up so that few shapes occur.

        Lengths, and numbers of tokens that are scored, are rounded up. What fills up counts for nothing.
        """
        made = self._once(rows, right, lambda: packed(self._build(rows, right, fills=True)))
        return made if isinstance(made, Packed) else packed(self._build(rows, right, fills=True))

    def padded(self, sequences: list[list[int]]) -> dict[str, Any]:
        """Inputs of the model for sequences padded to one length, with an attention mask where their lengths differ."""
        inputs = self._padded(sequences, fills=False)
        return {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in inputs.items()}

    def _once(self, rows: Sequence[Row], right: bool, make: Callable[[], Packed | Batch]) -> Packed | Batch:
        """What was made of the last rows, if these are the same, else what is made now."""
        cached = self._cached
        same = cached is not None and cached[1] == right and len(cached[0]) == len(rows)
        if cached is None or not same or any(a is not b for a, b in zip(cached[0], rows, strict=True)):
            self._cached = cached = ([*rows], right, make())
        return cached[2]

    def _sent(self, batch: Batch) -> Batch:
        """A batch on the device."""
        with torch.inference_mode(False):
            if self.device.type != "cuda":
                return batch.with_tensors(lambda tensor: tensor.to(self.device))
            made = packed(batch)
            return made.on(made.words.pin_memory().to(self.device, non_blocking=True))

    def _build(self, rows: Sequence[Row], right: bool, fills: bool) -> Batch:
        """A batch on the host."""
        with torch.inference_mode(False):
            by_tokens, right = right, right and any(right_only(row) for row in rows)
            batch = replace(
                self._laid_out(rows, right, fills),
                labels=torch.tensor([row.example.label for row in rows]),
                rows=len(rows),
                weight=torch.tensor(float(sum(row.weight for row in rows))),
                by_tokens=by_tokens,
            )
            return _filled(batch) if fills and batch.token is not None else batch

    def _laid_out(self, rows: Sequence[Row], right: bool, fills: bool) -> Batch:
        layout = laid_out(rows, self.head, right)
        inputs = self._padded(layout.sequences, fills)
        if self.head == "classifier":
            return Batch(inputs, layout.options)
        if decoder := layout.decoder:
            width = self._length(decoder, fills)
            inputs["decoder_input_ids"] = torch.tensor([ids + [self.pad] * (width - len(ids)) for ids in decoder])
        batch = self._scored_tokens(rows, inputs, layout, fills)
        one_each = not decoder or len(layout.owner) == len(rows)
        return batch if one_each else replace(batch, owner=torch.tensor(layout.owner))

    def _scored_tokens(self, rows: Sequence[Row], inputs: dict[str, Any], layout: Layout, fills: bool) -> Batch:
        sequence, position, token, slot, share = (torch.tensor(column) for column in zip(*layout.places, strict=True))
        options, keep, masks, absent = layout.options, 0, None, None
        counts = [len(list(tokens)) for _, tokens in groupby(place.slot for place in layout.places)]
        column = torch.tensor([number for count in counts for number in range(count)])
        width = rounded(max(counts)) if fills else max(counts)
        if self.head == "causal":
            keep = -int(position.min())
            if fills:
                keep = min(1 << (keep - 1).bit_length(), inputs["input_ids"].shape[1])
            position = position + keep
            if "logits_to_keep" in self.accepts:
                inputs["logits_to_keep"] = keep
        elif self.head == "masked":
            masks = torch.tensor([row.tokens.mask for row in rows])
        if any(len(row.example.options) != options for row in rows):
            given = torch.tensor([len(row.example.options) for row in rows])
            absent = torch.arange(options)[None] >= given[:, None]
        return Batch(inputs, options, sequence, position, token, slot, column, width, share, absent, keep, masks)

    def _length(self, sequences: list[list[int]], fills: bool) -> int:
        """Tokens that sequences are padded to."""
        longest = max(len(ids) for ids in sequences)
        return max(longest, min(rounded(longest), self._most)) if fills else longest

    def _padded(self, sequences: list[list[int]], fills: bool) -> dict[str, Any]:
        width = self._length(sequences, fills)
        padding = [width - len(ids) for ids in sequences]
        lines = [
            [self.pad] * pad + ids if self.left else ids + [self.pad] * pad
            for pad, ids in zip(padding, sequences, strict=True)
        ]
        inputs: dict[str, Any] = {"input_ids": torch.tensor(lines)}
        if self.head in ("causal", "seq2seq"):
            inputs["use_cache"] = False
        if any(padding):
            pads = torch.tensor(padding)[:, None]
            column = torch.arange(width)[None]
            is_token = column >= pads if self.left else column < width - pads
            inputs["attention_mask"] = is_token.long()
            if self.left and "position_ids" in self.accepts:
                inputs["position_ids"] = (column - pads).clamp(min=0)
        return inputs


def rounded(count: int) -> int:
    """The smallest of 16, 32, 48, 64, 96, 128, 192, 256, … that is no less than a number."""
    power = max(16, 1 << (count - 1).bit_length())
    return power - power // 4 if power > 32 and count <= power - power // 4 else power


def _filled(batch: Batch) -> Batch:
    """A batch with more tokens to score, whose scores count for no option."""
    tokens = len(batch.token)
    columns = {
        name: torch.cat([column := getattr(batch, name), column.new_zeros(rounded(tokens) - tokens)])
        for name in ("sequence", "position", "token", "slot", "column", "share")
    }
    columns["slot"][tokens:] = batch.rows * batch.options
    return replace(batch, **columns)

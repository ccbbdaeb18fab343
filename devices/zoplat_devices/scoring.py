"""From text to tokens to the score of each option: the forward pass of a classification by options.

The score of an option is the mean log-probability of its tokens after the prompt (arXiv:2305.17333, Appendix E).
Logits are computed only at the positions that predict an option's token, and options of one token that follow
the same prompt are scored from one sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoplat.device import Example, Row
from zoplat.errors import ZoplatError


@dataclass(frozen=True)
class Tokens:
    """An encoded example.

    Attributes:
        inputs: token ids of its sequences: one that all options share, or one per option.
        targets: for each option, the tokens to predict at the last positions of its sequence.
    """

    inputs: list[list[int]]
    targets: list[list[int]]

    @property
    def is_shared(self) -> bool:
        """Whether one sequence serves all options."""
        return len(self.inputs) == 1


class Encoder:
    """Text to `Tokens` with a fast tokenizer of transformers."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        if not tokenizer.is_fast:
            raise ZoplatError(
                f"{type(tokenizer).__name__} gives no character offsets, which locate an option's tokens. "
                "Use a model with a fast tokenizer."
            )
        self.tokenizer = tokenizer
        self.limit = limit

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Rows in the order of the examples."""
        texts = [example.prompt + option for example in examples for option in example.options]
        encoded = self.tokenizer(texts, return_offsets_mapping=True)
        parts = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        return [self._row(example, [next(parts) for _ in example.options]) for example in examples]

    def _row(self, example: Example, encoded: list[tuple[list[int], list[tuple[int, int]]]]) -> Row:
        inputs, targets = [], []
        for ids, offsets in encoded:
            first = next((i for i, (_, end) in enumerate(offsets) if end > len(example.prompt)), len(ids))
            stop = max((i + 1 for i, (start, end) in enumerate(offsets) if end > start), default=0)
            if first >= stop or first == 0:
                raise ZoplatError(f"No token of its own for an option of {example.options} after {example.prompt!r}.")
            inputs.append(self._cut(ids[: stop - 1]))
            targets.append(ids[first:stop])
        shared = all(len(target) == 1 for target in targets) and all(i == inputs[0] for i in inputs)
        tokens = Tokens(inputs[:1] if shared else inputs, targets)
        return Row(example, max(len(ids) for ids in tokens.inputs), tokens)

    def _cut(self, ids: list[int]) -> list[int]:
        """At most `limit` tokens: the last ones, and the first if it marks the beginning."""
        if len(ids) <= self.limit:
            return ids
        marks = ids[:1] == [self.tokenizer.bos_token_id]
        return ids[:1] + ids[-self.limit + 1 :] if marks else ids[-self.limit :]


class Scorer:
    """Scores of the options of a batch, by one forward pass of a causal model."""

    def __init__(self, model: Any, device: Any) -> None:
        import torch

        self.torch = torch
        self.model = model
        self.device = device
        self.accepts = set(inspect.signature(_inner(model).forward).parameters)
        self._last: tuple[list[int], dict[str, Any]] = ([], {})
        # The last positions are a view with gaps, and a bfloat16 product with it copies the whole head once a row.
        _inner(model).get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    def loss(self, rows: Sequence[Row]) -> float:
        """Mean cross-entropy over the options' scores, float32."""
        with self.torch.inference_mode():
            return float(self.mean_loss(rows))

    def mean_loss(self, rows: Sequence[Row]) -> Any:
        """The same as a tensor, under whatever mode of differentiation the caller has set."""
        labels = self.torch.tensor([row.example.label for row in rows], device=self.device)
        return self.torch.nn.functional.cross_entropy(self._scores(rows), labels)

    def losses(self, rows: Sequence[Row], copies: int) -> list[float]:
        """Mean cross-entropy of each of several copies of a batch, stacked one after the other."""
        labels = self.torch.tensor([row.example.label for row in rows] * copies, device=self.device)
        each = self.torch.nn.functional.cross_entropy(self._scores([*rows] * copies), labels, reduction="none")
        return [float(loss) for loss in each.view(copies, -1).mean(dim=1)]

    def present(self, rows: Sequence[Row]) -> Any:
        """(sequences, tokens) of a batch, false where a token is padding; None where none is."""
        mask = self._batch(rows)["inputs"].get("attention_mask")
        return None if mask is None else mask.bool()

    def scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """Score of every option of each row, float32."""
        with self.torch.inference_mode():
            told = self._scores(rows).tolist()
        return [scores[: len(row.example.options)] for row, scores in zip(rows, told, strict=True)]

    def _scores(self, rows: Sequence[Row]) -> Any:
        torch = self.torch
        batch = self._batch(rows)
        logits = self.model(**batch["inputs"]).logits[:, -batch["keep"] :]
        logs = torch.log_softmax(logits[batch["sequence"], batch["position"]].float(), dim=-1)
        taken = logs[torch.arange(len(logs), device=self.device), batch["token"]]
        scores = torch.zeros(len(rows) * batch["options"], device=self.device)
        scores = scores.index_add(0, batch["slot"], taken / batch["length"])
        return scores.view(len(rows), batch["options"])

    def _batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The tensors of a batch; those of the last batch are kept, for each is asked for several times."""
        key = [id(row) for row in rows]
        if self._last[0] != key:
            with self.torch.inference_mode(False):
                self._last = (key, self._made(rows))
        return self._last[1]

    def _made(self, rows: Sequence[Row]) -> dict[str, Any]:
        sequences: list[list[int]] = []
        options = len(rows[0].example.options)
        where: list[tuple[int, int, int, int, int]] = []  # sequence, position from the end, token, slot, length
        for index, row in enumerate(rows):
            if len(row.example.options) != options:
                raise ZoplatError("The examples of a batch have different numbers of options.")
            first = len(sequences)
            sequences += row.tokens.inputs
            for option, target in enumerate(row.tokens.targets):
                sequence = first if row.tokens.is_shared else first + option
                for back, token in enumerate(reversed(target)):
                    where.append((sequence, back, token, index * options + option, len(target)))
        keep = 1 + max(back for _, back, _, _, _ in where)
        columns = [self.torch.tensor(column, device=self.device) for column in zip(*where, strict=True)]
        made = dict(zip(("sequence", "position", "token", "slot", "length"), columns, strict=True))
        made["position"] = keep - 1 - made["position"]
        return {**made, "keep": keep, "options": options, "inputs": self._inputs(sequences, keep)}

    def _inputs(self, sequences: list[list[int]], keep: int) -> dict[str, Any]:
        """Sequences aligned at their ends, with a mask where their lengths differ."""
        torch, width = self.torch, max(len(ids) for ids in sequences)
        padding = [width - len(ids) for ids in sequences]
        ids = torch.tensor([[0] * pad + ids for pad, ids in zip(padding, sequences, strict=True)], device=self.device)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if any(padding):
            start = torch.tensor(padding, device=self.device)[:, None]
            position = torch.arange(width, device=self.device)[None] - start
            inputs["attention_mask"] = (position >= 0).long()
            if "position_ids" in self.accepts:
                inputs["position_ids"] = position.clamp(min=0)
        if "logits_to_keep" in self.accepts:
            inputs["logits_to_keep"] = keep
        return inputs


def _inner(model: Any) -> Any:
    """The model of transformers inside an adapter of peft."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model

"""From text to tokens: what a model reads, and which tokens are to be predicted where.

What each head reads of an example:

    causal       prompt option                an option's tokens begin where its first character does
    masked       prompt MASK suffix           each option is one token, in the place of the mask
    seq2seq      prompt; option               the encoder reads one, the decoder writes the other
    classifier   prompt                       the options are classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import Head


@dataclass(frozen=True)
class Tokens:
    """An encoded example.

    Attributes:
        inputs: token ids of its sequences: one that all options share, or one per option.
        targets: for each option, the tokens to predict; after a causal model's input at its last positions.
        decoder: of a seq2seq model, what the decoder reads: one sequence that all options share, or one per option.
        mask: of a masked model, the position of the mask.
    """

    inputs: list[list[int]]
    targets: list[list[int]]
    decoder: tuple[list[int], ...] = ()
    mask: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether one sequence serves all options."""
        return len(self.decoder or self.inputs) == 1


class Encoder:
    """Text to `Tokens` with a fast tokenizer of transformers.

    Args:
        tokenizer: of the model.
        limit: tokens that it can read.
        head: what the model makes of a text.
        start: the token that a decoder reads first.
        classes: of a classifier.
    """

    def __init__(
        self, tokenizer: Any, limit: int, head: Head = "causal", start: int | None = None, classes: int = 0
    ) -> None:
        if not tokenizer.is_fast:
            raise ZoplatError(
                f"{type(tokenizer).__name__} gives no character offsets, which locate an option's tokens. "
                "Use a model with a fast tokenizer."
            )
        if head == "masked" and tokenizer.mask_token is None:
            raise ZoplatError("The tokenizer has no mask token, so it can't ask for a word. Use another --head.")
        if head == "seq2seq" and start is None:
            raise ZoplatError("The model's configuration has no decoder_start_token_id, so its decoder can't begin.")
        self.tokenizer = tokenizer
        self.limit = limit
        self.head = head
        self.start = start
        self.classes = classes

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Rows in the order of the examples."""
        if self.head == "causal":
            return self._continued(examples)
        if self.head == "masked":
            return self._masked(examples)
        if self.head == "seq2seq":
            return self._answered(examples)
        return self._classed(examples)

    def prompts(self, rows: Sequence[Row], room: int) -> list[list[int]]:
        """What the model reads before it writes: the prompts alone, with room for so many tokens.

        A causal model's prompt ends open, without an end mark.
        """
        texts = [row.example.prompt for row in rows]
        read = self._read(texts, max(1, self.limit - room) if self.head == "causal" else self.limit)
        return [ids[: len(ids) - marks] if self.head == "causal" else ids for ids, marks in read]

    def _continued(self, examples: Sequence[Example]) -> list[Row]:
        encoded = iter(self._encoded([example.prompt + option for example in examples for option in example.options]))
        return [self._continued_row(example, [next(encoded) for _ in example.options]) for example in examples]

    def _continued_row(self, example: Example, encoded: list[_Encoded]) -> Row:
        inputs, targets = [], []
        for one in encoded:
            first = next((i for i, end in enumerate(one.ends) if end > len(example.prompt)), len(one.ids))
            stop = len(one.ids) - one.closing
            if first >= stop or first == 0:
                raise ZoplatError(f"No token of its own for an option of {example.options} after {example.prompt!r}.")
            inputs.append(self._cut(one.ids[: stop - 1], one.opening, self.limit))
            targets.append(one.ids[first:stop])
        shared = all(len(target) == 1 for target in targets) and all(i == inputs[0] for i in inputs)
        return _row(example, Tokens(inputs[:1] if shared else inputs, targets))

    def _masked(self, examples: Sequence[Example]) -> list[Row]:
        words = {option: self._word(option) for example in examples for option in example.options}
        mask = self.tokenizer.mask_token
        rows = []
        encoded = self._encoded([example.prompt + mask + example.suffix for example in examples])
        for example, one in zip(examples, encoded, strict=True):
            end = len(example.prompt) + len(mask)
            places = [i for i, token in enumerate(one.ids) if token == self.tokenizer.mask_token_id]
            place = next((i for i in places if one.ends[i] >= end), None)
            if place is None:
                raise ZoplatError(f"The mask after {example.prompt!r} is no token of its own.")
            ids, place = self._around(one, place)
            rows.append(_row(example, Tokens([ids], [[words[option]] for option in example.options], mask=place)))
        return rows

    def _word(self, option: str) -> int:
        """The one token of an option, with its leading blank as the tokenizer writes it."""
        ids = self.tokenizer(option, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            spelled = " ".join(self.tokenizer.convert_ids_to_tokens(ids)) or "nothing"
            raise ZoplatError(
                f"Option {option!r} is not one token for this model ({spelled}), and a masked model fills in one. "
                "Use other words, or --head classifier."
            )
        return int(ids[0])

    def _around(self, one: _Encoded, place: int) -> tuple[list[int], int]:
        """At most `limit` tokens with the mask among them: the prompt loses its beginning, then the suffix its end."""
        over = max(0, len(one.ids) - self.limit)
        before = min(over, place - one.opening)
        after = over - before
        stop = len(one.ids) - one.closing
        if place >= stop - after:
            raise ZoplatError(f"The model reads {self.limit} tokens at most, too few for a mask and its marks.")
        ids = one.ids[: one.opening] + one.ids[one.opening + before : stop - after] + one.ids[stop:]
        return ids, place - before

    def _answered(self, examples: Sequence[Example]) -> list[Row]:
        answers = {option: self._answer(option) for example in examples for option in example.options}
        rows = []
        read = self._read([example.prompt for example in examples], self.limit)
        for example, (ids, _) in zip(examples, read, strict=True):
            targets = [answers[option] for option in example.options]
            decoder = tuple([self.start or 0, *target[:-1]] for target in targets)
            if all(len(target) == 1 for target in targets):
                decoder = decoder[:1]
            rows.append(_row(example, Tokens([ids], targets, decoder)))
        return rows

    def _answer(self, option: str) -> list[int]:
        ids = self.tokenizer(text_target=option.lstrip(), add_special_tokens=False)["input_ids"]
        if not ids:
            raise ZoplatError(f"No token of its own for option {option!r}.")
        return list(ids)

    def _classed(self, examples: Sequence[Example]) -> list[Row]:
        for example in examples:
            if len(example.options) != self.classes:
                raise ZoplatError(
                    f"An example has {len(example.options)} options, the classifier has {self.classes} classes: "
                    f"{example.prompt!r}. Use another --head."
                )
        read = self._read([example.prompt for example in examples], self.limit)
        return [Row(e, len(ids), Tokens([ids], [])) for e, (ids, _) in zip(examples, read, strict=True)]

    def _read(self, texts: Sequence[str], limit: int) -> list[tuple[list[int], int]]:
        """(at most so many tokens: the last ones of the text, and the tokenizer's marks; how many marks end it)."""
        found = []
        for text, one in zip(texts, self._encoded(texts), strict=True):
            if len(one.ids) == 0:
                raise ZoplatError(f"No token for {text!r}.")
            found.append((self._cut(one.ids, one.opening, limit), one.closing))
        return found

    def _encoded(self, texts: Sequence[str]) -> list[_Encoded]:
        told = self.tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True)
        found = []
        for ids, offsets, marks in zip(
            told["input_ids"], told["offset_mapping"], told["special_tokens_mask"], strict=True
        ):
            ends = [end for _, end in offsets]
            if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id and marks[0]:
                ids, ends, marks = ids[1:], ends[1:], marks[1:]  # the text begins with its own
            opening = next((i for i, mark in enumerate(marks) if not mark), len(ids))
            closing = next((i for i, mark in enumerate(reversed(marks)) if not mark), 0)
            found.append(_Encoded(list(ids), ends, opening, closing))
        return found

    def _cut(self, ids: list[int], opening: int, limit: int) -> list[int]:
        """At most `limit` tokens: the last ones, and the first if they mark the beginning."""
        opening = opening or int(ids[:1] == [self.tokenizer.bos_token_id])
        over = max(0, len(ids) - limit)
        return ids[:opening] + ids[opening + over :]


@dataclass(frozen=True)
class _Encoded:
    """A text as tokens.

    Attributes:
        ids: its tokens.
        ends: for each, the characters up to its end.
        opening, closing: how many tokens are the tokenizer's own marks before and after the text.
    """

    ids: list[int]
    ends: list[int]
    opening: int
    closing: int


def _row(example: Example, tokens: Tokens) -> Row:
    length = max(len(ids) for ids in [*tokens.inputs, *tokens.decoder])
    weight = len(tokens.targets[example.label]) if example.loss == "tokens" else 1
    return Row(example, length, tokens, weight)

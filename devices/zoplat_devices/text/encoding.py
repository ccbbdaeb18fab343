"""From text to tokens: the input of a model, and the target tokens of each option.

The input for each head:

    causal       prompt option                targets: the tokens of the option, from its first character on
    masked       prompt MASK suffix           targets: one token per option, at the position of the mask
    seq2seq      prompt; option               input of the encoder; targets of the decoder
    classifier   prompt                       no targets: the options are classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Example, Row
from zoplat.core.model_spec import Head

AT_ONCE = 64
"""Texts that the tokenizer is given at a time."""


@dataclass(frozen=True)
class Tokens:
    """An encoded example.

    Attributes:
        inputs: token ids of its sequences: one that all options share, or one per option.
        targets: for each option, the token ids to predict; a causal model predicts them at the last positions of the
            option's sequence.
        decoder: input of a seq2seq model's decoder: one sequence that all options share, or one per option.
        mask: position of the mask, for masked models.
    """

    inputs: list[list[int]]
    targets: list[list[int]]
    decoder: tuple[list[int], ...] = ()
    mask: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether all options share one sequence."""
        return len(self.decoder or self.inputs) == 1


class Encoder:
    """Text to `Tokens` with a fast tokenizer of transformers.

    Args:
        tokenizer: of the model.
        limit: the most tokens of a sequence.
        head: of the model; decides the form of the input.
        start: the first token of a decoder's input, for seq2seq models.
        classes: number of classes, for classifiers.
        embeddings: number of tokens that the model has an embedding for; None where that is not known.

    Raises:
        ZoplatError: the tokenizer lacks character offsets or a mask token, or a decoder its start token.
    """

    def __init__(
        self,
        tokenizer: Any,
        limit: int,
        head: Head = "causal",
        start: int | None = None,
        classes: int = 0,
        embeddings: int | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise ZoplatError(
                f"{type(tokenizer).__name__} gives no character offsets, which locate an option's tokens. "
                "Use a model with a fast tokenizer."
            )
        if head == "masked" and tokenizer.mask_token is None:
            raise ZoplatError("The tokenizer has no mask token, so a masked head can't be used. Use another --head.")
        if head == "seq2seq" and start is None:
            raise ZoplatError(
                "The model's configuration has no decoder_start_token_id, so its decoder can't begin. Add it there."
            )
        self.tokenizer = tokenizer
        self.limit = limit
        self.head = head
        self.start = start
        self.classes = classes
        self.embeddings = embeddings

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Examples as rows, in their order; raises ZoplatError for an example that the head can't take."""
        if self.head == "causal":
            return self._encode_causal(examples)
        if self.head == "masked":
            return self._encode_masked(examples)
        if self.head == "seq2seq":
            return self._encode_seq2seq(examples)
        return self._encode_classifier(examples)

    def text(self, text: str) -> list[int]:
        """Token ids of a plain text, no more than the model reads: the first ones, without an end-of-sequence token."""
        one = next(self._encoded([text]))
        return one.ids[: len(one.ids) - one.closing][: self.limit]

    def prompts(self, rows: Sequence[Row], room: int) -> list[list[int]]:
        """Token ids of the prompts alone, for generation; a causal model's leave room for `room` more tokens.

        A causal model's prompt has no end-of-sequence token.
        """
        texts = [row.example.prompt for row in rows]
        limit = max(1, self.limit - room) if self.head == "causal" else self.limit
        encoded = self._truncated(texts, limit)
        return [one.ids[: len(one.ids) - one.closing] if self.head == "causal" else one.ids for one in encoded]

    def _encode_causal(self, examples: Sequence[Example]) -> list[Row]:
        encoded = self._encoded([example.prompt + option for example in examples for option in example.options])
        return [self._causal_row(example, [next(encoded) for _ in example.options]) for example in examples]

    def _causal_row(self, example: Example, encoded: list[_Encoded]) -> Row:
        inputs, targets, cut = [], [], 0
        for one in encoded:
            first = next((i for i, end in enumerate(one.ends) if end > len(example.prompt)), len(one.ids))
            stop = len(one.ids) - one.closing
            if first >= stop or first == 0:
                raise ZoplatError(
                    f"No token of its own for an option of {example.options} after {example.prompt!r}: the tokenizer "
                    "merges the two. Use other words for the options."
                )
            self._check_length(one.ids[first:stop])
            inputs.append(self._last(one.ids[: stop - 1], one.opening, self.limit))
            targets.append(one.ids[first:stop])
            cut = max(cut, stop - 1 - len(inputs[-1]))
            if example.is_open:  # `prompts` leaves room for an answer
                cut = max(cut, first - max(1, self.limit - example.length))
        shared = all(len(target) == 1 for target in targets) and all(i == inputs[0] for i in inputs)
        return _row(example, Tokens(inputs[:1] if shared else inputs, targets), cut)

    def _check_length(self, target: Sequence[int]) -> None:
        """Raise ZoplatError where an option alone is longer than what the model reads."""
        if len(target) > self.limit:
            raise ZoplatError(
                f"An option takes {len(target)} tokens, and the model reads {self.limit}. "
                "Use shorter options, or a model that reads more."
            )

    def _encode_masked(self, examples: Sequence[Example]) -> list[Row]:
        words = {option: self._word(option) for example in examples for option in example.options}
        mask = self.tokenizer.mask_token
        rows = []
        encoded = self._encoded([example.prompt + mask + example.suffix for example in examples])
        for example, one in zip(examples, encoded, strict=True):
            end = len(example.prompt) + len(mask)
            masks = [i for i, token in enumerate(one.ids) if token == self.tokenizer.mask_token_id]
            position = next((i for i in masks if one.ends[i] >= end), None)
            if position is None:
                raise ZoplatError(
                    f"The mask after {example.prompt!r} is not a token of its own. Put a space before it in `cloze`."
                )
            ids, position = self._truncated_around(one, position)
            tokens = Tokens([ids], [[words[option]] for option in example.options], mask=position)
            rows.append(_row(example, tokens, len(one.ids) - len(ids)))
        return rows

    def _word(self, option: str) -> int:
        """The single token of an option with its leading blank; raises ZoplatError where it is not one token."""
        ids = self._known(self._tokenized(option, add_special_tokens=False)["input_ids"])
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            pieces = " ".join(self.tokenizer.convert_ids_to_tokens(ids)) or "nothing"
            raise ZoplatError(
                f"Option {option!r} is not one token for this model ({pieces}), and a masked model fills in one. "
                "Use other words, or --head classifier."
            )
        return int(ids[0])

    def _truncated_around(self, one: _Encoded, position: int) -> tuple[list[int], int]:
        """(at most `limit` ids, position of the mask): cut from the prompt's start, then from the suffix's end."""
        over = max(0, len(one.ids) - self.limit)
        before = min(over, position - one.opening)
        after = over - before
        stop = len(one.ids) - one.closing
        if position >= stop - after:
            raise ZoplatError(
                f"The model reads {self.limit} tokens at most, too few for a mask and special tokens. "
                "Use another model."
            )
        ids = one.ids[: one.opening] + one.ids[one.opening + before : stop - after] + one.ids[stop:]
        return ids, position - before

    def _encode_seq2seq(self, examples: Sequence[Example]) -> list[Row]:
        ids_of = {option: self._target_ids(option) for example in examples for option in example.options}
        rows = []
        prompts = self._truncated([example.prompt for example in examples], self.limit)
        for example, (ids, _, cut) in zip(examples, prompts, strict=True):
            targets = [ids_of[option] for option in example.options]
            self._check_length(max(targets, key=len))
            decoder = tuple([self.start or 0, *target[:-1]] for target in targets)
            if all(len(target) == 1 for target in targets):
                decoder = decoder[:1]
            rows.append(_row(example, Tokens([ids], targets, decoder), cut))
        return rows

    def _target_ids(self, option: str) -> list[int]:
        """Token ids of an option as a decoder writes it."""
        ids = self._tokenized(text_target=option.lstrip(), add_special_tokens=False)["input_ids"]
        if not ids:
            raise ZoplatError(f"No token of its own for option {option!r}. Use another word for it.")
        return self._known(ids)

    def _known(self, ids: Sequence[int]) -> list[int]:
        """The token ids; raises ZoplatError where the model has no embedding for one of them."""
        highest = max(ids, default=0)
        if self.embeddings is not None and highest >= self.embeddings:
            raise ZoplatError(
                f"The tokenizer has {len(self.tokenizer)} tokens, the model {self.embeddings} embeddings: token "
                f"{self.tokenizer.convert_ids_to_tokens(highest)!r} ({highest}) has none. Use the tokenizer that the "
                "model was made with, or save the model with as many embeddings (resize_token_embeddings)."
            )
        return list(ids)

    def _encode_classifier(self, examples: Sequence[Example]) -> list[Row]:
        for example in examples:
            if len(example.options) != self.classes:
                raise ZoplatError(
                    f"An example has {len(example.options)} options, the classifier has {self.classes} classes: "
                    f"{example.prompt!r}. Use another --head."
                )
        prompts = self._truncated([example.prompt for example in examples], self.limit)
        return [
            Row(e, len(one.ids), Tokens([one.ids], []), cut=one.cut) for e, one in zip(examples, prompts, strict=True)
        ]

    def _truncated(self, texts: Sequence[str], limit: int) -> list[_Truncated]:
        """Texts as tokens, of which the last ones are kept."""
        results = []
        for text, one in zip(texts, self._encoded(texts), strict=True):
            if len(one.ids) == 0:
                raise ZoplatError(f"No token for {text!r}.")
            ids = self._last(one.ids, one.opening, limit)
            results.append(_Truncated(ids, one.closing, len(one.ids) - len(ids)))
        return results

    def _tokenized(self, *texts: Any, **how: Any) -> Any:
        """What the tokenizer makes of texts; raises ZoplatError where its own vocabulary does not let it."""
        try:
            return self.tokenizer(*texts, **how)
        except Exception as problem:
            if type(problem) is not Exception:  # as the compiled library raises it
                raise
            raise ZoplatError(f"The model's tokenizer can't read the rows: {problem}. Its files are damaged.") from None

    def _encoded(self, texts: Sequence[str]) -> Iterator[_Encoded]:
        """Texts as tokens, a few hundred at a time: what the tokenizer gives takes far more than what is kept of it."""
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            batch = self._tokenized(some, return_offsets_mapping=True, return_special_tokens_mask=True)
            columns = (batch[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
            for ids, offsets, special in zip(*columns, strict=True):
                yield self._without_double_start(ids, [end for _, end in offsets], special)

    def _without_double_start(self, ids: list[int], ends: list[int], special: list[int]) -> _Encoded:
        if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id and special[0]:
            ids, ends, special = ids[1:], ends[1:], special[1:]  # the text itself begins with one
        opening = next((i for i, is_special in enumerate(special) if not is_special), len(ids))
        closing = next((i for i, is_special in enumerate(reversed(special)) if not is_special), 0)
        return _Encoded(self._known(ids), ends, opening, closing)

    def _last(self, ids: list[int], opening: int, limit: int) -> list[int]:
        """At most `limit` tokens: the special tokens at the beginning, and the last of the others."""
        opening = opening or int(ids[:1] == [self.tokenizer.bos_token_id])
        over = max(0, len(ids) - limit)
        return ids[:opening] + ids[opening + over :]


@dataclass(frozen=True)
class _Encoded:
    """A text as tokens.

    Attributes:
        ids: token ids, special tokens included.
        ends: for each token, the offset of its end in the text, in characters.
        opening, closing: number of special tokens before and after the text.
    """

    ids: list[int]
    ends: list[int]
    opening: int
    closing: int


class _Truncated(NamedTuple):
    """A text as tokens, shortened to what the model reads.

    Attributes:
        ids: token ids, special tokens included.
        closing: number of special tokens after the text.
        cut: number of tokens that were left out.
    """

    ids: list[int]
    closing: int
    cut: int


def _row(example: Example, tokens: Tokens, cut: int) -> Row:
    length = max(len(ids) for ids in [*tokens.inputs, *tokens.decoder])
    weight = len(tokens.targets[example.label]) if example.loss == "tokens" else 1
    return Row(example, length, tokens, weight, cut)

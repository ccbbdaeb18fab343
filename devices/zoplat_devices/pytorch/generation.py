"""Greedy generation of text after a prompt, and the features of a prompt in the last layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.scoring import Scorer, inner_model
from zoplat_devices.text.encoding import Encoder

PREFIX_WRITES = (5, 23)
"""Oldest version of transformers with which a seq2seq model was seen to write text with its prefix; 5.0 was not."""


class TextGenerator:
    """Greedy generation and features, with the model and the padding of a scorer.

    Args:
        scorer: pads prompts and holds the model.
        encoder: makes prompts of rows.

    Attributes:
        inner: the model of transformers inside its adapter.
    """

    def __init__(self, scorer: Scorer, encoder: Encoder) -> None:
        import torch

        self.torch = torch
        self.scorer = scorer
        self.encoder = encoder
        self.model = scorer.model
        self.inner = inner_model(scorer.model)
        self.head = scorer.head

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        """The most probable text after each prompt, token by token, up to the first `stop`, stripped of whitespace.

        Raises:
            ZoplatError: the model has no head that generates text.
        """
        if self.head not in ("causal", "seq2seq"):
            raise ZoplatError(f"A {self.head} model can't write text. Use a causal or a seq2seq one (--head).")
        tokens = max(1, min(tokens, self.encoder.limit - 1))
        prompts = self.encoder.prompts(rows, tokens)
        if not all(prompts):
            raise ZoplatError(
                "A prompt is empty, and the tokenizer has no token to begin with. Give every row a prompt."
            )
        inputs = self.scorer.builder.padded(prompts)
        inputs.setdefault("attention_mask", self.torch.ones_like(inputs["input_ids"]))
        for name in ("position_ids", "use_cache"):
            inputs.pop(name, None)
        stopping = _Stopping(self.encoder.tokenizer, stop, self._end_tokens())
        with self.torch.inference_mode(), self._greedy(tokens):
            ids = self._new_tokens(inputs, stopping)
        return [stopping.text(line) for line in ids.tolist()]

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        """The last layer at one token of each prompt, float32: at the mask of a masked model, at the first token of a
        bidirectional classifier, else at the last token.
        """
        scorer, torch = self.scorer, self.torch
        prompts = [row.tokens.inputs[0] for row in rows] if self.head == "masked" else self.encoder.prompts(rows, 0)
        inputs = {**scorer.builder.padded(prompts), "output_hidden_states": True}
        if "logits_to_keep" in scorer.builder.accepts and self.head == "causal":
            inputs["logits_to_keep"] = 1
        if self.head == "seq2seq":
            inputs["decoder_input_ids"] = torch.full((len(rows), 1), self.encoder.start, device=scorer.device)
        with torch.inference_mode():
            outputs = virtual.run(self.model, inputs)
            layers = outputs["encoder_hidden_states" if "encoder_hidden_states" in outputs else "hidden_states"]
            width = inputs["input_ids"].shape[1]
            hidden = layers[-1][:, -width:]  # without the virtual tokens of a prompt
            positions = torch.tensor(self._feature_positions(rows, prompts, width), device=scorer.device)
            features = hidden[torch.arange(len(rows), device=scorer.device), positions]
        return [[float(x) for x in line] for line in features.float().tolist()]

    def _feature_positions(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], width: int) -> list[int]:
        """Position of the token whose features are taken, in each padded prompt."""
        if self.scorer.left:
            return [width - 1 for _ in rows]
        if self.head == "masked":
            return [row.tokens.mask for row in rows]
        return [len(ids) - 1 if self.head == "seq2seq" else 0 for ids in prompts]

    def _new_tokens(self, inputs: dict[str, Any], stopping: _Stopping) -> Any:
        """Generated tokens of each row, (rows, at most so many)."""
        from transformers import StoppingCriteriaList

        ids, kind = inputs["input_ids"], virtual.kind(self.model)
        stopping.skip = 1 if self.head == "seq2seq" else ids.shape[1]
        more: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([stopping])}
        if kind == "prompt":
            stopping.skip = stopping.skip if self.head == "seq2seq" else 0
            return self._written(self.inner, {**virtual.with_prompt(self.model, inputs), **more})[:, stopping.skip :]
        cache = virtual.cache_argument(self.inner)
        if kind == "prefix" and self.head == "causal":
            placeholders = self.torch.zeros_like(ids[:, :1]).expand(-1, virtual.count(self.model))
            ones = self.torch.ones_like(placeholders)
            inputs["input_ids"] = self.torch.cat([placeholders, ids], dim=1)
            inputs["attention_mask"] = self.torch.cat([ones, inputs["attention_mask"]], dim=1)
            stopping.skip = inputs["input_ids"].shape[1]
        if kind == "prefix" and self.head == "seq2seq":
            _check_prefix()
        is_given = self.head == "causal" or cache == "cache"  # which peft does not know yet
        if kind == "prefix" and is_given:
            more[cache] = self.model.get_prompt(len(ids))
        model = self.model if kind and not is_given else self.inner
        return self._written(model, {**inputs, **more})[:, stopping.skip :]

    def _written(self, model: Any, arguments: dict[str, Any]) -> Any:
        """What a model writes, (rows, tokens before the generated ones and those)."""
        return model.generate(**arguments)

    def _end_tokens(self) -> list[int]:
        """Ids of the tokens that end a text."""
        found = self.inner.generation_config.eos_token_id
        found = self.encoder.tokenizer.eos_token_id if found is None else found
        return list(found) if isinstance(found, list | tuple) else [] if found is None else [int(found)]

    @contextmanager
    def _greedy(self, tokens: int) -> Iterator[None]:
        """Generate greedily; of a checkpoint's own generation settings only the special tokens are kept."""
        from transformers import GenerationConfig

        before = self.inner.generation_config
        self.inner.generation_config = GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            bos_token_id=before.bos_token_id,
            eos_token_id=self._end_tokens() or None,
            pad_token_id=self.scorer.builder.pad,
            decoder_start_token_id=self.encoder.start,
        )
        try:
            yield
        finally:
            self.inner.generation_config = before


class _Stopping:
    """A stopping criterion of transformers: which rows have generated the stop text.

    Attributes:
        skip: tokens before the generated ones.
    """

    def __init__(self, tokenizer: Any, stop: str, ends: list[int]) -> None:
        self.tokenizer, self.stop, self.ends = tokenizer, stop, ends
        self.skip = 0

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        texts = self.tokenizer.batch_decode(ids[:, self.skip :].tolist(), skip_special_tokens=True)
        return torch.tensor([self.stop in text for text in texts], device=ids.device)

    def text(self, ids: list[int]) -> str:
        """The text of a row's generated tokens, up to its end token or the stop text."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))  # padding follows
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return str(text.partition(self.stop)[0].strip())


def _check_prefix() -> None:
    """Raise ZoplatError where transformers leaves out the prefix of a decoder that writes text."""
    import transformers

    found = transformers.__version__
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < PREFIX_WRITES:
        needed = ".".join(map(str, PREFIX_WRITES))
        raise ZoplatError(
            f"--tune prefix: with transformers {found} a seq2seq model may write text without its prefix; {needed} and "
            "newer were seen to use it. pip install --upgrade transformers, or use --tune prompt."
        )

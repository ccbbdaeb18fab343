"""What a model writes after a prompt, and what its last layer says of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.scoring import Scorer, base
from zoplat_devices.text.encoding import Encoder


class Writer:
    """Greedy generation and features, with the model and the padding of a scorer."""

    def __init__(self, scorer: Scorer, encoder: Encoder) -> None:
        import torch

        self.torch = torch
        self.scorer = scorer
        self.encoder = encoder
        self.model = scorer.model
        self.inner = base(scorer.model)
        self.head = scorer.head

    def generate(self, rows: Sequence[Row], tokens: int, stop: str) -> list[str]:
        """The most probable text after each prompt, token by token, up to the first `stop`, without blanks around it.

        Raises:
            ZoplatError: the model can't write.
        """
        if self.head not in ("causal", "seq2seq"):
            raise ZoplatError(f"A {self.head} model can't write text. Use a causal or a seq2seq one (--head).")
        tokens = max(1, min(tokens, self.encoder.limit - 1))
        prompts = self.encoder.prompts(rows, tokens)
        if not all(prompts):
            raise ZoplatError("A prompt is empty, and the tokenizer has no mark to begin with.")
        inputs = self.scorer.filled(prompts)
        inputs.setdefault("attention_mask", self.torch.ones_like(inputs["input_ids"]))
        for name in ("position_ids", "use_cache"):
            inputs.pop(name, None)
        written = _Written(self.encoder.tokenizer, stop, self._ends())
        with self.torch.inference_mode(), self._greedy(tokens):
            ids = self._run(inputs, written)
        return [written.text(line) for line in ids.tolist()]

    def features(self, rows: Sequence[Row]) -> list[list[float]]:
        """The last layer at the last token of each prompt; at the mask, or at the first token of a classifier that
        reads both ways; float32.
        """
        scorer, torch = self.scorer, self.torch
        prompts = [row.tokens.inputs[0] for row in rows] if self.head == "masked" else self.encoder.prompts(rows, 0)
        inputs = {**scorer.filled(prompts), "output_hidden_states": True}
        if "logits_to_keep" in scorer.accepts and self.head == "causal":
            inputs["logits_to_keep"] = 1
        if self.head == "seq2seq":
            inputs["decoder_input_ids"] = torch.full((len(rows), 1), self.encoder.start, device=scorer.device)
        with torch.inference_mode():
            told = virtual.run(self.model, inputs)
            hidden = (told["encoder_hidden_states"] if "encoder_hidden_states" in told else told["hidden_states"])[-1]
            width = inputs["input_ids"].shape[1]
            hidden = hidden[:, -width:]  # past a prompt of virtual tokens
            if scorer.left:
                places = [width - 1 for _ in rows]
            elif self.head == "masked":
                places = [row.tokens.mask for row in rows]
            else:
                places = [len(ids) - 1 if self.head == "seq2seq" else 0 for ids in prompts]
            taken = hidden[torch.arange(len(rows), device=scorer.device), torch.tensor(places, device=scorer.device)]
        return [[float(x) for x in line] for line in taken.float().tolist()]

    def _run(self, inputs: dict[str, Any], written: _Written) -> Any:
        """New tokens of each row, (rows, at most so many)."""
        from transformers import StoppingCriteriaList

        ids, kind = inputs["input_ids"], virtual.kind(self.model)
        written.skip = 1 if self.head == "seq2seq" else ids.shape[1]
        more: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([written])}
        if kind == "prompt":
            written.skip = written.skip if self.head == "seq2seq" else 0
            return self.inner.generate(**virtual.prompted(self.model, inputs), **more)[:, written.skip :]
        if kind == "prefix" and self.head == "causal":
            before = self.torch.zeros_like(ids[:, :1]).expand(-1, virtual.count(self.model))
            inputs["input_ids"] = self.torch.cat([before, ids], dim=1)
            inputs["attention_mask"] = self.torch.cat([self.torch.ones_like(before), inputs["attention_mask"]], dim=1)
            written.skip = inputs["input_ids"].shape[1]
            more["past_key_values"] = self.model.get_prompt(len(ids))
            return self.inner.generate(**inputs, **more)[:, written.skip :]
        model = self.model if kind else self.inner
        return model.generate(**inputs, **more)[:, written.skip :]

    def _ends(self) -> list[int]:
        """Tokens that end a text."""
        told = self.inner.generation_config.eos_token_id
        told = self.encoder.tokenizer.eos_token_id if told is None else told
        return list(told) if isinstance(told, list | tuple) else [] if told is None else [int(told)]

    @contextmanager
    def _greedy(self, tokens: int) -> Iterator[None]:
        """Nothing of what a checkpoint wishes for generation but its marks."""
        from transformers import GenerationConfig

        before = self.inner.generation_config
        self.inner.generation_config = GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            bos_token_id=before.bos_token_id,
            eos_token_id=self._ends() or None,
            pad_token_id=self.scorer.pad,
            decoder_start_token_id=self.encoder.start,
        )
        try:
            yield
        finally:
            self.inner.generation_config = before


class _Written:
    """Tells which rows have written what they are to stop at.

    Attributes:
        skip: tokens before the new ones.
    """

    def __init__(self, tokenizer: Any, stop: str, ends: list[int]) -> None:
        self.tokenizer, self.stop, self.ends = tokenizer, stop, ends
        self.skip = 0

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        texts = self.tokenizer.batch_decode(ids[:, self.skip :].tolist(), skip_special_tokens=True)
        return torch.tensor([self.stop in text for text in texts], device=ids.device)

    def text(self, ids: list[int]) -> str:
        """What counts of what was written."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))  # then rows are filled up
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return str(text.partition(self.stop)[0].strip())

"""Text written by a model without weights, which takes what the longest text would take."""

from __future__ import annotations

from typing import Any

import torch

from zoplat_devices.pytorch.generation import TextGenerator
from zoplat_devices.pytorch.rehearsal.allocations import Allocations
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.text.encoding import Encoder


class ShapedGenerator(TextGenerator):
    """Generates one token, and makes the cache as long as that of the last one; the tokens between take less.

    Args:
        scorer, encoder: as those of a `TextGenerator`.
        trace: answers whether all rows have ended.
    """

    def __init__(self, scorer: Scorer, encoder: Encoder, trace: Allocations) -> None:
        super().__init__(scorer, encoder)
        self._trace = trace

    def _written(self, model: Any, arguments: dict[str, Any]) -> Any:
        kept = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}  # as while one is chosen
        try:
            found = model.generate(**{**arguments, **kept, "stopping_criteria": [self._end], "max_new_tokens": 1})
        finally:
            self._trace.truth = False
        _grow(found.past_key_values, self.inner.generation_config.max_new_tokens - 1)
        return found.sequences

    def _end(self, ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion of transformers: every row has ended."""
        self._trace.truth = True
        return torch.ones(len(ids), dtype=torch.bool, device=ids.device)


def _grow(cache: Any, tokens: int) -> None:
    """Append so many tokens to a cache of transformers, layer by layer."""
    own = getattr(cache, "self_attention_cache", cache)
    for index, layer in enumerate(getattr(own, "layers", ())):
        held = [
            one for one in (getattr(layer, name, None) for name in ("keys", "values")) if isinstance(one, torch.Tensor)
        ]
        if tokens and len(held) == 2:
            own.update(*(one.new_empty(*one.shape[:-2], tokens, one.shape[-1]) for one in held), index)

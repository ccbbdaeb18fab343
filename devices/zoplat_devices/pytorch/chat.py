"""Prompts as turns of a conversation, by the chat template of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoplat.core.errors import ZoplatError


def turns(tokenizer: Any, prompts: Sequence[str], name: str) -> list[str]:
    """Each prompt as the turn of a user, up to where the answer begins.

    Args:
        tokenizer: of the model.
        prompts: what the user says.
        name: of the model, for errors.

    Raises:
        ZoplatError: there is no chat template, or it refuses a user's turn alone.
    """
    if not tokenizer.chat_template:
        raise ZoplatError(f"{name} has no chat template. Leave --template out.")
    lone = [[{"role": "user", "content": prompt}] for prompt in prompts]
    try:
        return [tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in lone]
    except Exception as problem:  # of jinja2, or whatever the template raises
        first = str(problem).strip().partition("\n")[0] or type(problem).__name__
        raise ZoplatError(
            f"The chat template of {name} refuses a turn of a user without others ({first}). Leave --template out."
        ) from None

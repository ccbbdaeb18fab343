"""What is read from a server's answers, and refused where something is missing in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoplat.core.errors import RunFailed


def lists(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Texts as JSON takes them."""
    return [[*text] for text in texts]


def choices_of(part: Sequence[Any], answer: Any) -> list[Any]:
    """The choices of an answer, one for each text and in their order."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    except (KeyError, TypeError):
        raise RunFailed(f"The server's answer has no choices: {str(answer)[:200]}.") from None
    if len(choices) != len(part):
        raise RunFailed(f"The server answered {len(choices)} of {len(part)} texts in one request.")
    return choices


def logs_of(part: Sequence[Sequence[int]], answer: Any) -> list[list[float]]:
    """Log-probabilities of each text's tokens after the first; raises RunFailed where one is missing."""
    choices, tokens = choices_of(part, answer), sum(len(text) for text in part)
    read = (answer.get("usage") or {}).get("prompt_tokens", tokens)
    if read != tokens:
        raise RunFailed(f"The server read {read} tokens where it was sent {tokens}, so its answers are of other texts.")
    found = []
    for text, choice in zip(part, choices, strict=True):
        logs = ((choice.get("logprobs") or {}).get("token_logprobs") or [])[1 : len(text)]
        if len(logs) != len(text) - 1:
            raise RunFailed(
                f"The server gave {len(logs)} log-probabilities for a text of {len(text)} tokens. It must answer "
                "`echo` with `logprobs` for the tokens of a prompt, as vLLM's does and llama.cpp's does not."
            )
        if missing := [place for place, log in enumerate(logs, 1) if not isinstance(log, int | float)]:
            raise RunFailed(
                f"The server gave {logs[missing[0] - 1]} as log-probability of token {missing[0]} of {len(text)}; many "
                "write what is not a number so. A lower --lr or --eps may help."
            )
        found.append([float(log) for log in logs])
    return found

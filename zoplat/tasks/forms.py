"""What prompts of several tasks have in common."""

from collections.abc import Mapping, Sequence
from typing import Any


def review(row: Mapping[str, Any]) -> str:
    """A sentence to be judged."""
    return f"{row['sentence'].strip()} It was"


def review_cloze(row: Mapping[str, Any]) -> tuple[str, str]:
    """A sentence to be judged, with its full stop after the judgement."""
    return review(row), " ."


def inference(row: Mapping[str, Any]) -> str:
    """Premise and hypothesis with three ways to answer."""
    return f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"? Yes, No, or Maybe?\n'


def inference_cloze(row: Mapping[str, Any]) -> tuple[str, str]:
    """The premise as a question, without its last character, and the hypothesis as what follows the answer.

    Source: arXiv:2305.17333, Appendix E, after Gao et al., ACL 2021.
    """
    premise, hypothesis = row["premise"].strip(), row["hypothesis"].strip()
    return f"{premise[:-1]} ?", f" , {hypothesis[:1].lower()}{hypothesis[1:]}"


def answers(value: Any) -> Sequence[str]:
    """All answers that count as right: a text, texts, or a table with them under `text` (SQuAD) or `spans` (DROP).

    Raises:
        TypeError: it is none of these.
    """
    told = value.get("text", value.get("spans")) if isinstance(value, Mapping) else value
    told = [told] if isinstance(told, str) else told
    if not isinstance(told, Sequence) or not all(isinstance(text, str) for text in told):
        raise TypeError(f"answers must be texts, found {value!r}")
    return [text.strip() for text in told]


def lowered(text: str) -> str:
    """A sentence that goes on with another: its first word in lower case, unless it is I."""
    first, blank, rest = text.strip().partition(" ")
    return f"{first if first == 'I' else first.lower()}{blank}{rest}"

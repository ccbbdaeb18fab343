"""Prompts and columns that several tasks share."""

from collections.abc import Mapping, Sequence
from typing import Any


def review(row: Mapping[str, Any]) -> str:
    """The prompt of sentiment tasks: a sentence, then "It was"."""
    return f"{row['sentence'].strip()} It was"


def review_cloze(row: Mapping[str, Any]) -> tuple[str, str]:
    """The cloze form of `review`: text before and after the option."""
    return review(row), " ."


def inference(row: Mapping[str, Any]) -> str:
    """The prompt of three-way inference: premise, hypothesis, and the three answers to choose from."""
    return f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"? Yes, No, or Maybe?\n'


def inference_cloze(row: Mapping[str, Any]) -> tuple[str, str]:
    """The cloze form of inference: the premise as a question, without its last character; the hypothesis after it.

    Source: arXiv:2305.17333, Appendix E, after Gao et al., ACL 2021.
    """
    premise, hypothesis = row["premise"].strip(), row["hypothesis"].strip()
    return f"{premise[:-1]} ?", f" , {hypothesis[:1].lower()}{hypothesis[1:]}"


def reference_texts(value: Any) -> Sequence[str]:
    """Reference answers as texts: one, several, or a table with them under `text` (SQuAD) or `spans` (DROP).

    Numbers count as texts.

    Raises:
        TypeError: it is none of these.
    """
    texts = value.get("text", value.get("spans")) if isinstance(value, Mapping) else value
    texts = [texts] if isinstance(texts, str | int | float) else texts
    if not isinstance(texts, Sequence) or not all(isinstance(text, str | int | float) for text in texts):
        raise TypeError(f"answers must be texts, found {value!r}")
    return [str(text).strip() for text in texts]


def lowered(text: str) -> str:
    """A sentence that continues another: its first word in lower case, unless it is I."""
    first, blank, rest = text.strip().partition(" ")
    return f"{first if first == 'I' else first.lower()}{blank}{rest}"

"""COPA: which of two is the cause or the effect of what happened? (Roemmele et al., 2011; SuperGLUE)"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import lowered
from zoplat.tasks.task import CONVERTED, Hub, MultipleChoice, Task

WORDS = {"cause": "because", "effect": "so"}
CHOICES = ("choice1", "choice2")


def plain(row: Mapping[str, Any]) -> str:
    """The premise without its full stop."""
    return str(row["premise"].rstrip().removesuffix("."))


def prompt(row: Mapping[str, Any]) -> str:
    """The premise without its full stop, and the word that leads to its cause or effect."""
    if row["question"] not in WORDS:
        raise ValueError(f"'question' must be cause or effect, found {row['question']!r}")
    return f"{plain(row)} {WORDS[row['question']]}"


def right(row: Mapping[str, Any]) -> list[int]:
    """The right option; the label is its number from 0, or the name of its column."""
    label = str(row["label"])
    return [CHOICES.index(label) if label in CHOICES else int(label)]


COPA = MultipleChoice(
    summary="COPA, which of two is the cause or the effect",
    prompt=prompt,
    plain=plain,
    options=lambda row: [lowered(row["choice1"]), lowered(row["choice2"])],
    right=right,
    loss="tokens",
    fields=("premise", "choice1", "choice2"),
    hub=Hub("aps/super_glue", "copa", CONVERTED),
    sizes={"train": 1000, "dev": 100, "test": 1000},
    source="Choice of Plausible Alternatives, BSD 2-clause; prompt of arXiv:2305.17333, Appendix E; "
    "plain form of arXiv:2402.11592",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"copa": COPA}

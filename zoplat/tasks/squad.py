"""SQuAD 1.1: answers that are spans of a passage (Rajpurkar et al., EMNLP 2016)."""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import reference_texts
from zoplat.tasks.task import Generation, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """Title, passage, question, and where the answer begins."""
    return f"Title: {row['title']}\nContext: {row['context']}\nQuestion: {row['question'].strip()}\nAnswer:"


SQUAD = Generation(
    summary="SQuAD, write the answer that stands in a passage",
    prompt=prompt,
    references=lambda row: reference_texts(row["answers"]),
    fields=("title", "context", "question"),
    hub=Hub("rajpurkar/squad"),
    source="SQuAD 1.1, CC BY-SA 4.0; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"squad": SQUAD}

"""DROP: questions that take counting and arithmetic over a passage (Dua et al., NAACL 2019)."""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import reference_texts
from zoplat.tasks.task import Generation, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """Passage, question, and where the answer begins."""
    return f"Passage: {row['passage']}\nQuestion: {row['question'].strip()}\nAnswer:"


DROP = Generation(
    summary="DROP, write the answer that a passage implies",
    prompt=prompt,
    references=lambda row: reference_texts(row["answers"]),
    fields=("passage", "question"),
    hub=Hub("ucinlp/drop", columns={"answers_spans": "answers"}),
    source="DROP, CC BY-SA 4.0; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"drop": DROP}

"""BoolQ: yes/no questions about a passage (Clark et al., NAACL 2019)."""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import Classification, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The passage, then the question with a capital and a question mark."""
    question = row["question"].strip()
    question = question[:1].upper() + question[1:] + ("" if question.endswith("?") else "?")
    return f"{row['passage']} {question}\n"


BOOLQ = Classification(
    summary="BoolQ, yes/no questions about a passage",
    prompt=prompt,
    words={"False": "No", "True": "Yes"},
    fields=("passage", "question"),
    hub=Hub("google/boolq", columns={"answer": "label"}),
    source="BoolQ, CC BY-SA 3.0; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"boolq": BOOLQ}

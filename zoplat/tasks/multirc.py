"""MultiRC: is an answer to a question about a paragraph right? (Khashabi et al., NAACL 2018; SuperGLUE)

A row is one question with one answer, and accuracy counts rows.
"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The paragraph, the question, and the question whether an answer is right."""
    doubt = f'I found this answer "{row["answer"]}". Is that correct? Yes or No?'
    return f"{row['paragraph']}\nQuestion: {row['question']}\n{doubt}\n"


MULTIRC = Classification(
    summary="MultiRC, is an answer to a question about a paragraph right",
    prompt=prompt,
    words={"False": "No", "True": "Yes"},
    fields=("paragraph", "question", "answer"),
    hub=Hub("aps/super_glue", "multirc", CONVERTED),
    source="MultiRC, SuperGLUE, for research; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"multirc": MULTIRC}

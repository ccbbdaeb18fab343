"""RTE: does the premise entail the hypothesis? (SuperGLUE form)"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks import Classification, Task

RTE = Classification(
    summary="RTE, does a premise entail a hypothesis",
    prompt=lambda row: f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true? Yes or No?\n',
    words={"entailment": "Yes", "not_entailment": "No"},
    fields=("premise", "hypothesis"),
    source="Recognizing Textual Entailment, SuperGLUE; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"rte": RTE}

"""RTE: does the premise entail the hypothesis? (SuperGLUE form)"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import inference_cloze
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task

RTE = Classification(
    summary="RTE, does a premise entail a hypothesis",
    prompt=lambda row: f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true? Yes or No?\n',
    plain=lambda row: f'{row["premise"]}\n"{row["hypothesis"]}"\n',
    words={"entailment": "Yes", "not_entailment": "No"},
    cloze=inference_cloze,
    cloze_words={"entailment": " Yes", "not_entailment": " No"},
    fields=("premise", "hypothesis"),
    hub=Hub("aps/super_glue", "rte", CONVERTED),
    source="Recognizing Textual Entailment, SuperGLUE, for research; prompts of arXiv:2305.17333, Appendix E; "
    "plain form of arXiv:2402.11592",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"rte": RTE}

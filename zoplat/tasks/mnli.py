"""MNLI: does a sentence follow from another, contradict it, or neither? (Williams et al., NAACL 2018; GLUE)

Scores are on the matched validation rows. Words are given by names of classes, because MNLI numbers the classes
differently from CB, whose prompt it shares.
"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import inference, inference_cloze
from zoplat.tasks.task import Classification, Hub, Task

MNLI = Classification(
    summary="MNLI, does a sentence follow from another",
    prompt=inference,
    words={"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
    cloze=inference_cloze,
    cloze_words={"entailment": " Yes", "neutral": " Maybe", "contradiction": " No"},
    fields=("premise", "hypothesis"),
    hub=Hub("nyu-mll/glue", "mnli", splits={"train": "train", "test": "validation_matched"}),
    source="MultiNLI, OANC and others; prompt of arXiv:2502.03304, cloze form of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"mnli": MNLI}

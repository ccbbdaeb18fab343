"""SNLI: does a caption follow from another, contradict it, or neither? (Bowman et al., EMNLP 2015)

The paper has a template for masked models only; the prompt for causal ones, that of MNLI, is ours.
"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import inference, inference_cloze
from zoplat.tasks.task import Classification, Hub, Task

SNLI = Classification(
    summary="SNLI, does a caption follow from another",
    prompt=inference,
    words={"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
    cloze=inference_cloze,
    cloze_words={"entailment": " Yes", "neutral": " Maybe", "contradiction": " No"},
    fields=("premise", "hypothesis"),
    hub=Hub("stanfordnlp/snli"),
    source="SNLI, CC BY-SA 4.0; cloze form of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"snli": SNLI}

"""CB, the CommitmentBank: is a clause of a text true, false, or left open? (de Marneffe et al., 2019; SuperGLUE)"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import inference
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task

CB = Classification(
    summary="CB, does a text commit its writer to a clause",
    prompt=inference,
    words={"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
    fields=("premise", "hypothesis"),
    hub=Hub("aps/super_glue", "cb", CONVERTED),
    sizes={"train": 1000, "dev": 100, "test": 1000},
    source="CommitmentBank, SuperGLUE, for research; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"cb": CB}

"""SST-2: sentiment of film-review phrases (Socher et al., EMNLP 2013; GLUE)."""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import review, review_cloze
from zoplat.tasks.task import Classification, Hub, Task

SST2 = Classification(
    summary="SST-2, film-review phrases, good or bad",
    prompt=review,
    words={"negative": "terrible", "positive": "great"},
    cloze=review_cloze,
    cloze_words={"negative": " terrible", "positive": " great"},
    fields=("sentence",),
    hub=Hub("nyu-mll/glue", "sst2"),
    source="Stanford Sentiment Treebank, for research; prompts of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"sst2": SST2}

"""SST-2: sentiment of film-review phrases (Socher et al., EMNLP 2013; GLUE)."""

from zoplat.hookspecs import hookimpl
from zoplat.tasks import Classification, Task

SST2 = Classification(
    summary="SST-2, film-review phrases, good or bad",
    prompt=lambda row: f"{row['sentence'].strip()} It was",
    words={"negative": "terrible", "positive": "great"},
    fields=("sentence",),
    source="Stanford Sentiment Treebank; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"sst2": SST2}

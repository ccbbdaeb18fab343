"""Is a sentence of a review good or bad? The packaged task, with the prompts of SST-2."""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import review, review_cloze
from zoplat.tasks.task import Classification, Task

SENTIMENT = Classification(
    summary="sentences of product, film and restaurant reviews, good or bad (packaged)",
    prompt=review,
    words={"negative": "terrible", "positive": "great"},
    cloze=review_cloze,
    cloze_words={"negative": " terrible", "positive": " great"},
    fields=("sentence",),
    packaged="sentiment.jsonl.gz",
    source="Sentiment Labelled Sentences, Kotzias et al., KDD 2015, UCI repository, CC BY 4.0",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"sentiment": SENTIMENT}

"""Is a sentence of a review good or bad? The packaged task."""

from zoplat.hookspecs import hookimpl
from zoplat.tasks import Classification, Task

SENTIMENT = Classification(
    summary="sentences of product, film and restaurant reviews, good or bad (packaged)",
    prompt=lambda row: f"{row['sentence'].strip()} It was",
    words={"negative": "terrible", "positive": "great"},
    fields=("sentence",),
    packaged="sentiment.jsonl.gz",
    source="Sentiment Labelled Sentences, Kotzias et al., KDD 2015, UCI repository, CC BY 4.0",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"sentiment": SENTIMENT}

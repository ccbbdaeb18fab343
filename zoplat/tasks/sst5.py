"""SST-5: sentiment of film-review sentences in five grades (Socher et al., EMNLP 2013).

The paper has a template for masked models only; the prompt for causal ones is ours: the same words without the full
stop. The phrases of SST-2 are taken from these sentences, so a model trained on one can't be tested on the other.
"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.forms import review, review_cloze
from zoplat.tasks.task import Classification, Hub, Task

WORDS = {
    "very negative": "terrible",
    "negative": "bad",
    "neutral": "okay",
    "positive": "good",
    "very positive": "great",
}

SST5 = Classification(
    summary="SST-5, film-review sentences, terrible to great in five grades",
    prompt=review,
    words=WORDS,
    cloze=review_cloze,
    cloze_words={name: f" {word}" for name, word in WORDS.items()},
    fields=("sentence",),
    hub=Hub(
        "SetFit/sst5",
        splits={"train": "train", "dev": "validation", "test": "test"},
        columns={"text": "sentence"},
    ),
    source="Stanford Sentiment Treebank, for research; cloze form of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"sst5": SST5}

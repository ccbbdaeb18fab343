"""TREC: what kind of answer does a question ask for? (Voorhees and Tice, 2000; Li and Roth, 2002)

The paper has a template for masked models only; the prompt for causal ones is ours.
"""

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task

WORDS = {
    "ABBR": "Expression",
    "ENTY": "Entity",
    "DESC": "Description",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}

TREC = Classification(
    summary="TREC, what kind of answer a question asks for",
    prompt=lambda row: f"{row['text'].strip()}\nType of answer:",
    words=WORDS,
    label="coarse_label",
    cloze=lambda row: ("", f" : {row['text'].strip()}"),
    cloze_words={name: f" {word}" for name, word in WORDS.items()},
    fields=("text",),
    hub=Hub("CogComp/trec", revision=CONVERTED, splits={"train": "train", "test": "test"}),
    source="TREC questions, no formal licence; cloze form of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"trec": TREC}

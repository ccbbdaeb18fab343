"""WSC: does a pronoun mean a noun? (Levesque et al., KR 2012; SuperGLUE)

Of the 554 training rows 100 go to dev; the 500 of other tasks would leave 54.
"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The sentence, then the question about the pronoun (second span) and the noun (first)."""
    pronoun, noun = row["span2_text"].lower(), row["span1_text"]
    question = f'does the pronoun "{pronoun}" refer to {noun}? Yes or No?'
    return f"{row['text']}\nIn the previous sentence, {question}\n"


WSC = Classification(
    summary="WSC, does a pronoun mean a noun",
    prompt=prompt,
    words={"False": "No", "True": "Yes"},
    fields=("text", "span2_text", "span1_text"),
    hub=Hub("aps/super_glue", "wsc.fixed", CONVERTED),
    sizes={"train": 1000, "dev": 100, "test": 1000},
    source="Winograd Schema Challenge, SuperGLUE, CC BY 4.0; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"wsc": WSC}

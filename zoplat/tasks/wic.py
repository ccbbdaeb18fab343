"""WiC: has a word the same meaning in two sentences? (Pilehvar and Camacho-Collados, NAACL 2019; SuperGLUE)"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Classification, Hub, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The question, then the two sentences."""
    question = f'Does the word "{row["word"]}" have the same meaning in these two sentences? Yes, No?'
    return f"{question}\n{row['sentence1']}\n{row['sentence2']}\n"


WIC = Classification(
    summary="WiC, has a word the same meaning in two sentences",
    prompt=prompt,
    words={"False": "No", "True": "Yes"},
    fields=("word", "sentence1", "sentence2"),
    hub=Hub("aps/super_glue", "wic", CONVERTED),
    source="Word in Context, CC BY-NC 4.0; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"wic": WIC}

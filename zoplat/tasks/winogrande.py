"""WinoGrande: which of two nouns fills the gap in a sentence? (Sakaguchi et al., AAAI 2020)

The prompt is the text before the gap; the options are the nouns, each with the rest of the sentence. The prompt has no
instructions, so the plain template is the same.
"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Hub, MultipleChoice, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The sentence up to the gap."""
    return str(row["sentence"].partition("_")[0].rstrip())


def options(row: Mapping[str, Any]) -> list[str]:
    """Each noun with what follows the gap."""
    rest = row["sentence"].partition("_")[2]
    return [row["option1"] + rest, row["option2"] + rest]


WINOGRANDE = MultipleChoice(
    summary="WinoGrande, which of two nouns fills a gap",
    prompt=prompt,
    plain=prompt,
    options=options,
    right=lambda row: [int(row["answer"]) - 1],
    loss="tokens",
    fields=("sentence", "option1", "option2"),
    hub=Hub("allenai/winogrande", "winogrande_m", CONVERTED),
    sizes={"train": 1000, "dev": 100, "test": 1000},
    source="WinoGrande, CC BY; prompt of arXiv:2402.11592",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"winogrande": WINOGRANDE}

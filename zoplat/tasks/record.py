"""ReCoRD: which entity of a news story fills the gap in a further sentence? (Zhang et al., 2018; SuperGLUE)

The sentence is one more bullet point of the story, once with each entity in the gap. The plain template has no bullets.
"""

from collections.abc import Mapping
from typing import Any

from zoplat.hookspecs import hookimpl
from zoplat.tasks.task import CONVERTED, Hub, MultipleChoice, Task


def prompt(row: Mapping[str, Any]) -> str:
    """The story, its highlights as bullet points, and the beginning of another."""
    return str(row["passage"].replace("@highlight\n", "- ") + "\n-")


def plain(row: Mapping[str, Any]) -> str:
    """The story and its highlights."""
    return str(row["passage"].replace("@highlight\n", "").strip())


def options(row: Mapping[str, Any]) -> list[str]:
    """The sentence with each entity in its gap."""
    return [row["query"].replace("@placeholder", entity) for entity in row["entities"]]


def right(row: Mapping[str, Any]) -> list[int]:
    """All entities that are answers, in the order of the answers."""
    return [number for answer in row["answers"] for number, entity in enumerate(row["entities"]) if entity == answer]


RECORD = MultipleChoice(
    summary="ReCoRD, which entity of a story fills a gap",
    prompt=prompt,
    plain=plain,
    options=options,
    right=right,
    loss="tokens",
    fields=("passage", "query"),
    hub=Hub("aps/super_glue", "record", CONVERTED),
    source="ReCoRD, SuperGLUE, for research; prompt of arXiv:2305.17333, Appendix E",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"record": RECORD}

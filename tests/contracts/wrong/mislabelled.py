"""A task that reads beside the text what nobody has, and whose metric calls every answer right."""

from zoplat import hookimpl
from zoplat.tasks import Classification, Task

TASK = Classification(
    summary="tickets",
    prompt=lambda row: row["text"] if row.get("label") != "other" else "",
    words={"billing": "money", "login": "access", "other": "something else"},
    fields=("text",),
    packaged="mislabelled.jsonl",
)


@hookimpl
def zoplat_tasks() -> dict[str, Task]:
    return {"mislabelled": TASK}

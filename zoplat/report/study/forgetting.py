"""The section of a comparison on forgetting: what training has changed on general text."""

from __future__ import annotations

from collections.abc import Sequence

from zoplat.comparison.table import forgetting_cells
from zoplat.report.pages import Part, Rows
from zoplat.report.study.reading import Method, Study


def forgetting_parts(study: Study) -> list[Part]:
    """Losses of general text and divergences of each trained method; a sentence where nothing was measured."""
    trained = [method for method in study.methods if method.is_trained]
    if all(method.same("general_text") is None for method in trained):
        return ["Not measured. `--forgetting` measures it."]
    head = ("method", "task", "loss before", "loss after", "change", "KL(before ‖ after)")
    return [
        Rows(head, [_line(method) for method in trained], words=2).without_constant("task"),
        "Nats a token of general English text that ships with zoplat, means over seeds: the loss of the model before "
        f"and after training, and the divergence of its predictions of a next token, at {_places(trained)} places. "
        "Models with different tokenizers can't be compared by these numbers. A method is not measured where one of "
        "its runs is not.",
    ]


def _places(methods: Sequence[Method]) -> str:
    return " or ".join(str(n) for n in dict.fromkeys(one.same("general_positions") for one in methods) if n)


def _line(method: Method) -> list[str]:
    is_measured = method.same("general_text") is not None
    before, after, divergence = (
        method.mean(f"general_{name}") if is_measured else None for name in ("loss_before", "loss_after", "kl")
    )
    losses = ["–" if value is None else f"{value:.4f}" for value in (before, after)]
    change = None if before is None or after is None else after - before
    return [method.label, method.task, *losses, *forgetting_cells(change, divergence)]

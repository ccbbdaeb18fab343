"""The section with predictions: the first test rows, what is right, and what was predicted before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

from zoplat.report.pages import Part, Rows
from zoplat.training.predicted import Predicted

PROMPT = 220
"""Characters of the end of a prompt that are shown."""
ANSWER = 120
SPACE = "\N{NO-BREAK SPACE}"
NOT_KEPT = (
    "Not kept: these runs were made by a version of zoplat that wrote no predictions.jsonl, or without training. Later "
    "runs have it."
)


def predictions_of(runs: Sequence[tuple[str, Mapping[int, Predicted]]]) -> list[Part]:
    """What was predicted for the rows whose prompts were kept.

    Args:
        runs: label and predictions by step, of runs on the same test rows; those without any are left out.
    """
    whole = [(label, kept[min(kept)], kept[max(kept)]) for label, kept in runs if len(kept) > 1]
    whole = [run for run in whole if run[1].shown == whole[0][1].shown]
    if not whole:
        return [NOT_KEPT]
    before = whole[0][1]
    body = [
        [
            _end(prompt),
            answer,
            _marked(before, row),
            *(_marked(after, row) for _, _, after in whole),
        ]
        for row, (prompt, answer) in enumerate(before.shown)
    ]
    after = ["after"] if len(whole) == 1 else [f"after {label}" for label, _, _ in whole]
    words = (
        f"The first {len(body)} test rows, before and after training; ✓ where the prediction counts as right. "
        f"Over all {len(before.right)} rows, {_share(before)} were right before and "
        + ", ".join(_share(last) + (f" with {label}" if len(whole) > 1 else "") for label, _, last in whole)
        + " after."
    )
    return [words, Rows(("end of the prompt", "right", "before", *after), body, words=len(after) + 3)]


def _share(predicted: Predicted) -> str:
    return f"{sum(predicted.right)} ({sum(predicted.right) / len(predicted.right):.1%})"


def _marked(predicted: Predicted, row: int) -> str:
    text = predicted.texts[row]
    if text is None:
        return f"no answer{SPACE}✗"
    return f"{shorten(text, ANSWER, placeholder='…') or '(empty)'}{SPACE}{'✓' if predicted.right[row] else '✗'}"


def _end(prompt: str) -> str:
    """The end of a prompt on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= PROMPT else f"…{line[-PROMPT:]}"

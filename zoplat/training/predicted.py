"""Predictions of the test split, row by row, before and after training: predictions.jsonl of a run directory.

Two runs on the same rows can be compared row by row with it, and a report shows some of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoplat.core.example import Example
from zoplat.paths import replace_text

SHOWN = 10
"""Rows, the first ones, whose prompts are kept as text."""
CHARACTERS = 600
"""Of a prompt that are kept: its end, where the model continues."""


@dataclass(frozen=True)
class Predicted:
    """What a model predicted for every row of a split.

    Attributes:
        step: steps that were made before.
        texts: the prediction of each row; None for a row that was not answered.
        right: whether it is one of the texts that count as right.
        shown: (end of the prompt, right answer) of the first rows.
    """

    step: int
    texts: list[str | None]
    right: list[bool]
    shown: list[tuple[str, str]]


def add_predictions(path: Path, step: int, texts: Sequence[str | None], examples: Sequence[Example]) -> None:
    """Add a line to the file, in place of one with the same step: predictions as numbers of distinct texts."""
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    number = {text: index for index, text in enumerate(distinct)}
    line = {
        "step": step,
        "split": "test",
        "texts": distinct,
        "predicted": [None if text is None else number[text] for text in texts],
        "right": "".join("01"[text in example.right] for text, example in zip(texts, examples, strict=True)),
        "shown": [[example.prompt[-CHARACTERS:], example.right[0]] for example in examples[:SHOWN]],
    }
    kept = [text for text, one in _lines(path) if one.step != step]
    replace_text(path, "".join(f"{text}\n" for text in [*kept, json.dumps(line)]))


def read_predictions(path: Path) -> dict[int, Predicted]:
    """What was predicted after how many steps; lines that are damaged are left out."""
    return {predicted.step: predicted for _, predicted in _lines(path)}


def _lines(path: Path) -> list[tuple[str, Predicted]]:
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").split("\n")
    return [(line, predicted) for line in lines if (predicted := _predicted(line))]


def _predicted(line: str) -> Predicted | None:
    """The predictions in a line; None where it is damaged."""
    try:
        table: dict[str, Any] = json.loads(line)
        texts = [str(text) for text in table["texts"]]
        predicted = [None if number is None else texts[number] for number in table["predicted"]]
        right = [{"0": False, "1": True}[mark] for mark in table["right"]]
        shown = [(str(prompt), str(answer)) for prompt, answer in table["shown"]]
        step = table["step"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    is_whole = type(step) is int and len(predicted) == len(right) and table["split"] == "test"
    return Predicted(step, predicted, right, shown) if is_whole else None

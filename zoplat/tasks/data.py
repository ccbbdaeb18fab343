"""The rows of a task in three splits: from the distribution, a folder or the hub."""

from __future__ import annotations

import json
import random
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from zoplat.core.errors import ZoplatError
from zoplat.core.notices import Notice, unheard
from zoplat.registry import catalogue
from zoplat.tasks import commands, custom, files, hub, packaged
from zoplat.tasks.task import SPLITS, Fields, Task

Rows = files.Rows
SHARES = {"dev": (0.0, 0.1), "test": (0.1, 0.3)}
"""Splits that have no file get the rows of train whose hash, in [0, 1), falls in these ranges."""
SORTED = 8
"""A class of which so many rows are expected among the first ones, and none is there: the file is sorted by label."""


def find(name: str) -> Task:
    """The task registered under a name, or described by a TOML file."""
    if custom.is_file(name):
        own = custom.read(Path(name))
        commands.note(own.metric, Path(name))
        return own
    task: Task = catalogue().entry("task", name).value
    return task


def load(
    task: Task, name: str, data: Path | None, limit: int | None = None, notice: Notice = unheard
) -> dict[str, Rows]:
    """The three splits of a task, at most `limit` rows each; no text is in two of them.

    Args:
        task: the task that the rows are for.
        name: its registered name, or its TOML file, which may name a folder.
        data: folder with a file for each split; the packaged rows or the hub's when None.
        limit: the most rows of each split; all when None.
        notice: is called with what the user should know.

    A folder without dev or test has them cut from train; see `cut`.

    Raises:
        ZoplatError: no data, a malformed line (file and line are named), an empty split, or a row in two splits.
    """
    if data is None and custom.is_file(name):
        data = custom.folder(Path(name))
    splits = _found(task, name, data)
    for split, rows in splits.items():
        if not rows:
            source = data or (task.hub.path if task.hub and not task.packaged else "packaged data")
            hint = "" if split == "train" else f" If it was cut from train, that is too small: give {split}.jsonl too."
            raise ZoplatError(f"The {split} split of task '{name}' is empty ({source}).{hint}")
    _check_disjoint(task, splits)
    if data is not None and (unread := files.unused_notice(data)):
        notice(unread)
    _note_lost_characters(splits, notice)
    return {split: limited(task, split, rows, limit, notice) if limit else rows for split, rows in splits.items()}


def _note_lost_characters(splits: dict[str, Rows], notice: Notice) -> None:
    """Say where texts have U+FFFD, which stands for what was no character, such as half of a surrogate pair."""
    for split, rows in splits.items():
        lost = [where for where, row in rows if "\ufffd" in str(row)]
        if lost:
            notice(f"{len(lost)} rows of {split} have U+FFFD in place of a character that was lost ({lost[0]}).")


def _found(task: Task, name: str, data: Path | None) -> dict[str, Rows]:
    if data is not None:
        found = {split: rows for split in SPLITS if (rows := files.read(data, split, task.fields)) is not None}
        texts = {split: [(where, task.with_texts(row, where)) for where, row in rows] for split, rows in found.items()}
        return cut(task, texts)
    if task.packaged is not None:
        shipped = packaged.rows(task, name)
        return shipped if tuple(split for split in SPLITS if split in shipped) == SPLITS else cut(task, shipped)
    if task.hub is not None:
        order, most = (lambda row: _text_hash(task, row)), 2 * sum(task.sizes.values())
        return _sampled(task, hub.read(task, task.hub, name, order, most))
    raise ZoplatError(f"Task '{name}' has no packaged data and no place on the hub: give {hub.data_hint(task)}")


def cut(task: Task, splits: dict[str, Rows]) -> dict[str, Rows]:
    """Cut missing splits from train, each row by the hash of its text alone.

    A tenth goes to a missing dev and two tenths to a missing test. The same text never ends up in two splits, and
    adding rows to train or removing some moves no other row.
    """
    missing = [split for split in SHARES if split not in splits]
    result: dict[str, Rows] = {split: [] for split in SPLITS} | {s: rows for s, rows in splits.items() if s != "train"}
    for where, row in splits["train"]:
        value = _text_hash(task, row)
        home = next((split for split in missing if SHARES[split][0] <= value < SHARES[split][1]), "train")
        result[home].append((where, row))
    return result


def _sampled(task: Task, splits: dict[str, Rows]) -> dict[str, Rows]:
    """As many rows of each split as published tables use, in the order given.

    A missing split is taken from train first, and gets half of it at most. Rows of dev whose text is in test are left
    out, and rows of train whose text is in either.
    """
    sampled: dict[str, Rows] = {}
    used: set[str] = set()
    for split in ("test", "dev", "train"):
        rows = [(where, row) for where, row in splits.get(split, splits["train"]) if text(task, row) not in used]
        most = task.sizes[split] if split in splits else min(task.sizes[split], len(rows) // 2)
        sampled[split] = rows[:most]
        used |= {text(task, row) for _, row in sampled[split]}
    return {split: sampled[split] for split in SPLITS}


def limited(task: Task, split: str, rows: Rows, limit: int, notice: Notice) -> Rows:
    """The first rows of a split; where these lack classes that the file has later on, the first ones of each class.

    Args:
        task: the task that the rows are for.
        split: the name of the split, for the notice.
        rows: of the split.
        limit: the most rows to take.
        notice: is called where rows are not simply the first ones.
    """
    if len(rows) <= limit or limit < SORTED or not task.classes:  # too few to expect a class SORTED times
        return rows[:limit]
    labels = [_class_of(task, row, where) for where, row in rows[:limit]]
    if set(range(len(task.classes))) <= set(labels):
        return rows[:limit]
    labels += [_class_of(task, row, where) for where, row in rows[limit:]]
    whole = Counter(number for number in labels if number is not None)
    lacking = [
        number
        for number, count in sorted(whole.items())
        if number not in labels[:limit] and count * limit >= SORTED * len(rows)
    ]
    if not lacking:
        return rows[:limit]
    counts = _shares(whole, limit)
    chosen = []
    for row, number in zip(rows, labels, strict=True):
        if number is not None and counts[number]:
            counts[number] -= 1
            chosen.append(row)
    names = ", ".join(f"'{task.classes[number]}'" for number in lacking)
    notice(
        f"--limit {limit}: the first {limit} rows of {split} have none of {names}, as in a file sorted by label; "
        "the first rows of each class are used instead, in proportion."
    )
    return chosen


def _class_of(task: Task, row: Fields, where: str) -> int | None:
    """The class of a row; None where it can't be read, which is said once the row is used."""
    try:
        return task.example(row, where).label
    except ZoplatError:
        return None


def _shares(whole: Counter[int], limit: int) -> Counter[int]:
    """How many of `limit` rows each class gets: its share, by the largest remainders."""
    total = whole.total()
    counts = Counter({number: count * limit // total for number, count in whole.items()})
    by_remainder = sorted(whole, key=lambda number: -(whole[number] * limit % total))
    counts.update(by_remainder[: limit - counts.total()])
    return counts


def of_each_class(task: Task, rows: Rows, count: int, seed: int) -> Rows:
    """`count` rows of every class, drawn at random with a seed, in their original order.

    Raises:
        ZoplatError: the task has no classes, or a class has fewer rows.
    """
    if not task.classes:
        raise ZoplatError(
            "--per-class needs a task with classes; the options of this one change from row to row. Use --limit."
        )
    by_class: dict[int, list[int]] = {number: [] for number in range(len(task.classes))}
    for index, (where, row) in enumerate(rows):
        by_class[task.example(row, where).label].append(index)
    for number, indices in by_class.items():
        if len(indices) < count:
            raise ZoplatError(
                f"--per-class {count} is more than the {len(indices)} rows of class '{task.classes[number]}'. "
                "Use a smaller number."
            )
    drawn = random.Random(seed)
    chosen = {index for indices in by_class.values() for index in drawn.sample(indices, count)}
    return [row for index, row in enumerate(rows) if index in chosen]


def text(task: Task, row: Fields) -> str:
    """The text of a row's fields with white space normalised; rows with equal text count as the same row."""
    texts = [" ".join(row[name].split()) for name in task.fields]
    return json.dumps([*texts, *(row.get(name) for name in task.listed)], default=str)


def _text_hash(task: Task, row: Fields) -> float:
    """A hash in [0, 1) of the text of a row alone."""
    return int.from_bytes(blake2b(text(task, row).encode(), digest_size=8).digest()) / 2**64


def _check_disjoint(task: Task, splits: dict[str, Rows]) -> None:
    """Raise ZoplatError if the same text is in two splits."""
    texts = {s: [(text(task, row), where) for where, row in rows] for s, rows in splits.items()}
    for one, other in (("dev", "test"), ("train", "test"), ("train", "dev")):
        known = dict(reversed(texts[one]))
        both = [(known[same], where) for same, where in texts[other] if same in known]
        if both:
            count = "1 row" if len(both) == 1 else f"{len(both)} rows"
            raise ZoplatError(
                f"{count} of {other} have the text of a row of {one}, the first at {both[0][1]}, as at {both[0][0]}. "
                "Rows to train on, to select by and to report must differ: remove them from one of the two."
            )

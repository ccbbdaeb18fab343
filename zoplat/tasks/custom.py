r"""Tasks from TOML files: templates with columns in braces instead of code.

    summary = "support tickets by subject"
    prompt = "{text}\nThis is about"
    [options]
    billing = "money"
    login = "access"

docs/how-to/own-task.md has all keys.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from zoplat.core.errors import ZoplatError
from zoplat.core.example import LENGTH, LOSSES, STOP
from zoplat.tasks import metrics
from zoplat.tasks.forms import reference_texts
from zoplat.tasks.labels import choices, option_number
from zoplat.tasks.task import SPLITS, Classification, Fields, Generation, Hub, MultipleChoice, Task, Text
from zoplat.tasks.toml_lines import line_of

MARK = "[option]"
"""The place of the option in a cloze template."""
KEYS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("summary", "prompt", "plain", "cloze", "label", "answers", "metric", "loss", "score"), (str,)),
    **dict.fromkeys(("source", "data", "stop"), (str,)),
    "options": (dict, list, str),
    "length": (int,),
    **dict.fromkeys(("hub", "sizes"), (dict,)),
}
HUB_KEYS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("path", "name", "revision"), (str,)),
    **dict.fromkeys(("splits", "columns"), (dict,)),
}
TYPE_NAMES: dict[type, str] = {str: "text", dict: "a table", list: "a list", int: "a whole number"}
CHOICES = {"loss": LOSSES, "score": ("mean", "sum")}


def is_file(name: str) -> bool:
    """Whether the name of a task is that of a TOML file."""
    return name.endswith(".toml")


def read(path: Path) -> Task:
    """The task that a file describes.

    Raises:
        ZoplatError: there is no such file, or it describes no task; names file and line.
    """
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


def folder(path: Path) -> Path | None:
    """The folder with rows that a task file names, relative to that file; None where it names none."""
    data = _File(path).table.get("data")
    return path.parent / data if data else None


@lru_cache
def _read(path: Path, modified: int) -> Task:
    """The task of a file as it was at a time of modification, so that a changed file is read again."""
    return _File(path).task()


class _Template:
    """Text with columns in braces; `{{` and `}}` for braces themselves.

    Raises:
        ValueError: unbalanced braces, or something in them that is not the name of a column.
    """

    def __init__(self, text: str) -> None:
        self.parts = list(string.Formatter().parse(text))
        for _, name, form, conversion in self.parts:
            if name is not None and (not name.strip() or re.search(r"[\[\]]", name) or form or conversion):
                raise ValueError(f"'{{{name}}}' names no column")

    @property
    def columns(self) -> list[str]:
        """Names of its columns, in order."""
        return [name for _, name, _, _ in self.parts if name is not None]

    @property
    def column(self) -> str:
        """The name of the column that it is, without text of its own; empty for another template."""
        bare = len(self.columns) == 1 and not "".join(text for text, *_ in self.parts).strip()
        return self.columns[0] if bare else ""

    def __call__(self, row: Fields) -> str:
        return "".join(text + (str(row[name]).strip() if name is not None else "") for text, name, _, _ in self.parts)


class _File:
    """A task file while it is read; every error names its line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8-sig")
            self.table = tomllib.loads(self.text)
        except (OSError, UnicodeDecodeError) as problem:
            raise ZoplatError(f"--task {path} can't be read: {getattr(problem, 'strerror', problem)}.") from None
        except RecursionError:
            raise ZoplatError(f"{path}: not TOML for a task: too many brackets within brackets.") from None
        except ValueError as problem:  # no TOML, or a number of thousands of digits
            found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(problem))
            what, line = (
                (found[1], found[2]) if found else (str(problem).split(" (at ")[0], len(self.text.splitlines()))
            )
            raise ZoplatError(f"{path}, line {line}: not TOML ({what}).") from None
        self._check(self.table, KEYS)
        self._check(self.table.get("hub", {}), HUB_KEYS, "hub")

    def task(self) -> Task:
        """The task that the file describes; raises ZoplatError with the line of what is wrong."""
        table = self.table
        if "prompt" not in table:
            self._refuse("no 'prompt', the text that the model reads, with columns in braces")
        if ("options" in table) == ("answers" in table):
            found = "both" if "options" in table else "neither"
            self._refuse(
                f"give one of 'options', to choose from, and 'answers', to be generated; found {found}", "answers"
            )
        prompt = self._template("prompt")
        common: dict[str, Any] = {"summary": table.get("summary", self.path.stem), "source": table.get("source", "")}
        common |= {"prompt": prompt, "plain": self._plain(prompt), "sizes": self._sizes(), "hub": self._hub()}
        common |= {name: table[name] for name in ("metric", "loss", "score") if name in table}
        self._check_choices()
        columns = prompt.columns
        if "answers" in table:
            return self._answers(common, columns)
        self._only("options", "stop", "length")
        return self._classes(common, columns) if isinstance(table["options"], dict) else self._choice(common, columns)

    def _answers(self, common: dict[str, Any], columns: list[str]) -> Task:
        self._only("answers", "label", "cloze")
        column, stop, length = self.table["answers"], self.table.get("stop", STOP), self.table.get("length", LENGTH)
        if not stop:
            self._refuse("'stop' must be a text that ends an answer, found ''", "stop")
        if isinstance(length, bool) or length < 1:
            self._refuse(f"'length' must be at least 1, found {length!r}", "length")
        common |= {"stop": stop, "length": length}
        return Generation(**common, fields=_unique(columns), references=lambda row: reference_texts(row[column]))

    def _classes(self, common: dict[str, Any], columns: list[str]) -> Task:
        words = self.table["options"]
        seen: dict[str, str] = {}
        for name, word in words.items():
            if not isinstance(word, str) or not word.strip():
                self._refuse(f"option '{name}' must be a word, found {word!r}", name, "options")
            other = seen.setdefault(word.strip(), name)
            if other != name:
                what = f"options '{other}' and '{name}' have the same word {word.strip()!r}"
                self._refuse(f"{what}, so no answer can tell them apart", name, "options")
        if len(words) < 2:
            self._refuse("'options' needs at least two classes", "options")
        common |= {"words": words, "label": self.table.get("label", "label")}
        if "cloze" in self.table:
            common["cloze"], more = self._cloze()
            common["cloze_words"] = {name: f" {word.strip()}" for name, word in words.items()}
            columns = columns + more
        return Classification(**common, fields=_unique(columns))

    def _choice(self, common: dict[str, Any], columns: list[str]) -> Task:
        self._only("options as a list", "cloze")
        texts, label = self.table["options"], self.table.get("label", "label")
        if isinstance(texts, str):
            return MultipleChoice(
                **common,
                fields=_unique(columns),
                listed=(texts,),
                options=lambda row: choices(row[texts])[1],
                right=lambda row: [option_number(label, row[label], *choices(row[texts]))],
            )
        if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
            self._refuse(f"'options' needs at least two texts, found {texts!r}", "options")
        options = [self._parsed("options", text) for text in texts]
        names = [option.column for option in options]
        return MultipleChoice(
            **common,
            fields=_unique(columns + [name for option in options for name in option.columns]),
            options=lambda row: [option(row) for option in options],
            right=lambda row: [option_number(label, row[label], names, [option(row) for option in options])],
        )

    def _plain(self, prompt: _Template) -> Text:
        """The template "plain", or the columns of the prompt joined by blanks."""
        if "plain" in self.table:
            return self._template("plain")
        return _Template(" ".join(f"{{{name}}}" for name in _unique(prompt.columns)))

    def _cloze(self) -> tuple[Any, list[str]]:
        text = self.table["cloze"]
        if text.count(MARK) != 1:
            self._refuse(
                f"'cloze' needs {MARK} once, where the option goes; found it {text.count(MARK)} times", "cloze"
            )
        before, after = (self._parsed("cloze", part) for part in text.split(MARK))
        return (lambda row: (before(row).rstrip(" "), after(row))), before.columns + after.columns

    def _template(self, key: str) -> _Template:
        template = self._parsed(key, self.table[key].rstrip(" "))
        if not template.columns:
            self._refuse(f"'{key}' has no column in braces, so all rows would be the same", key)
        return template

    def _parsed(self, key: str, text: str) -> _Template:
        try:
            return _Template(text)
        except ValueError as problem:
            self._refuse(f"'{key}': {problem}; write {{column}}, and {{{{ or }}}} for a brace", key)

    def _sizes(self) -> Mapping[str, int]:
        given: dict[str, int] = self.table.get("sizes", {})
        self._check(given, dict.fromkeys(SPLITS, (int,)), "sizes")
        for split, rows in given.items():
            if isinstance(rows, bool) or rows < 1:
                self._refuse(f"'{split}' must be at least 1, found {rows!r}", split, "sizes")
        return {"train": 1000, "dev": 500, "test": 1000} | given

    def _hub(self) -> Hub | None:
        given = self.table.get("hub")
        if given is None:
            return None
        if "path" not in given:
            self._refuse("'hub' has no 'path', the repository", "hub")
        for name in ("splits", "columns"):
            for key, value in given.get(name, {}).items():
                if not isinstance(value, str):
                    self._refuse(f"'{key}' must be text, found {value!r}", key, f"hub.{name}")
        return Hub(**given)

    def _check_choices(self) -> None:
        for key, known in CHOICES.items():
            if self.table.get(key, known[0]) not in known:
                self._refuse(f"'{key}' must be one of {', '.join(known)}, found {self.table[key]!r}", key)
        if "metric" in self.table:
            try:
                metrics.metric(self.table["metric"])
            except ZoplatError as problem:
                self._refuse(str(problem).rstrip("."), "metric")

    def _only(self, what: str, *keys: str) -> None:
        """Refuse keys that have no meaning beside something else."""
        for key in keys:
            if key in self.table:
                self._refuse(f"'{key}' means nothing beside {what}", key)

    def _check(self, table: dict[str, Any], known: Mapping[str, tuple[type, ...]], inside: str = "") -> None:
        """Refuse unknown keys, and values of the wrong type."""
        for key, value in table.items():
            if key not in known:
                close = get_close_matches(key, known, n=1)
                guess = f"did you mean '{close[0]}'?" if close else f"one of: {', '.join(known)}"
                self._refuse(f"unknown key '{key}'; {guess}", key, inside)
            if not isinstance(value, known[key]):
                expected = " or ".join(TYPE_NAMES[kind] for kind in known[key])
                self._refuse(f"'{key}' must be {expected}, found {value!r}", key, inside)

    def _refuse(self, what: str, key: str = "", inside: str = "") -> NoReturn:
        raise ZoplatError(f"{self.path}, line {line_of(self.text, key, inside)}: {what}.")


def _unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))

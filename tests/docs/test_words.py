"""One language: words of an earlier dialect stay out of code, messages, docs and tests.

The field has its own words for these things; docs/explanation/glossary.md has those that zoplat uses. A line that must
quote an old setting (a test of its alias, say) contains the words "old name".
"""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("zoplat", "plugins", "devices", "tests", "bench", "docs", "changelog.d")
KINDS = (".py", ".c", ".md", ".toml")
QUOTING = {
    "zoplat/config/renamed.py",
    "zoplat/core/deprecated.py",
    "docs/decisions/0020-rooms-and-words.md",
    "tests/docs/test_words.py",
    "tests/tasks/test_prompts.py",  # stories in which somebody told somebody
    "tests/test_old_names.py",
    "tests/test_settings.py",
}
"""Files that are about the old names."""
MARK = "old name"


def word(text: str) -> str:
    """A pattern for a word that may be a piece of an identifier, between underscores."""
    return rf"(?<![A-Za-z]){text}(?![A-Za-z])"


RETIRED = {
    word("(re)?told") + r"(?! apart)": "the thing itself: losses, answers, scores, predictions, facts",
    "overlay": "perturbation",
    r"put[_ -]off": "deferred update; a deferred move",
    r"\blet(s|ting)?[_ ]go\b": "release, evict",
    word("roads?"): "evaluation strategy",
    r"(?<!\.)(?<!random )" + word("walk(s|ed|ing)?"): "sequential; one point after the other",
    r"\.elsewhere\b|\bdef elsewhere\b": "on_batch(i), auxiliary batch",
    r"\bapart\(": "auxiliary_batch",
    r"\bplainly\b": "eagerly, eager()",
    r"hooks are heard": "run eagerly",
    r"\bby_column\b|one row that stands for|row stands for all": "broadcast_row; a broadcast row",
    r"(?-i:\bLesson\b)": "LiveLosses; a LossBackend",
    r"(?-i:\b(class Recorded|Recorded\()\b)": "RecordedLosses",
    r"\b(class (Way|Asking)|(Way|Asking)\(|import .*\b(Way|Asking)\b)": "EvaluationProtocol, PromptEncoder; a variant",
    r"_begin_write|let it have": "advance the stream of stochastic rounding",
    r"\bby chance\b|\bown chances\b": "stochastic rounding, stochastically; at random",
    r"_renew_masters|renew\w* (the )?masters|masters do not round to": "resynchronise master weights",
    r"how the kernels call": "conversion opcode",
    r"\bdef settles\b|\.settles\b": "a name of its own: `settle` writes θ into the arrays",
    r"\bnumbers\(each\b": "float32_per_weight",
    r"oracle\.numbers\b": "oracle.normals",
    r"never met\b": "unused; not seen by any row",
    r"turned round": "negated, inverted, transposed: whichever it is",
    r"what a pass has left": "what a pass left behind; the remaining update",
    r"that was skipped was": "the reason why the last step was skipped",
    r"too short to say": "not enough losses",
    r"what it makes of": "what it returns, computes or writes",
}
"""Pattern → what to say instead."""


@cache
def files() -> list[Path]:
    found = [path for place in PLACES for path in sorted((ROOT / place).rglob("*")) if path.suffix in KINDS]
    found += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"]
    return [path for path in found if str(path.relative_to(ROOT)) not in QUOTING and "__pycache__" not in path.parts]


def retired_words(text: str) -> list[tuple[int, str, str]]:
    """(line number, what was found, what to say instead)."""
    return [
        (number, found.group(), instead)
        for number, line in enumerate(text.splitlines(), start=1)
        if MARK not in line
        for pattern, instead in RETIRED.items()
        for found in re.finditer(pattern, line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("place", [*PLACES, "."])
def test_retired_words_stay_out(place: str) -> None:
    inside = [
        path for path in files() if (path.relative_to(ROOT).parts[0] == place) or (place, path.parent) == (".", ROOT)
    ]
    assert inside
    lines = [
        f"{path.relative_to(ROOT)}:{number}: '{found}'; say: {instead}"
        for path in inside
        for number, found, instead in retired_words(path.read_text(encoding="utf-8"))
    ]
    if lines:
        pytest.fail(f"{len(lines)} words of the old dialect:\n" + "\n".join(lines), pytrace=False)


@pytest.mark.parametrize(
    "line", ["by the batched road", "what it was told", "ROADS = 3", "put-off moves", "walk_back()", "retold = 1"]
)
def test_old_words_are_found(line: str) -> None:
    assert retired_words(line)


@pytest.mark.parametrize(
    "line",
    [
        "a broad road, quoted as an old name",
        "for node in ast.walk(tree)",
        "as a random walk does",
        "they can't be told apart",
        "self.settle()",
        "zero elsewhere",
    ],
)
def test_good_words_pass(line: str) -> None:
    assert not retired_words(line)


def test_the_files_that_quote_old_names_are_there() -> None:
    assert not {name for name in QUOTING if not (ROOT / name).exists()} - {"zoplat/core/deprecated.py"}

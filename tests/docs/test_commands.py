"""Commands on the pages: each is run, on a small model and few rows, or its block says what it needs.

A block of shell commands is run as it stands, but for sizes: models are replaced by a small one, budgets by a few
steps, and what a reader has to put in (NAME, DIR, …) by something. The quick test takes what trains by `--dry-run`; the
slow one makes the runs. Comparisons are made in tests/cli. Above a block that can't be run here a comment says what it
needs, and when it last ran there:

    <!-- needs: a CUDA GPU; last ran: 2026-11-28 -->

With `for: TEXT`, it is about the commands of the block that contain the text; several may stand above each other. "no
record" stands where nobody noted a day.
"""

import json
import random
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click.testing
import pytest

from zoplat.cli import main
from zoplat.registry import catalogue
from zoplat_devices.edge.runner import main as edge

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changelog.d").glob("README.md")])
BLOCK = re.compile(r"((?:^ *<!-- needs:[^\n]*-->\n)*)^ *```(?:sh|bash|console|shell)\b[^\n]*\n(.*?)^ *```", re.M | re.S)
LABEL = re.compile(r"<!-- needs: ([^;]+?)(?:; for: ([^;]+?))?; last ran: (\d{4}-\d\d-\d\d|no record) -->")
PUT_IN = {
    "NAME": "mezo",
    "LR": "1e-3",
    "DTYPE": "float32",
    "R": "nearest",
    "SEED": "0",
    "MODEL": "MODEL",
    "DIR": "data",
    "…": "",
    "[-o": "",
    "…]": "",
    "device.rounding=R": "device.rounding=nearest",
}
"""What a reader has to put in → what the test does."""
SMALL = ("--steps", "2", "--max-passes", "8", "--limit", "40", "--batch-size", "4")
HUB = {"sst2", "rte", "wsc", "wic"}
"""Tasks whose rows are in the folder of the test."""


@dataclass(frozen=True)
class Command:
    """A command of a page: where it is, its words, and what its block says that it needs."""

    page: str
    line: int
    words: tuple[str, ...]
    needs: str

    @property
    def name(self) -> str:
        """A name for its run directory."""
        return f"{Path(self.page).stem}-{self.line}"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {' '.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page; continued lines are joined, and comments are left out."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        labels = LABEL.findall(block[1])
        assert len(labels) == len(block[1].splitlines()), f"{page}: a label that can't be read: {block[1]}"
        line = text[: block.start(2)].count("\n") + 1
        for row in block[2].replace("\\\n", "").splitlines():
            for words in split(row):
                whole = " ".join(words)
                needs = next((what for what, part, _ in labels if not part or part in whole), "")
                yield Command(page.relative_to(ROOT).as_posix(), line, words, needs)


def split(row: str) -> Iterator[tuple[str, ...]]:
    """The commands in a line, which semicolons separate, as words; variables that are set before them are left out."""
    lexer = shlex.shlex(row, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word != ";":
            words += [] if not words and re.fullmatch(r"[A-Z_]+=\S*", word) else [word]
        elif words:
            yield tuple(words)
            words = []


ALL = [command for page in PAGES for command in commands(page)]
RUN_HERE = [command for command in ALL if not command.needs]


def program_of(command: Command) -> str:
    """The program; `edge/bin/zoplat-edge` is `zoplat-edge`."""
    return command.words[0].rpartition("/")[2]


def small(command: Command, trains: bool) -> list[str]:
    """The words of a command after its program, on a small model; with `--dry-run` where it would train."""
    words = [word for word in (PUT_IN.get(word, word) for word in command.words[1:]) if word]
    if not words or program_of(command) != "zoplat":
        return words
    if value_of(words, "--model") == "data":
        words[words.index("--model") + 1] = "MODEL"
    name = words[0]
    if name == "new-plugin" and "--to" not in words:  # pages make packages of the same name
        words += ["--to", f"package-of-{command.name}"]
    asks_model = name in ("run", "compare", "profile", "poc", "plan", "pack", "eval") and "--help" not in words
    made = name in ("eval", "compare") and any(word.startswith("runs/") for word in words[1:2])
    if not asks_model or made:
        return words
    models = {"plan": ["--model", "MODEL"], "compare": ["--models", "MODEL"]}.get(name, ["--model", "MODEL"])
    if "int4" in words:  # is made of groups of 32
        models[-1] = "MODEL-32"
    goes_on = "--resume" in words and "--parallel" not in words
    if not goes_on:
        words += models if not {"reference", "bag"} & {*words} else []
        if name in ("run", "pack", "compare", "poc"):
            words += SMALL[2:] if name == "poc" else SMALL
        if name == "run" and "--out" in words:
            words += ["--out", f"{value_of(words, '--out')}-of-{command.name}"]
        if name == "compare" and "--out" not in words:
            words += ["--out", f"runs/compare-of-{command.name}"]
    if name in ("eval", "profile", "plan"):
        words += ["--limit", "40"] if name == "eval" else ["--limit", "40", "--batch-size", "4"]
    if name == "profile" and "--suggest-eps" not in words:
        words += ["--steps", "1"]
    named = value_of(words, "--task") or value_of(words, "--tasks") or ""
    if {*named.split(",")} & HUB:
        words += ["--data", "data" if "," in named else f"data/{named}"]
    if name in ("run", "compare", "poc") and not trains:
        words += ["--dry-run"]
    return words


def value_of(words: list[str], flag: str) -> str | None:
    """What stands after a flag; None where it is not there."""
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def invoke(program: str, words: list[str]) -> click.testing.Result:
    """Run a command in this process."""
    return click.testing.CliRunner().invoke({"zoplat": main, "zoplat-edge": edge}[program], words)


def rows_of(task: str, draw: random.Random) -> dict[str, object]:
    """A row of a task, with the columns that it has on the hub."""
    word = f"{draw.choice(('bright', 'dull'))} {draw.randrange(10**6)}"
    return {
        "sst2": {"sentence": word, "label": draw.randrange(2)},
        "sentiment": {"sentence": word, "label": draw.randrange(2)},
        "rte": {"premise": word, "hypothesis": f"not {word}", "label": draw.randrange(2)},
        "wsc": {"text": f"{word} it", "span1_text": word, "span2_text": "it", "label": draw.randrange(2)},
        "tickets": {"title": word, "body": word, "label": draw.choice(("billing", "login", "other"))},
        "wic": {"sentence1": word, "sentence2": f"more {word}", "word": word, "label": draw.randrange(2)},
    }[task]


def write_rows(folder: Path, task: str) -> None:
    draw = random.Random(task)
    folder.mkdir(parents=True, exist_ok=True)
    for split_, count in (("train", 48), ("dev", 12), ("test", 12)):
        lines = [json.dumps(rows_of(task, draw)) for _ in range(count)]
        (folder / f"{split_}.jsonl").write_text("\n".join(lines) + "\n")


JUDGE = "import sys\nprint(sum(map(len, sys.stdin.read().split())) % 7 / 7)\n"
MINE = """def score(answers, right):
    return sum(a in r for a, r in zip(answers, right)) / len(answers)
"""
TASK = """summary = "reviews, good or bad"
prompt = "{sentence} It was"
label = "label"
options = [" terrible", " great"]
"""


DEVICE = """from zoplat import hookimpl
from zoplat_devices.pytorch.device import PyTorch

@hookimpl
def zoplat_devices():
    return {"my-device": PyTorch()}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    """A folder with all that the commands name: a small model, rows, runs, a study, plugins."""
    folder = tmp_path_factory.mktemp("commands")
    small_model().rename(folder / "MODEL")
    small_model(hidden_size=32, intermediate_size=64).rename(folder / "MODEL-32")
    for task in sorted(HUB):
        write_rows(folder / "data" / task, task)
        write_rows(folder / task, task)
    write_rows(folder / "data", "sentiment")
    write_rows(folder / "reviews", "sentiment")
    (folder / "my-task.toml").write_text(TASK)
    (folder / "judge.py").write_text(JUDGE)
    (folder / "mine.py").write_text(MINE)
    example = ROOT / "docs" / "examples" / "zoplat-example"
    shutil.copytree(example, folder / "path/to/project", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    files = {"bag.py": "write-a-device", "soft_sign.py": "write-a-rule", "clipped.py": "write-an-estimator"}
    for name, where in files.items():
        (folder / name).write_text(first_block(where, "python"))
    shutil.copy(folder / "clipped.py", folder / "my_method.py")
    (folder / "my_device.py").write_text(DEVICE)
    (folder / "tickets.toml").write_text(first_block("own-task", "toml"))
    write_rows(folder / "tickets", "tickets")
    for name in ("bench", "docs"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        toy = ("--model", "MODEL", "--device", "cpu", "--limit", "8", "--batch-size", "4", "--quiet")
        for name, method, seed in (("runs/a", "lozo", "0"), ("runs/b", "lozo", "1"), ("private", "dp", "0")):
            flags = (*toy, "--steps", "2", "--estimator", method, "--seed", seed, "--out", name)
            assert invoke("zoplat", ["run", *flags]).exit_code == 0
    again = ("compare/lozo-0", "first", "sentiment-lozo-0", "sentiment-mezo-0", "rte-lozo-0", "lora-0", "mine-0")
    (folder / "runs/compare").mkdir()
    (folder / "runs/compare/study.toml").write_text('estimators = ["lozo"]\nseeds = [0]\n[study]\nname = "made"\n')
    for name in again:
        shutil.copytree(folder / "runs/a", folder / "runs" / name)
    return folder


def first_block(page: str, language: str) -> str:
    """The first block of code in a language on a how-to page."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found
    return found[1]


LONG = (
    r"zoplat (pack|check) |zoplat report docs/|(how-to/report|first-run).md zoplat report|--beside|science.toml|killed|"
    r"docs/methods/(?!dizo|lozo\b)|(at-a-glance|models).md zoplat profile --suggest-eps"
)


def takes_long(command: Command) -> bool:
    """Whether it takes seconds even so, as graphs, kits of tests and large reports do; or is one of many alike."""
    whole = " ".join(command.words)
    return program_of(command) == "zoplat-edge" or bool(re.search(LONG, f"{command.page} {whole}"))


TRIED = [
    pytest.param(command, id=str(command), marks=pytest.mark.slow if takes_long(command) else ())
    for command in RUN_HERE
    if program_of(command).startswith("zoplat")
]
MADE = [
    pytest.param(command, id=str(command))
    for command in RUN_HERE
    if command.words[:2] == ("zoplat", "run") and "--dry-run" not in command.words
]


@pytest.mark.parametrize("command", TRIED)
def test_a_command_of_a_page_works(command: Command, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(command, small(command, trains=False), prepared, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("command", MADE)
def test_a_run_of_a_page_is_made(command: Command, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(command, small(command, trains=True), prepared, monkeypatch)


def attempt(command: Command, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it in the folder; as for `python -m zoplat`, modules that are there can be imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    flag = "--to" if words[0] == "pack" else "--out" if program_of(command) == "zoplat-edge" else ""
    if made := value_of(words, flag):  # other pages have made it too
        shutil.rmtree(folder / made, ignore_errors=True)
    done = invoke(program_of(command), words)
    assert done.exit_code in allowed(words), f"zoplat {' '.join(words)}\n{done.output[-1500:]}"
    assert "Error:" not in done.stderr, done.stderr
    if "--plugin" in words or words[0] == "check":
        catalogue.cache_clear()  # which has the parts of the file now


def allowed(words: list[str]) -> tuple[int, ...]:
    """Exit statuses of a command that did what it should: some of them answer by it."""
    return {"diff": (0, 1), "plan": (0, 1, 2), "poc": (0, 1, 2)}.get(words[0] if words else "", (0,))


def test_every_other_program_has_a_label() -> None:
    others = [str(command) for command in RUN_HERE if not program_of(command).startswith("zoplat")]
    assert not others, "say above the block what it needs:\n" + "\n".join(others)


def test_labels_have_days_that_are_over() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        labels = LABEL.findall(text)
        assert len(labels) == text.count("<!-- needs:") - text.count("    <!-- needs:"), page
        assert all(day == "no record" or date.fromisoformat(day) <= date.today() for *_, day in labels)


def test_commands_are_found() -> None:
    assert len(ALL) > 120
    assert [*split('OMP_NUM_THREADS=1 zoplat run -o "a=b c" …  # why; not')] == [("zoplat", "run", "-o", "a=b c", "…")]
    assert [*split("zoplat doctor; zoplat list tasks")] == [("zoplat", "doctor"), ("zoplat", "list", "tasks")]

"""docs/reference/files.md against files: the keys that zoplat writes are those of the page, in both directions."""

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from docs.files.bundle import BUNDLE
from docs.files.file import File
from docs.files.reports import PAGES
from docs.files.run import RUN
from docs.files.study import STUDY
from zoplat.cli import main

from ..test_bundle import written

TOY = ("--device", "reference", "--limit", "16", "--batch-size", "4")
Path_ = tuple[str, ...]
"""Names from the outside to the inside; `[]` for the entries of a list."""
FAILING = '''"""Fails in its first step."""

from dataclasses import dataclass

from zoplat import Estimator, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class Failing(Estimator):
    """No method."""

    rule: Constant = Constant(lr=1e-3)

    def estimate(self, oracle, state):
        raise RuntimeError("as it was meant")
        yield


@hookimpl
def zoplat_estimators():
    return {"failing": Failing()}
'''


def zoplat(*arguments: Any, status: int = 0) -> str:
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.stdout


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The places of all values that hold no others."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for one in value:
            yield from leaves(one, (*path, "[]"))
    else:
        yield path


def pattern(key: str) -> Path_:
    """A key of the page as a place, in which `<…>` stands for a name and a last `*` for the rest."""
    return tuple(key.replace("[]", ".[]").strip(".").split("."))


def fits(path: Path_, key: str) -> bool:
    """Whether a key of the page says what is at a place, or what would be below it were it not empty."""
    wanted = pattern(key)
    if wanted[-1] == "*":
        wanted, path = wanted[:-1], path[: len(wanted) - 1]
    elif wanted[-1] == "[]" and path[-1:] != ("[]",):
        wanted = wanted[:-1]
    elif path[-1:] == ("[]",) and wanted[-1] != "[]":
        path = tuple(name for name in path if name != "[]")
    return is_at(path, wanted)


def is_at(path: Path_, wanted: Path_) -> bool:
    """Whether a place is the wanted one."""
    pairs = zip(path, wanted, strict=False)
    return len(path) == len(wanted) and all(name == own or own.startswith("<") for name, own in pairs)


def is_empty_above(path: Path_, keys: Iterable[str]) -> bool:
    """Whether a place is that of a table or a list with keys of its own."""
    return any(is_at(path, pattern(key)[: len(path)]) for key in keys if len(pattern(key)) > len(path))


def check(file: File, values: Iterable[Any]) -> None:
    """Compare what files hold with the page."""
    found = {path for value in values for path in leaves(value)}
    assert found
    unknown = {path for path in found if not any(fits(path, key) for key in file.keys)}
    unknown = {path for path in unknown if not is_empty_above(path, file.keys)}
    assert not unknown, f"{file.name}: not on the page"
    unseen = {key for key in file.keys if key not in file.unseen and not any(fits(path, key) for path in found)}
    assert not unseen, f"{file.name}: on the page, and in no file"


def read(path: Path) -> list[Any]:
    """The objects in a file: one, or one a line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return [tomllib.loads(text)]
    return [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> list[Path]:
    """A toy run, and one of a small language model."""
    folder = tmp_path_factory.mktemp("runs")
    budgets = ("--max-passes", 100, "--max-seconds", 60, "--max-tokens", 10**9)
    sizes = ("--micro-batch-size", 2, "--eval-batch-size", 4, "--per-class", 4, "-o", "sync_every=5")
    rest = ("--steps", 12, "--evaluate-every", 6, "--out", folder / "toy", "--quiet")
    zoplat("run", *TOY, *budgets, *sizes, *rest)
    model = ("--model", small_model(), "--device", "cpu", "--limit", 8, "--batch-size", 4, "--estimator", "mezo")
    zoplat("run", *model, "--steps", 2, "--forgetting", "--out", folder / "model", "--quiet")
    return [folder / "toy", folder / "model"]


KINDS_OF_LINE: dict[str, Callable[[dict[str, Any]], bool]] = {
    "the first line, its header": lambda line: "zoplat_journal" in line,
    "every other line, one a step": lambda line: "zoplat_journal" not in line,
    "lines of phases": lambda line: line["kind"] == "phase",
    "lines of owners": lambda line: line["kind"] == "owner",
    "lines of machine probes": lambda line: line["kind"] == "probe",
}
KEYED = [file for file in RUN if file.keys and file.name != "trackers.json"]


@pytest.mark.parametrize("file", KEYED, ids=lambda file: f"{file.name} {file.variant}".strip())
def test_the_files_of_a_run_have_the_keys_of_the_page(file: File, runs: list[Path]) -> None:
    values = [value for run in runs for value in read(next(run.glob(file.name.replace("step-N", "step-*"))))]
    if file.variant:
        values = [value for value in values if KINDS_OF_LINE[file.variant](value)]
    check(file, values)


def test_the_page_has_every_file_that_a_run_writes(runs: list[Path]) -> None:
    known = {file.name for file in RUN}
    for run in runs:
        names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        assert {
            "/".join("step-N" if part.startswith("step-") else part for part in n.split("/")) for n in names
        } <= known


def test_a_bundle_has_the_keys_of_the_page(tmp_path: Path) -> None:
    folder = written(tmp_path / "bundle", limit=8).folder
    manifest, *_ = BUNDLE
    check(manifest, read(folder / "bundle.json"))
    known = {file.name.replace("SPLIT.jsonl", "").rstrip("/") for file in BUNDLE}
    assert {path.name for path in folder.iterdir()} <= known


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with a search, a model that is not trained, and a method that fails."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "failing.py").write_text(FAILING)
    what = ("--estimators", "mezo,zero-shot,failing", "--tune-trials", 2, "--plugin", folder / "failing.py")
    zoplat("compare", *what, *TOY, "--max-passes", 40, "--out", folder / "study", status=1)
    return folder / "study"


def entry(files: list[File], name: str, variant: str = "") -> File:
    return next(file for file in files if (file.name, file.variant) == (name, variant))


@pytest.mark.slow
def test_a_study_has_the_keys_and_the_files_of_the_page(study: Path) -> None:
    check(entry(STUDY, "study.toml"), read(study / "study.toml"))
    check(entry(STUDY, "comparison.json"), read(study / "comparison.json"))
    scored = entry(STUDY, "METHOD-SEED/summary.json", "of a model that was evaluated without training")
    check(scored, read(study / "zero-shot-0" / "summary.json"))
    failures = [value for path in study.rglob("failure.json") for value in read(path)]
    check(entry(STUDY, "METHOD-SEED/failure.json"), failures)
    own = {path.name for path in study.iterdir() if path.is_file()} | {"claims", "trials"}
    assert own <= {file.name.split("/")[0] for file in STUDY}


@pytest.mark.slow
def test_a_stored_study_has_the_keys_of_the_page(study: Path, tmp_path: Path) -> None:
    zoplat("report", study, "--to", tmp_path / "study.jsonl")
    check(entry(PAGES, "STUDY.jsonl"), read(tmp_path / "study.jsonl"))


@pytest.mark.slow
def test_a_profile_has_the_keys_and_the_files_of_the_page(tmp_path: Path) -> None:
    zoplat("profile", *TOY, "--estimator", "mezo", "--steps", 2, "--to", tmp_path / "profile")
    check(entry(PAGES, "profile.json"), read(tmp_path / "profile" / "profile.json"))
    columns = (tmp_path / "profile" / "timeline.csv").read_text().splitlines()[0].split(",")
    assert columns == ["kind", "phase", "began", "ended", "host", "device"]
    known = {file.name for file in PAGES}
    assert {path.name for path in (tmp_path / "profile").iterdir() if not path.match("report-*.svg")} <= known


@pytest.mark.slow
def test_a_proof_of_concept_has_the_keys_of_the_page(tmp_path: Path) -> None:
    flags = ("--estimators", "mezo", "--max-passes", 40, "--out", tmp_path / "poc", "--json")
    done = click.testing.CliRunner().invoke(main, ["poc", *map(str, (*TOY, *flags))])
    assert done.exit_code in (0, 1, 2), done.output
    check(entry(PAGES, "poc.json"), read(tmp_path / "poc" / "poc.json"))


@pytest.mark.parametrize(
    ("path", "key", "is_it"),
    [
        (("a", "b"), "a.b", True),
        (("a", "b"), "a", False),
        (("a",), "a.b", False),
        (("a", "x.y"), "a.<name>", True),
        (("a", "x", "y"), "a.*", True),
        (("a",), "a.*", True),
        (("rows", "[]", "score"), "rows[].score", True),
        (("rows", "score"), "rows[].score", False),
        (("texts",), "texts[]", True),
        (("shown", "[]"), "shown[]", True),
    ],
)
def test_keys_of_the_page_are_compared_with_places(path: Path_, key: str, is_it: bool) -> None:
    assert fits(path, key) == is_it

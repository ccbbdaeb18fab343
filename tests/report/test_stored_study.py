"""A study in one file says what its folder says: the same pages and tables, and no place on anybody's machine."""

import gzip
import json
from pathlib import Path
from shutil import copytree

import pytest
from click.testing import CliRunner, Result

from zoplat.cli import main
from zoplat.core.errors import ZoplatError
from zoplat.report.formats import run_rows
from zoplat.report.study.stored import as_lines, opened

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


@pytest.fixture
def here(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the study is in, as the working folder, with the file of the study."""
    monkeypatch.chdir(study.parent)
    assert report("study", "--to", "study.jsonl").exit_code == 0
    return study.parent


@pytest.mark.slow
def test_reports_from_the_file_are_those_of_the_folder_to_the_byte(here: Path) -> None:
    for source, to in (("study", "of-folder"), ("study.jsonl", "of-file")):
        done = report(source, "--to", to, "--format", "md,csv,tex,html")
        assert done.exit_code == 0, done.output
    written = {path.name for path in (here / "of-folder").iterdir()}
    assert {"report.md", "report.html", "report-learning-0.svg"} <= written
    for name in sorted(written):
        assert (here / "of-folder" / name).read_bytes() == (here / "of-file" / name).read_bytes(), name


def test_the_same_runs_give_the_same_text_from_wherever_they_are_read(here: Path) -> None:
    text = (here / "study.jsonl").read_text()
    assert as_lines(opened([here / "study"]), [here / "study"]) == text
    assert as_lines(opened([here / "study.jsonl"])) == text
    assert report("study.jsonl", "--to", "again.jsonl.gz").exit_code == 0
    assert gzip.decompress((here / "again.jsonl.gz").read_bytes()).decode() == text
    assert as_lines(opened([here / "again.jsonl.gz"])) == text


def test_the_file_is_small_and_names_no_place_of_a_machine(here: Path) -> None:
    text = (here / "study.jsonl").read_text()
    assert str(here) not in text
    assert "/tmp" not in text
    runs = text.count('{"run": ')
    assert runs == 18
    assert len(gzip.compress(text.encode())) < 1500 * runs


def test_other_runs_stand_beside_those_of_a_file(here: Path) -> None:
    copytree(here / "study" / "rte" / "mezo-0", here / "mine-0")
    rows = run_rows(opened([here / "study.jsonl", here / "mine-0"]))
    assert len(rows) == 18, "the same seed of the same runs counts once"
    only = json.loads((here / "mine-0" / "summary.json").read_text())
    (here / "mine-0" / "summary.json").write_text(json.dumps({**only, "seed": 77}))
    assert len(run_rows(opened([here / "study.jsonl", here / "mine-0"]))) == 19


def test_paired_tests_need_no_folder(here: Path) -> None:
    assert report("study.jsonl", "--to", "page.md").exit_code == 0
    assert "On the same test rows as mezo" in (here / "page.md").read_text()


def test_settings_of_the_whole_study_come_back(here: Path, tmp_path: Path) -> None:
    copytree(here / "study", tmp_path / "study")
    settings = 'estimators = ["mezo"]\ndata = "/home/somebody/rows"\n[study]\nname = "a"\nstorage = "mysql://me@host"\n'
    (tmp_path / "study" / "study.toml").write_text(settings)
    for source, to in ((tmp_path / "study", "s.jsonl"), ("s.jsonl", "s.toml")):
        assert report(str(source), "--to", to).exit_code == 0
    assert (here / "s.toml").read_text() == 'estimators = [\n    "mezo",\n]\ndata = "rows"\n\n[study]\nname = "a"\n'
    assert "zoplat compare --config study/study.toml --out study-again" in (here / "s.jsonl").read_text()
    done = report("study.jsonl", "--to", "none.toml")
    assert done.exit_code == 2
    assert "it has no study.toml" in done.output


@pytest.mark.parametrize("damage", ["", "no JSON", '{"study": {"format": 2}}', '{"run": {}}', "[1]", "\x1f\x8b"])
def test_a_damaged_file_is_refused_with_its_line(here: Path, damage: str) -> None:
    (here / "bad.jsonl").write_text(damage)
    with pytest.raises(ZoplatError, match=r"bad\.jsonl is not the file of a study, or it is damaged"):
        opened([here / "bad.jsonl"])

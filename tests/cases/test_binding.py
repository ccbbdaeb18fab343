"""A journal and a kept score belong to one model, one set of rows and one set of settings: by content, not by name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat import registry
from zoplat.cli import main
from zoplat.training.journal import Journal, chained_checksum

TOY = ("--device", "reference", "--task", "sentiment", "--batch-size", 4, "--estimator", "mezo", "--lr", 1e-2)
CPU = ("--device", "cpu", "-o", "device.threads=1", "--batch-size", 4, "--estimator", "mezo")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a cache of its own for each test."""
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def zoplat(*arguments: Any, status: int = 0) -> click.testing.Result:
    """`zoplat …` in this process, which must end with a status."""
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == status, (done.output, repr(done.exception))
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def interrupted(out: Path, steps: int) -> None:
    """Make a finished run one that was killed after so many steps, without a checkpoint."""
    (out / "summary.json").unlink()
    shutil.rmtree(out / "checkpoint")
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    (out / "journal.jsonl").write_text("".join(lines[: steps + 1]))


class TestTheHeader:
    @pytest.fixture
    def run(self, rows: Any) -> Path:
        rows(Path("rows"))
        zoplat("run", *TOY, "--data", "rows", "--steps", 8, "--evaluate-every", 4, "--out", "r", "--json")
        return Path("r")

    def test_it_has_settings_rows_and_metric(self, run: Path) -> None:
        header = Journal.read(run / "journal.jsonl").header
        assert header["settings"]["estimator"]["rule"]["lr"] == 1e-2
        assert header["metric"] == "accuracy"
        assert header["rows"]["train"].startswith("16 rows, sha256:")

    @pytest.mark.parametrize("command", [("replay", "r"), ("run", "--resume", "--out", "r")])
    def test_settings_that_were_edited_are_refused(self, run: Path, command: tuple[str, ...]) -> None:
        interrupted(run, 6)
        config = run / "config.toml"
        config.write_text(config.read_text().replace("lr = 0.01", "lr = 0.5").replace("eps = 0.001", "eps = 0.1"))
        before = (run / "journal.jsonl").read_bytes()
        message = zoplat(*command, status=2).stderr
        assert "estimator.rule.lr: 0.01 → 0.5" in message
        assert "estimator.eps: 0.001 → 0.1" in message
        assert (run / "journal.jsonl").read_bytes() == before

    @pytest.mark.parametrize("command", [("replay", "r"), ("run", "--resume", "--out", "r"), ("eval", "r")])
    def test_other_rows_are_refused(self, run: Path, rows: Any, command: tuple[str, ...]) -> None:
        if command[0] == "run":
            interrupted(run, 6)
        rows(Path("rows"), seed=1, dev=10)
        message = zoplat(*command, status=2).stderr
        assert "rows of train: 16 rows" in message
        assert "rows of dev: 8 rows" in message
        assert "10 rows" in message

    def test_a_run_is_replayed_without_its_rows(self, run: Path) -> None:
        shutil.rmtree("rows")
        assert "the same bits" in zoplat("replay", run).output

    def test_the_same_things_are_gone_on_with(self, run: Path) -> None:
        digest = json.loads((run / "summary.json").read_text())["weights_digest"]
        interrupted(run, 6)
        zoplat("run", "--resume", "--out", run)
        assert json.loads((run / "summary.json").read_text())["weights_digest"] == digest
        assert "the same bits" in zoplat("replay", run).output
        zoplat("eval", run)

    def test_a_journal_of_an_earlier_version_is_usable(self, run: Path) -> None:
        _strip_header(run / "journal.jsonl", ("settings", "rows", "metric", "model_digest", "plugins"))
        assert "the same bits" in zoplat("replay", run).output
        interrupted(run, 6)
        zoplat("run", "--resume", "--out", run)

    def test_low_rank_updates_that_were_written_four_at_a_time_are_refused(self, rows: Any) -> None:
        """Journals of batched points name another strategy since updates are added up in factors."""
        rows(Path("rows"))
        zoplat("run", *TOY, "--estimator", "lozo", "--data", "rows", "--steps", 4, "--out", "r", "--json")
        assert "the same bits" in zoplat("replay", "r").output, "in place, as ever"
        _strip_header(Path("r/journal.jsonl"), (), strategy="batched")
        message = zoplat("replay", "r", status=2).stderr
        assert "by a version that wrote low-rank updates of batched points four at a time" in message
        interrupted(Path("r"), 3)
        assert "four at a time" in zoplat("run", "--resume", "--out", "r", status=2).stderr

    def test_other_versions_are_said(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _strip_header(run / "journal.jsonl", (), plugins={"zoplat-more": "1.0"})
        monkeypatch.setattr("zoplat.training.binding.plugin_versions", lambda config: {"zoplat-more": "2.0"})
        assert "zoplat-more 1.0 then, 2.0 now" in zoplat("replay", run).output
        interrupted(run, 6)
        assert "zoplat-more 1.0 then, 2.0 now" in zoplat("run", "--resume", "--out", run).output

    def test_versions_of_all_plugins_used_are_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from zoplat.config.layers import resolve
        from zoplat.training.binding import plugin_versions

        known = registry.catalogue()
        for key in (("sampler", "gaussian"), ("step-rule", "constant")):
            [entry] = known.entries[key]
            other = registry.Entry(entry.kind, entry.name, entry.value, f"zoplat-{entry.name}", "7.1")
            monkeypatch.setitem(known.entries, key, [other])
        config = resolve({"device": "reference", "estimator": "mezo"})
        assert plugin_versions(config) == {"zoplat-gaussian": "7.1", "zoplat-constant": "7.1"}


class TestTheModel:
    def test_adapters_are_not_gone_on_with_on_another_base(self, small_model: Any, rows: Any) -> None:
        rows(Path("rows"))
        shutil.copytree(small_model(), "model")
        flags = ("--task", "sentiment", "--data", "rows", "--tune", "lora", "--steps", 6, "--evaluate-every", 3)
        zoplat("run", *CPU, "--model", "model", *flags, "--out", "r", "--json")
        other = small_model(seed=9)
        shutil.copy(other / "model.safetensors", "model/model.safetensors")
        for command in (("replay", "r"), ("eval", "r"), ("export", "r", "--to", "out")):
            assert "weights or config.json of the model" in zoplat(*command, status=2).stderr
        interrupted(Path("r"), 5)
        assert "weights or config.json of the model" in zoplat("run", "--resume", "--out", "r", status=2).stderr

    def test_first_scores_are_kept_by_content_and_not_by_times(self, small_model: Any, rows: Any) -> None:
        rows(Path("rows"), test=40)
        flags = ("--task", "sentiment", "--data", "rows", "--tune", "lora", "--steps", 1, "--lr", 0)
        found = {}
        for name in ("one", "two", "again"):
            shutil.copytree(small_model(seed=0 if name != "two" else 3), name)
            for file in Path(name).iterdir():
                os.utime(file, (10**9, 10**9))
            os.replace(name, "model") if not Path("model").exists() else (
                shutil.rmtree("model"),
                os.replace(name, "model"),
            )
            zoplat("run", *CPU, "--model", "model", *flags, "--out", name, "--json")
            records = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
            found[name] = {r["split"]: (r["score"], r["kept"]) for r in records if r["step"] == 0}
            summary = json.loads(Path(name, "summary.json").read_text())
            assert summary["test_before"] == summary["test_after"]
        assert [found[name]["test"][1] for name in ("one", "two", "again")] == [False, False, True]

    def test_a_digest_is_computed_again_when_a_file_changes(self, tmp_path: Path) -> None:
        from zoplat_devices.pytorch.digests import content_digest

        file = tmp_path / "weights"
        file.write_bytes(b"one")
        os.utime(file, (10**9, 10**9))
        first = content_digest(file)
        file.write_bytes(b"two")
        os.utime(file, (10**9, 10**9))
        assert content_digest(file) != first


class TestFirstScores:
    def test_they_belong_to_the_metric(self, small_model: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        rows(Path("rows"))
        Path("half_of_all.py").write_text("def f(answers, right): return 0.125\n")
        monkeypatch.syspath_prepend(Path.cwd())
        text = 'prompt = "{sentence} It was"\nmetric = "METRIC"\n[options]\nbad = "bad"\ngood = "good"\n'
        flags = ("--model", small_model(), "--data", "rows", "--tune", "full", "--steps", 1)
        for metric in ("accuracy", "f1", "half_of_all:f"):
            Path("task.toml").write_text(text.replace("METRIC", metric))
            os.utime("task.toml", ns=(0, hash(metric) % 10**15))
            zoplat("run", *CPU, "--task", "task.toml", *flags, "--out", metric.partition(":")[0], "--json")
        summary = json.loads(Path("half_of_all", "summary.json").read_text())
        assert (summary["test_before"], summary["test_after"]) == (0.125, 0.125)
        assert all(not json.loads(line)["kept"] for line in Path("f1", "metrics.jsonl").read_text().splitlines())


def _strip_header(journal: Path, names: tuple[str, ...], **more: Any) -> None:
    """Leave keys out of a header or add some, and bring the checksums of all lines up to date."""
    chain, lines = "", []
    for number, line in enumerate(journal.read_text().splitlines()):
        fields = json.loads(line)
        del fields["checksum"]
        if number == 0:
            fields = {name: value for name, value in fields.items() if name not in names} | more
        body = json.dumps(fields, ensure_ascii=False)
        chain = chained_checksum(chain, body)
        lines.append(f'{body[:-1]}, "checksum": "{chain}"}}\n')
    journal.write_text("".join(lines))

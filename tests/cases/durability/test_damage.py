"""Damaged files of a run: what has a second copy is made again, all else is refused by name."""

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from zoplat.training import checkpoint
from zoplat.training.directory import RunDirectory, find_runs
from zoplat.training.journal import chained_checksum

from .toy import TOY, run, the_same, zoplat

DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights empty": lambda step: (step / "weights.safetensors").write_bytes(b""),
    "weights changed": lambda step: _flip(step / "weights.safetensors", -3),
    "state cut": lambda step: os.truncate(step / "state.json", 40),
    "state changed": lambda step: _flip(step / "state.json", 9),
    "state a list": lambda step: (step / "state.json").write_text("[]"),
    "newest empty": lambda step: (step.parent / "newest").write_bytes(b""),
    "newest outside": lambda step: (step.parent / "newest").write_text("../../x"),
    "newest no text": lambda step: (step.parent / "newest").write_bytes(b"\xff\xfe\0"),
    "folder gone": lambda step: shutil.rmtree(step),
}


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


class TestDamage:
    """Case damaged-checkpoint, and `zoplat repair`."""

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_damaged_checkpoint_is_dropped_since_the_journal_has_everything(self, damage: str) -> None:
        flags = ("--steps", 12, "--evaluate-every", 5, "--out", "r")
        whole = run(*flags)
        Path("r/summary.json").unlink()
        DAMAGE[damage](Path("r/checkpoint/step-12"))
        done = zoplat("run", *TOY, *flags, "--resume")
        assert done.exit_code == 0, done.stderr
        assert "Warning: " in done.stdout
        assert "It is dropped, and its steps are rebuilt from the journal." in " ".join(done.stdout.split())
        the_same(whole, json.loads(Path("r/summary.json").read_text()))
        assert zoplat("export", "r", "--to", "weights").exit_code == 0

    def test_saving_a_checkpoint_does_not_read_the_one_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a large model it takes minutes."""
        read, checksum = list[str](), checkpoint._checksum
        monkeypatch.setattr(checkpoint, "_checksum", lambda path: (read.append(path.parent.name), checksum(path))[1])
        run("--steps", 6, "--evaluate-every", 2, "--out", "r")
        assert read == ["step-2", "step-4", "step-6"]

    def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_read(self) -> None:
        whole = run("--steps", 4, "--out", "r")
        Path("r/summary.json").unlink()
        state = Path("r/checkpoint/step-4/state.json")
        table = json.loads(state.read_text())
        del table["checksum"], table["weights_checksum"]
        state.write_text(json.dumps(table))
        the_same(whole, run("--steps", 4, "--out", "r", "--resume"))

    def test_damaged_scores_are_dropped_and_the_first_ones_found_again(self, cache: Path) -> None:
        whole = run("--steps", 4, "--out", "r")
        Path("r/summary.json").unlink()
        shutil.rmtree(cache / "baselines", ignore_errors=True)
        lines = Path("r/metrics.jsonl").read_text().splitlines(keepends=True)
        Path("r/metrics.jsonl").write_text("".join(['{"st"ep": 0}\n', *lines[1:]]))
        again = run("--steps", 4, "--out", "r", "--resume")
        assert (again["dev_before"], again["test_after"]) == (whole["dev_before"], whole["test_after"])
        assert again["weights_digest"] == whole["weights_digest"]

    @pytest.mark.parametrize("content", ["", "[]", '{"peak_bytes": 3}', "{"])
    def test_one_bad_run_does_not_hide_the_others(self, content: str) -> None:
        run("--steps", 2, "--out", "runs/good")
        run("--steps", 2, "--out", "runs/bad")
        Path("runs/bad/summary.json").write_text(content)
        assert len(find_runs(Path("runs"))) == 2
        listed = zoplat("list", "runs")
        assert listed.exit_code == 0
        assert "good" in listed.stdout
        assert "bad" in listed.stdout
        assert len(json.loads(zoplat("list", "runs", "--json").stdout)) == 2

    @pytest.mark.parametrize("section", ["estimator", "device", "tune"])
    def test_settings_without_the_name_of_a_part_open_no_default(self, section: str) -> None:
        run("--steps", 2, "--out", "r")
        whole = Path("r/config.toml").read_text()
        for text in ("", re.sub(rf"(?m)^\[{section}\]\nname = .*\n", f"[{section}]\n", whole)):
            Path("r/config.toml").write_text(text)
            for command in (
                ("run", "--resume", "--out", "r"),
                ("replay", "r"),
                ("eval", "r"),
                ("export", "r", "--to", "w"),
            ):
                refused = zoplat(*command)
                assert refused.exit_code == 2, command
                assert "r/config.toml is damaged: it has no [" in refused.stderr

    @pytest.mark.parametrize(
        ("key", "value"),
        [("versions", ["x"]), ("plugins", 1), ("settings", []), ("rows", {"dev": 1}), ("strategy", "x")],
    )
    def test_a_resigned_header_with_other_types_is_refused(self, key: str, value: Any) -> None:
        run("--steps", 2, "--out", "r")
        _sign_with({key: value})
        for command in (("replay", "r"), ("eval", "r"), ("repair", "r")):
            refused = zoplat(*command)
            assert refused.exit_code == 2
            assert f"the header has {key} " in refused.stderr

    def test_a_run_with_batches_of_another_version_is_not_gone_on_with_but_replayed(self) -> None:
        whole = run("--steps", 2, "--out", "r")
        _sign_with({"batches": 1})
        refused = zoplat("run", *TOY, "--steps", 4, "--out", "r", "--resume")
        assert refused.exit_code == 2
        assert "r was begun with version 1 of the batches, and this version of zoplat makes version 2" in refused.stderr
        replayed = json.loads(zoplat("replay", "r", "--json").stdout)
        assert replayed["weights_digest"] == whole["weights_digest"]

    @pytest.mark.parametrize(
        "line",
        [
            '{"kind": "phase"}',
            "[]",
            '{"kind": "owner", "owner": 1, "bytes": 2}',
            '{"kind": "phase", "phase": "x", "seconds": "1", "calls": 1, "host_peak": 1}',
        ],
    )
    def test_damaged_lines_of_memory_are_left_out(self, line: str) -> None:
        run("--steps", 2, "--out", "r")
        before = RunDirectory(Path("r")).read_memory()
        assert {row["kind"] for row in before} - {"probe"} == {"phase", "owner"}
        Path("r/memory.jsonl").write_bytes(line.encode() + b"\n\xff\n" + Path("r/memory.jsonl").read_bytes())
        assert RunDirectory(Path("r")).read_memory() == before
        assert zoplat("run", "--resume", "--out", "r").exit_code == 0

    @pytest.mark.parametrize(
        ("key", "value"),
        [("peak_bytes", None), ("peak_bytes", 3), ("steps", "six"), ("seconds", 10**400), ("model", [])],
    )
    def test_a_summary_with_other_types_is_written_anew(self, key: str, value: Any) -> None:
        whole = run("--steps", 3, "--out", "r")
        Path("r/summary.json").write_text(json.dumps({**whole, key: value}))
        assert zoplat("list", "runs", "--in", ".").exit_code == 0
        the_same(whole, run("--steps", 3, "--out", "r", "--resume"))

    def test_a_resigned_state_with_other_types_is_dropped(self) -> None:
        flags = ("--estimator", "zo-adam", "--steps", 3, "--out", "r")
        whole = run(*flags)
        Path("r/summary.json").unlink()
        path = Path("r/checkpoint/step-3/state.json")
        state = json.loads(path.read_text())
        assert state["states"]["rule"]["state"]["fields"]["steps"] == 3
        state["states"]["rule"]["state"]["fields"]["steps"] = "three"
        del state["checksum"]
        path.write_text(
            json.dumps({**state, "checksum": blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()})
        )
        refused = zoplat("run", "--resume", "--out", "r")
        assert refused.exit_code == 1
        assert "whose steps is three" in refused.stderr
        the_same(whole, run(*flags, "--resume"))

    def test_a_damaged_summary_is_written_anew(self) -> None:
        whole = run("--steps", 3, "--out", "r")
        Path("r/summary.json").write_text("")
        the_same(whole, run("--steps", 3, "--out", "r", "--resume"))

    def test_repair_cuts_the_journal_back_and_says_what_was_lost(self) -> None:
        whole = run("--steps", 9, "--evaluate-every", 4, "--out", "r")
        lines = Path("r/journal.jsonl").read_bytes().splitlines(keepends=True)
        Path("r/journal.jsonl").write_bytes(b"".join([*lines[:6], b"\0" * 50 + lines[6][50:], *lines[7:]]))
        refused = zoplat("run", *TOY, "--steps", 9, "--evaluate-every", 4, "--out", "r", "--resume")
        assert "zoplat repair" in zoplat("replay", "r").stderr
        assert refused.exit_code in (0, 2)
        repaired = zoplat("repair", "r")
        assert repaired.exit_code == 0, repaired.stderr
        assert "line 7: the line does not match its checksum" in repaired.stdout
        assert "the journal keeps 5 whole steps" in repaired.stdout
        assert Path("r/journal.damaged").read_bytes() == b"\0" * 50 + lines[6][50:] + b"".join(lines[7:])
        assert Path("r/journal.jsonl").read_bytes() == b"".join(lines[:6])
        the_same(whole, run("--steps", 9, "--evaluate-every", 4, "--out", "r", "--resume"))
        assert json.loads(zoplat("repair", "r", "--json").stdout) == {"status": "intact", "lost": []}

    def test_repair_without_anything_to_keep_is_refused(self) -> None:
        run("--steps", 2, "--out", "r")
        _flip(Path("r/journal.jsonl"), 5)
        assert zoplat("repair", "r").exit_code == 2
        assert zoplat("repair", "nothing").exit_code == 2
        assert not Path("nothing").exists()


def _sign_with(changes: dict[str, Any]) -> None:
    """Change the header of the journal of `r`, and write its checksums anew."""
    chain, lines = "", []
    for number, line in enumerate(Path("r/journal.jsonl").read_text().splitlines()):
        fields = json.loads(line)
        del fields["checksum"]
        body = json.dumps({**fields, **changes} if number == 0 else fields)
        chain = chained_checksum(chain, body)
        lines.append(f'{body[:-1]}, "checksum": "{chain}"}}\n')
    Path("r/journal.jsonl").write_text("".join(lines))

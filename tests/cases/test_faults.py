"""What users can cause is one message; a bug is two lines and a file; names and paths are printed as they are."""

import json
import os
import re
import shutil
import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from zoplat import paths
from zoplat.core.plain_json import to_text, with_numbers
from zoplat.training.directory import RunDirectory

NESTED = "[" * 3000 + "]" * 3000
DIGITS = "1" * 5000


def finite(text: str) -> Any:
    """JSON as a strict reader takes it."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- unexpected exceptions


def test_a_bug_says_so_in_two_lines_and_keeps_its_traceback(typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise AttributeError("no such thing")

    monkeypatch.setattr(import_module("zoplat.cli.doctor"), "catalogue", broken)
    message = typed.refused("doctor", status=1)
    assert message.startswith("Error: an unexpected AttributeError: no such thing\n")
    assert message.count("\n") == 2
    named = re.search(r"The traceback is in (\S+\.txt);", message)
    assert named
    assert "in broken" in Path(named[1]).read_text()
    assert os.stat(named[1]).st_mode & 0o077 == 0
    assert isinstance(typed("--debug", "doctor").exception, AttributeError)


@pytest.mark.parametrize(
    ("problem", "status", "words"),
    [
        (OSError(28, "No space left on device", "there"), 1, "there: No space left on device. Make room"),
        (OSError(13, "Permission denied", "there"), 1, "there: Permission denied"),
        (OSError(36, "File name too long", "x" * 5000), 2, "too long for a file"),
        (MemoryError(), 1, "memory of this machine"),
        (UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"), 2, "surrogate"),
    ],
)
def test_what_a_machine_can_cause_is_one_line(
    typed: Any, monkeypatch: pytest.MonkeyPatch, problem: Exception, status: int, words: str
) -> None:
    def broken() -> Any:
        raise problem

    monkeypatch.setattr(import_module("zoplat.cli.doctor"), "catalogue", broken)
    message = typed.refused("doctor", status=status)
    assert words in message
    assert message.count("\n") == 1


# --- parsers


@pytest.mark.parametrize(
    "flags",
    [
        ("--config", "nested.toml"),
        ("--config", "digits.toml"),
        ("--task", "nested.toml"),
        ("--task", "digits.toml"),
        ("-o", f"seed={DIGITS}"),
        ("-o", f"seed={NESTED}"),
        ("--data", "x" * 5000),
        ("--objective", "command:python 'x"),
        ("--objective", ":f"),
        ("--objective", "f:"),
        ("--objective", "raises_name_error:f"),
        ("--objective", "exits:f"),
    ],
    ids=lambda flags: " ".join(flags)[:40],
)
def test_what_a_parser_or_a_module_raises_is_a_message(
    typed: Any, on_rows: tuple[str, ...], flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("nested.toml").write_text(f"x = {NESTED}")
    Path("digits.toml").write_text(f"seed = {DIGITS}")
    Path("raises_name_error.py").write_text("x = undefined_name")
    Path("exits.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    typed.refused("run", *on_rows, *flags)


def test_a_program_that_prints_no_text_ends_the_run_with_one_message(typed: Any, on_rows: tuple[str, ...]) -> None:
    Path("judge.sh").write_text("#!/bin/sh\nprintf '\\377'\n")
    Path("judge.sh").chmod(0o755)
    message = typed("run", *on_rows, "--objective", "command:./judge.sh", "--out", "run")
    assert message.exit_code == 1
    assert "must print one number" in message.stderr


def test_bytes_that_are_no_text_in_a_flag_are_a_message(typed: Any, on_rows: tuple[str, ...]) -> None:
    for flags in (("--task", "\udcff"), ("-o", "sampler.rank=\udcff"), ("--estimator", "\udcff")):
        done = typed("run", *on_rows, *flags)
        assert done.exit_code == 2, repr(done.exception)


# --- models


def head_of_gguf(*, version: int = 3, tensors: int = 0, values: int = 1 << 40, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + rest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        head_of_gguf(),
        head_of_gguf(values=1, rest=struct.pack("<Q", 1 << 60)),
        head_of_gguf(values=1, rest=struct.pack("<Q4sI", 4, b"name", 77)),
        head_of_gguf(values=1, rest=struct.pack("<Q4sIIQ", 4, b"name", 9, 9, 1 << 60)),
        head_of_gguf(version=99),
        head_of_gguf(values=0, tensors=1 << 50),
        head_of_gguf(values=1, rest=struct.pack("<Q17sII", 17, b"llama.block_count", 4, 10**9)),
    ],
)
def test_a_damaged_gguf_file_is_a_message(typed: Any, tiny: Path, content: bytes) -> None:
    Path("t.gguf").write_bytes(content)
    message = typed.refused("run", "--model", "t.gguf", "--limit", 8, "--batch-size", 4, "--steps", 1, "--out", "r")
    assert "t.gguf" in message.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "two"),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("hidden_size", None),
        ("hidden_size", 10**15),
        ("vocab_size", [1]),
        ("architectures", 3),
        ("architectures", [3]),
        ("model_type", {}),
        ("rope_parameters", 7),
        ("hidden_act", "nothing"),
        ("torch_dtype", "float3"),
        ("quantization_config", {"quant_method": "nothing"}),
        ("num_labels", 10**9),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_a_message(typed: Any, tiny: Path, setting: str, value: Any) -> None:
    table = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**table, setting: value}))
    done = typed("run", "--model", tiny, "--limit", 8, "--batch-size", 4, "--steps", 1, "--tune", "full", "--out", "r")
    if done.exit_code:  # transformers takes some of them
        assert done.exit_code == 2, (done.stderr, repr(done.exception))
        assert "Traceback" not in done.output


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "null", '{"weight_map": {"a": "/dev/zero"}}'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_a_damaged_file_of_a_checkpoint_is_a_message(typed: Any, tiny: Path, name: str, content: str) -> None:
    if name == "model.safetensors.index.json":
        (tiny / "model.safetensors").rename(tiny / "other.safetensors")
    (tiny / name).write_text(content)
    done = typed("eval", "--model", tiny, "--limit", 8)
    assert done.exit_code in (0, 2), (done.stderr, repr(done.exception))
    assert name.startswith("tokenizer") or done.exit_code == 2


@pytest.mark.parametrize("limit", ["long", [64], {}, -1])
def test_a_tokenizer_whose_limit_is_no_number_is_a_message(typed: Any, tiny: Path, limit: Any) -> None:
    table = json.loads((tiny / "tokenizer_config.json").read_text())
    (tiny / "tokenizer_config.json").write_text(json.dumps({**table, "model_max_length": limit}))
    assert "model_max_length" in typed.refused("eval", "--model", tiny, "--limit", 8)


def test_an_index_of_weights_that_names_no_text_is_a_message(typed: Any, tiny: Path) -> None:
    (tiny / "model.safetensors.index.json").write_text('{"weight_map": {"a": ["model.safetensors"]}}')
    assert "no file beside it" in typed.refused("eval", "--model", tiny, "--limit", 8)


def test_a_dry_run_screens_the_model_too(typed: Any, tiny: Path) -> None:
    table = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**table, "num_hidden_layers": 10**6}))
    assert "num_hidden_layers is 1000000" in typed.refused(
        "run", "--model", tiny, "--limit", 8, "--batch-size", 4, "--dry-run"
    )


def test_a_tokenizer_without_its_unknown_word_is_a_message(typed: Any, tiny: Path) -> None:
    table = json.loads((tiny / "tokenizer.json").read_text())
    del table["model"]["vocab"]["<unk>"]
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] != "<unk>"]
    (tiny / "tokenizer.json").write_text(json.dumps(table))
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    (tiny / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": None}))
    assert "tokenizer can't read the rows" in typed.refused("eval", "--model", tiny, "--limit", 8)


def test_a_number_too_large_for_a_setting_is_a_message(typed: Any, on_rows: tuple[str, ...]) -> None:
    message = typed.refused("run", *on_rows, "-o", f"rule.lr=1{'0' * 400}")
    assert "rule.lr must be a finite number" in message


def test_truncated_weights_are_a_message(typed: Any, tiny: Path) -> None:
    content = (tiny / "model.safetensors").read_bytes()
    for size in (0, 7, 100, len(content) - 1):
        (tiny / "model.safetensors").write_bytes(content[:size])
        assert "tiny" in typed.refused("eval", "--model", tiny, "--limit", 8)


def test_a_chat_template_that_raises_is_explained(typed: Any, tiny: Path) -> None:
    (tiny / "chat_template.jinja").write_text("{{ raise_exception('A system message must come first') }}")
    message = typed.refused("eval", "--model", tiny, "--limit", 8, "--template", "chat")
    assert "A system message must come first" in message
    assert "--template out" in message


# --- the cache and home are optional


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["/proc/nope", "file/below", "/dev/null/x"])
def test_a_run_needs_no_cache(typed: Any, tiny: Path, cache: str) -> None:
    Path("file").write_text("")
    flags = ("--model", tiny, "--limit", 8, "--batch-size", 4, "--steps", 1, "--estimator", "mezo", "--out", "r")
    done = typed.outside("run", *flags, "--json", ZOPLAT_CACHE=cache, ZOPLAT_KERNELS="numpy")
    assert done.returncode == 0, done.stderr
    assert "can't be written" in typed.outside("doctor", ZOPLAT_CACHE=cache).stdout


def test_a_user_without_home_has_a_temporary_cache(typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZOPLAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(paths.Path, "home", nobody)
    assert paths.named_cache() is None
    folder = paths.cache_folder()
    assert folder.is_dir()
    assert folder == paths.cache_folder()
    typed.done("run", *typed.toy, "--steps", 1, "--out", "r", "--json")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_what_a_read_only_cache_has_is_used(typed: Any, tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    (shared / "models" / "known").mkdir(parents=True)
    shared.chmod(0o500)
    assert paths.in_cache("models", "known") == shared / "models" / "known"
    assert shared not in paths.in_cache("models", "other").parents
    shared.chmod(0o700)


# --- JSON


def test_a_number_that_is_not_finite_is_null_with_its_reason() -> None:
    nan, table = float("nan"), {"drift": float("inf"), "inner": {"list": [1.0, -float("inf")]}, "steps": 3}
    text = to_text(table)
    assert finite(text)["drift"] is None
    assert finite(text)["not_finite"] == {"drift": "inf", "inner.list.1": "-inf"}
    assert with_numbers(finite(to_text({"score": float("inf"), "n": 1}))) == {"score": float("inf"), "n": 1}
    assert finite(to_text([{"a": nan}, {"a": 1.5}])) == [{"a": None, "not_finite": {"a": "nan"}}, {"a": 1.5}]
    assert to_text({"a": 0.1, "b": [1, None, "x"]}) == json.dumps({"a": 0.1, "b": [1, None, "x"]})


def test_a_run_whose_drift_is_not_finite_prints_json_and_can_be_reported(typed: Any) -> None:
    pytest.importorskip("matplotlib")
    typed.done("run", *typed.toy, "--estimator", "zo-adam", "--steps", 25, "--evaluate-every", 10, "--out", "r")
    directory = RunDirectory(Path("r"))
    summary = directory.read_summary()
    assert summary
    directory.write_summary({**summary.to_json(), "drift": float("inf")})
    assert finite(directory.summary.read_text())["not_finite"] == {"drift": "inf"}
    read = directory.read_summary()
    assert read
    assert read.drift == float("inf")
    typed.done("report", "r")
    assert finite(typed.done("list", "runs", "--in", ".", "--json"))


def test_a_run_that_leaves_the_numbers_ends_with_a_message(typed: Any) -> None:
    with pytest.warns(RuntimeWarning):
        ended = typed("run", *typed.toy, "--estimator", "zo-adam", "--lr", "1e38", "--steps", 25, "--out", "r")
    assert ended.exit_code == 1
    assert "lower --lr" in ended.stderr
    for line in Path("r/metrics.jsonl").read_text().splitlines():
        finite(line)


# --- reports and names


def test_a_metric_with_dollars_is_drawn_as_it_is(typed: Any, on_rows: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    if not shutil.which("awk"):
        pytest.skip("no awk here")
    command = "command:awk '$1{s+=$2}END{print 1/NR}'"
    Path("awk.toml").write_text(f'prompt = "{{sentence}} is"\nmetric = "{command}"\n[options]\n0 = "bad"\n1 = "good"\n')
    typed.done("run", *on_rows, "--task", "awk.toml", "--evaluate-every", 1, "--out", "r", "--json")
    typed.done("report", "r")
    assert "awk '$1{s+=$2}END" in Path("r/report-learning.svg").read_text().replace("&apos;", "'")


def test_a_report_shows_what_a_run_is_called_and_no_html(typed: Any, on_rows: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    typed.done("run", *on_rows, "--out", "r", "--json")
    table = json.loads(Path("r/summary.json").read_text())
    evil = "<img src=x onerror=alert(1)> [a](javascript:b) | `x` *y*"
    Path("r/summary.json").write_text(json.dumps({**table, "metric": evil, "model": evil}))
    Path("r/config.toml").write_text(Path("r/config.toml").read_text() + "# ```\n# <script>\n")
    typed.done("report", "r")
    text, fence = Path("r/report.md").read_text(), "````"
    prose = re.sub(rf"^{fence}.*?^{fence}", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<img" not in prose
    assert "<script" not in prose
    assert "[a](" not in prose
    assert r"\[a\](javascript:b) \| \`x\` \*y\*" in prose
    assert "<img" not in Path("r/report.html").read_text()


def test_a_changed_run_is_no_traceback_of_a_report(typed: Any, on_rows: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    typed.done("run", *on_rows, "--out", "r", "--json")
    Path("r/environment.json").write_text("{")
    assert "r: its files don't have what a report needs" in typed.refused("report", "r")


@pytest.mark.parametrize("name", ["x[/y]", "lr[red]1", "a:smile:", "[/]"])
def test_brackets_in_a_path_are_printed_as_they_are(typed: Any, name: str) -> None:
    printed = typed.done("run", *typed.toy, "--estimator", "mezo", "--steps", 2, "--out", name)
    assert f"run directory {name}\n" in printed
    assert f"run directory: {name}\n" in printed
    assert Path(name, "summary.json").exists()

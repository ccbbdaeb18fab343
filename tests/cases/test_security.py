"""Nothing runs that the user did not ask for: code of checkpoints, programs in files of others, libraries, plugins."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zoplat.core.errors import ZoplatError
from zoplat.core.permissions import COMMANDS, REMOTE_CODE, is_granted
from zoplat.guard import Guard
from zoplat.tasks import commands
from zoplat_devices.kernels import native

EXECUTED = 'open("EXECUTED", "w").write("x")\n'


# --- code of a checkpoint


def with_code(model: Path) -> Path:
    """Gives a checkpoint a class of its own, whose module leaves a file when it is run."""
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "walnut", "architectures": ["WalnutForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_walnut.WalnutConfig",
        "AutoModelForCausalLM": "modeling_walnut.WalnutForCausalLM",
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "configuration_walnut.py").write_text(
        f"{EXECUTED}from transformers import LlamaConfig\n\n\n"
        'class WalnutConfig(LlamaConfig):\n    model_type = "walnut"\n'
    )
    (model / "modeling_walnut.py").write_text(
        "from transformers import LlamaForCausalLM\n\nfrom .configuration_walnut import WalnutConfig\n\n\n"
        "class WalnutForCausalLM(LlamaForCausalLM):\n    config_class = WalnutConfig\n"
    )
    return model


def test_code_of_a_checkpoint_is_refused_without_a_question(typed: Any, tiny: Path) -> None:
    began = time.monotonic()
    done = typed.outside("eval", "--model", with_code(tiny), "--limit", 8, "--json", given=1000 * "y\n")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Python of its own" in done.stderr
    assert "--trust-remote-code" in done.stderr
    assert not Path("EXECUTED").exists()
    assert time.monotonic() - began < 60


def test_code_of_a_tokenizer_is_not_run(typed: Any, tiny: Path) -> None:
    table = json.loads((tiny / "tokenizer_config.json").read_text())
    table |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (tiny / "tokenizer_config.json").write_text(json.dumps(table))
    (tiny / "evil.py").write_text(
        f"{EXECUTED}from transformers import PreTrainedTokenizerFast\nclass Evil(PreTrainedTokenizerFast): pass\n"
    )
    done = typed("eval", "--model", tiny, "--limit", 8, "--json")
    assert done.exit_code in (0, 2), repr(done.exception)
    assert not Path("EXECUTED").exists()


@pytest.mark.slow
def test_code_of_a_checkpoint_runs_for_who_trusts_it_with_a_warning(typed: Any, tiny: Path, tmp_path: Path) -> None:
    flags = ("eval", "--model", with_code(tiny), "--limit", 8, "--json", "--trust-remote-code")
    done = typed.outside(*flags, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    assert "runs as you" in done.stderr
    assert json.loads(done.stdout)["rows"] == 8
    assert Path("EXECUTED").exists()


def test_a_permission_ends_with_its_command(typed: Any) -> None:
    typed("run", *typed.toy, "--dry-run", "--trust-remote-code", "--allow-commands")
    assert not is_granted(REMOTE_CODE)
    assert not is_granted(COMMANDS)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_a_hub_are_refused(typed: Any, tiny: Path, key: str) -> None:
    table = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**table, key: "somebody/kernels"}))
    assert "'somebody/kernels'" in typed.refused("eval", "--model", tiny, "--limit", 8)


# --- programs and functions


def with_command(name: str) -> Path:
    """A settings file, as a run directory has one, that names a program which leaves a file."""
    Path("evil.py").write_text(f"{EXECUTED}print(0.5)\n")
    path = Path(name)
    path.write_text(f'objective = "command:{sys.executable} evil.py"\n')
    return path


def test_a_program_that_a_settings_file_names_needs_a_permission(typed: Any, on_rows: tuple[str, ...]) -> None:
    flags = ("run", *on_rows, "--config", with_command("settings.toml"))
    message = typed.refused(*flags, "--out", "first")
    assert "--allow-commands" in message
    assert not Path("EXECUTED").exists()
    assert not Path("first").exists()
    typed.done(*flags, "--out", "second", "--allow-commands", "--json")
    assert Path("EXECUTED").exists()
    typed.done(*flags, "--out", "third", "--json")


def test_a_program_of_somebody_elses_run_directory_needs_a_permission(typed: Any, on_rows: tuple[str, ...]) -> None:
    typed.done("run", *on_rows, "--out", "theirs", "--json")
    config = Path("theirs/config.toml")
    Path("evil.py").write_text(f"{EXECUTED}print(0.5)\n")
    theirs = re.sub("objective = .*", f'objective = "command:{sys.executable} evil.py "', config.read_text())
    config.write_text(theirs)
    for name in ("summary.json", "journal.jsonl"):
        Path("theirs", name).unlink()
    assert "--allow-commands" in typed.refused("run", "--resume", "--out", "theirs")
    assert not Path("EXECUTED").exists()


@pytest.mark.parametrize("metric", ["command:touch EXECUTED", "own_module:score"])
def test_a_task_file_is_the_users_own_where_nobody_else_may_write_it(
    typed: Any, on_rows: tuple[str, ...], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own_module.py").write_text(f"{EXECUTED}\ndef score(answers, right):\n    return 0.5\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    sys.modules.pop("own_module", None)
    task = Path("task.toml")
    task.write_text(f'prompt = "{{sentence}} is"\nmetric = "{metric}"\n[options]\n0 = "bad"\n1 = "good"\n')
    task.chmod(0o666)
    assert "--allow-commands" in typed.refused("run", *on_rows, "--task", task, "--out", "first")
    assert not Path("EXECUTED").exists()
    task.chmod(0o644)
    done = typed("run", *on_rows, "--task", task, "--out", "second")
    assert done.exit_code == (1 if metric.startswith("command") else 0)  # touch prints no number
    assert Path("EXECUTED").exists()


def test_a_program_is_stopped_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.SECONDS_VARIABLE, "0.5")
    began = time.monotonic()
    with pytest.raises(commands.RunFailed, match=r"longer than 0\.5 s"):
        commands.answer_of(["sh", "-c", "sleep 60 & sleep 60"], "")
    assert time.monotonic() - began < 10


def test_the_output_of_a_program_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.SECONDS_VARIABLE, "20")
    for stream in ("1", "2"):
        with pytest.raises(commands.RunFailed, match="more than 64 KiB"):
            commands.answer_of(["sh", "-c", f"while :; do echo 0123456789 >&{stream}; done"], "")


def test_a_program_gets_its_words_and_no_shell(typed: Any) -> None:
    printed = commands.answer_of(
        [sys.executable, "-c", "import sys; print(sys.argv[1:])", "; touch EXECUTED", "$HOME"], ""
    )
    assert printed.strip() == "['; touch EXECUTED', '$HOME']"
    assert not Path("EXECUTED").exists()


def test_a_program_need_not_read_what_it_is_given() -> None:
    assert float(commands.answer_of(["sh", "-c", "echo 0.5"], "x" * 1_000_000)) == 0.5


# --- compiled kernels


@pytest.fixture
def library(typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library in a cache of this test."""
    monkeypatch.delenv("ZOPLAT_KERNELS", raising=False)
    native.library.cache_clear()
    if native.library() is None:
        pytest.skip("no C compiler here")
    [path] = (tmp_path / "cache" / "kernels").glob("*.so")
    return path


def loaded_anew() -> Any:
    native.library.cache_clear()
    return native.library()


@pytest.mark.slow
def test_a_library_is_private_and_a_damaged_one_is_built_anew(library: Path) -> None:
    sound = library.read_bytes()
    assert os.stat(library.parent).st_mode & 0o777 == 0o700
    assert os.stat(library).st_mode & 0o077 == 0
    before = os.stat(library).st_mtime_ns
    assert loaded_anew()
    assert os.stat(library).st_mtime_ns == before
    for damaged in (b"", sound[:4096], sound[:-1] + bytes([sound[-1] ^ 1])):
        library.unlink()  # the process has the old one open
        library.write_bytes(damaged)
        assert loaded_anew()
        assert len(library.read_bytes()) > 4096
        assert library.read_bytes() != damaged


@pytest.mark.slow
def test_a_library_that_others_may_write_is_not_loaded(library: Path) -> None:
    for path in (library, library.parent):
        path.chmod(0o777)
        before = os.stat(library).st_mtime_ns
        assert loaded_anew()
        assert os.stat(library).st_mtime_ns > before
        assert os.stat(path).st_mode & 0o022 == 0
    if os.geteuid() == 0:
        os.chown(library, 65534, 65534)
        assert loaded_anew()
        assert os.stat(library).st_uid == 0


def test_a_library_whose_functions_do_nothing_is_refused(processor_kernels: Any) -> None:
    class Idle:
        def __init__(self, idle: str) -> None:
            self.idle = idle

        def __getattr__(self, name: str) -> Any:
            return (lambda *arguments: None) if name == self.idle else getattr(processor_kernels.library, name)

    assert native.is_right(processor_kernels.library)
    for name in ("zoplat_numbers", "zoplat_run"):
        assert not native.is_right(Idle(name))  # type: ignore[arg-type]


def test_a_library_that_is_none_is_a_message(typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.so").write_text("no library")
    for name in ("/nonexistent.so", str(Path("text.so").resolve())):
        monkeypatch.setenv("ZOPLAT_KERNELS", name)
        with pytest.raises(ZoplatError, match=rf"The kernels in {re.escape(name)} can't be loaded"):
            loaded_anew()
    monkeypatch.delenv("ZOPLAT_KERNELS")
    native.library.cache_clear()


# --- plugins

PART = (
    "from zoplat import hookimpl\nimport zoplat_plugins.mezo as m\n@hookimpl\ndef zoplat_estimators(): return {parts}\n"
)
DEVICE = """
import time
from dataclasses import dataclass
from zoplat.core.device import Device
from zoplat import hookimpl

@dataclass(frozen=True)
class Bad(Device):
    summary = "bad"
    {body}
    def open(self, spec): raise OSError

@hookimpl
def zoplat_devices(): return {{"bad": Bad()}}
"""
MEZO = "m.zoplat_estimators()['mezo']"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise BaseException('x\\ny')", "BaseException: x"),
        ("def f(): return f()\nf()", "RecursionError"),
        (PART.format(parts=f"{{3: {MEZO}}}"), "must return parts by name"),
        (PART.format(parts=f"{{'': {MEZO}}}"), "no name of letters"),
        (PART.format(parts=f"{{'a b': {MEZO}}}"), "no name of letters"),
        (PART.format(parts=f"[{MEZO}]"), "must return parts by name"),
        (PART.format(parts="{'x': 3}"), "no instance of Estimator"),
        (DEVICE.format(body="priority = 'high'\n    def missing(self): pass"), "priority of the device 'bad'"),
        (
            DEVICE.format(body="def missing(self): pass\n    priority = property(lambda self: 1 / 0)"),
            "ZeroDivisionError",
        ),
    ],
)
def test_a_broken_plugin_is_a_line_of_doctor(typed: Any, distribution: Any, source: str, said: str) -> None:
    distribution("broken", source)
    assert "lozo" in typed.done("list", "estimators")
    lines = [line for line in typed.done("doctor").splitlines() if "'broken'" in line]
    assert len(lines) == 1
    assert said in lines[0]


def test_what_a_plugin_prints_stays_out_of_json(typed: Any, distribution: Any) -> None:
    distribution("prints", "print('hello')\n" + PART.format(parts=f"{{'printed': {MEZO}}}"))
    names = [row["name"] for row in json.loads(typed.done("list", "estimators", "--json"))]
    assert "printed" in names
    assert "Plugin 'prints' (prints 1.0) prints: 'hello'" in typed.done("doctor")


def test_a_plugin_that_hangs_is_left_behind(typed: Any, distribution: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoplat.guard.Guard.__init__.__defaults__", (0.3,))
    distribution("hangs", "import time\ntime.sleep(60)")
    began = time.monotonic()
    assert "lozo" in typed.done("list", "estimators")
    assert "did not end within 0.3 s" in typed.done("doctor")
    assert time.monotonic() - began < 20


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_a_timer_of_the_program_around_it_goes_on() -> None:
    signal.setitimer(signal.ITIMER_REAL, 600)
    try:
        with Guard(seconds=5):
            pass
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("body", ["raise OSError('driver gone')", "raise KeyboardInterrupt", "raise SystemExit"])
def test_a_device_that_cannot_say_whether_it_works_is_not_used(typed: Any, distribution: Any, body: str) -> None:
    distribution("device", DEVICE.format(body=f"priority = 99\n    def missing(self): {body}"))
    assert "its missing() fails" in typed.done("doctor")
    typed.done("run", "--dry-run", "--limit", 8, "--batch-size", 4, "--steps", 1)
    message = typed.refused("run", "--device", "bad", "--limit", 8, "--batch-size", 4, "--steps", 1)
    assert "its missing() fails" in message


@pytest.mark.parametrize("body", ["{}", "try: {}\nexcept BaseException: pass"])
def test_a_real_interrupt_while_a_plugin_is_loaded_ends_the_command(
    typed: Any, distribution: Any, body: str, request: pytest.FixtureRequest
) -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, heard))
    distribution("waits", "import os, signal\n" + body.format("os.kill(os.getpid(), signal.SIGINT)"))
    assert typed("list", "estimators").exit_code == 130

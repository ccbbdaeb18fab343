"""What authors of plugins met: state that was lost, contracts that saw too little, messages without a cause."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

import zoplat as package
from zoplat import ZERO, Array, Buffer, Direction, Key, ZoplatError
from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.registry import Catalogue, Entry, catalogue
from zoplat.tasks import Classification, data
from zoplat.testing import DeviceContract, TaskContract, quadratic
from zoplat.testing.check import check
from zoplat.testing.scaffold import KINDS, write_plugin
from zoplat.testing.target import register
from zoplat.training.callbacks import Callback
from zoplat.training.states import state_from_json, state_to_json
from zoplat.training.train import train
from zoplat_devices.reference import Reference
from zoplat_plugins.gaussian import Gaussian

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and a catalogue that is as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    before = dict(catalogue().entries)
    yield tmp_path
    catalogue().entries.clear()
    catalogue().entries.update(before)


def zoplat(*arguments: Any) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: Any) -> str:
    done = zoplat(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return str(done.stderr)


# 1. State


@dataclass
class Pair:
    z: Direction
    slope: float = 0.0


@dataclass(frozen=True)
class Mark:
    name: str
    at: tuple[int, ...] = ()


@dataclass
class State:
    buffer: Buffer
    items: list[Any] = field(default_factory=list)
    last: Direction | None = None
    span: tuple[Any, ...] = (1, 2)
    mark: Mark = Mark("start")


def z(draw: int) -> Direction:
    return Direction.of(Gaussian(), Key(0, 3, draw))


def grown(state: State) -> None:
    state.items = [1, 2.5, "text", None, True]


def of_dataclasses(state: State) -> None:
    state.items = [Pair(z(0), 0.5), Pair(0.5 * z(1) - z(2), 1e-300)]


def of_everything(state: State) -> None:
    state.items = [[Pair(z(0))], (z(1), state.buffer), [], [[z(2)]], Mark("inside", (3, 4))]


def none_became_a_direction(state: State) -> None:
    state.last = z(0) + 2 * z(1)


def a_tuple_changed(state: State) -> None:
    state.span = (z(0), (1, [2, 3]), state.buffer)


def a_frozen_value_changed(state: State) -> None:
    state.mark = Mark("later", (7,))


CHANGES = [grown, of_dataclasses, of_everything, none_became_a_direction, a_tuple_changed, a_frozen_value_changed]


@pytest.mark.parametrize("begin", [[], [1, 2, 3, 4, 5, 6, 7], [Pair(ZERO)] * 3], ids=["empty", "long", "pairs"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_state_comes_back_as_it_was_saved(change: Any, begin: list[Any]) -> None:
    space = quadratic().space
    buffer = space.buffer("test/m")
    state, fresh = State(buffer, [*begin]), State(buffer, [*begin])
    change(state)
    text = json.dumps(state_to_json(state, space))
    assert state_from_json(fresh, json.loads(text), space) == state
    assert fresh == state  # in place
    assert type(fresh.span) is tuple
    assert State(buffer).mark == Mark("start")  # a default that all states share


def test_a_state_that_is_a_list_is_filled_in_place() -> None:
    space, fresh = quadratic().space, list[Any]()
    state_from_json(fresh, state_to_json([Pair(z(0)), 3], space), space)
    assert fresh == [Pair(z(0)), 3]


def test_checkpoints_from_before_states_said_what_they_are_can_be_read() -> None:
    space = quadratic().space
    buffer = space.buffer("test/m")
    terms = [[{"name": "gaussian"}, [0, 3, 0], None, [], 0.5]]
    old = {"buffer": 0, "items": [7, terms, 9], "last": None, "span": [3, 4], "mark": None}
    fresh = State(buffer, [0, ZERO], mark=None)  # type: ignore[arg-type]
    assert state_from_json(fresh, old, space) == State(buffer, [7, 0.5 * z(0), 9], None, (3, 4), None)  # type: ignore[arg-type]
    shorter = state_from_json(State(buffer, [1, 2, 3]), {"items": [7]}, space)
    assert shorter.items == [7]


def test_a_class_that_is_gone_is_said() -> None:
    space = quadratic().space
    saved = state_to_json([Pair(z(0))], space)
    saved["state"][0]["class"] = "somewhere:Gone"
    with pytest.raises(ZoplatError, match="holds a Gone of the module somewhere, and there is no such dataclass now"):
        state_from_json([], saved, space)
    with pytest.raises(ZoplatError, match="another version of zoplat: form 9"):
        state_from_json([], {"form": 9, "state": []}, space)


HISTORY = '''"""Steps along the mean of the last five estimates, which it keeps by name."""

from dataclasses import dataclass, field

from zoplat import Direction, Estimate, Estimator, Sampler, StepRule, hookimpl
from zoplat_plugins.constant import Constant
from zoplat_plugins.gaussian import Gaussian


@dataclass
class Seen:
    z: Direction
    slope: float


@dataclass
class State:
    seen: list[Seen] = field(default_factory=list)
    best: tuple[float, Direction] | None = None
    last: Direction | None = None


@dataclass(frozen=True)
class History(Estimator):
    """A mean of estimates.

    Attributes:
        eps: ε; positive.
        sampler: law of z.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-2
    sampler: Sampler = Gaussian()
    rule: StepRule = Constant(lr=0.02)

    @property
    def bias(self):
        return "estimates of earlier steps are in the mean"

    def init(self, space):
        return State()

    def estimate(self, oracle, state):
        [z] = oracle.draw(self.sampler, 1)
        slopes, losses = oracle.slopes([z], self.eps)
        state.seen = [*state.seen, Seen(z, slopes[0])][-5:]
        if state.best is None or losses[0] < state.best[0]:
            state.best = (losses[0], z)
        state.last = z if state.last is None else 0.5 * (state.last + z).latest(3)
        mean = Direction.mean([one.slope for one in state.seen], [one.z for one in state.seen])
        yield Estimate(mean + 1e-3 * slopes[0] * (state.best[1] + state.last), losses, self.eps)


@hookimpl
def zoplat_estimators():
    return {"history": History()}
'''


class Stop(Callback):
    def stepped(self, progress: Any, loss: float | None) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt


def test_a_run_whose_state_has_grown_goes_on_to_the_same_bits() -> None:
    Path("history.py").write_text(HISTORY)
    register(Path("history.py"))
    settings = {"device": "reference", "limit": 8, "batch_size": 4, "estimator": "history", "steps": 16}
    settings |= {"evaluate_every": 4}
    whole = package.run(**settings, out="whole")
    with pytest.raises(KeyboardInterrupt):
        train(resolve(dict(settings)), Path("torn"), False, Stop())
    torn = package.run(**settings, out="torn", resume=True)
    assert torn.summary.weights_digest == whole.summary.weights_digest
    assert zoplat("replay", "torn").exit_code == 0


def test_such_state_keeps_the_contract() -> None:
    Path("history.py").write_text(HISTORY)
    done = zoplat("check", "history.py", "--json")
    failed = [row for row in json.loads(done.stdout)["parts"][0]["properties"] if row["outcome"] == "failed"]
    assert not failed


# 2. Arrays


def test_every_operation_that_is_listed_is_there_in_numpy_and_in_torch() -> None:
    torch = pytest.importorskip("torch")
    listed = {name for name in vars(Array) if not name.startswith("_") or name.startswith("__")}
    listed -= {
        name for name in vars(Array) if name in vars(object) or name in ("__module__", "__dict__", "__weakref__")
    }
    operations = {name for name in listed if callable(getattr(Array, name)) or isinstance(vars(Array)[name], property)}
    assert len(operations) > 30
    for name in operations - {"__init__", "__subclasshook__", "__parameters__", "__protocol_attrs__"}:
        if not name.startswith(("_is_", "_abc", "_no")) and "protocol" not in name:
            assert hasattr(np.ndarray, name), name
            assert hasattr(torch.Tensor, name), name


# 3. Devices and tasks


class TestReference(DeviceContract):
    device = Reference()


ROWS = [{"text": f"{word} {number}", "label": label} for number in range(3) for word, label in (("hot", 1), ("ice", 0))]


class TestTask(TaskContract):
    task = Classification(
        summary="hot or cold",
        prompt=lambda row: f"{row['text']} is",
        words={"cold": "cold", "hot": "hot"},
        fields=("text",),
    )
    rows = ROWS


def test_a_device_that_takes_every_option_and_reads_old_weights_is_found_out() -> None:
    done = zoplat("check", ROOT / "tests/contracts/wrong/stale_copy.py")
    assert done.exit_code == 1
    assert "the forward pass reads other weights" in done.stdout
    assert "✗ edits of the weights are seen" in done.stdout


def test_a_device_that_ignores_what_it_was_asked_for_is_found_out() -> None:
    class Deaf(Reference):
        def open(self, spec: Any) -> Any:
            from dataclasses import replace

            return super().open(replace(spec, base="plain", model=None))

    found = {f.name: f for f in check(Entry("device", "deaf", Deaf(), "here", "0"), {"what it can not do is refused"})}
    [finding] = found.values()
    assert finding.outcome == "failed"
    assert "It was asked for a model that does not exist, took it without a word" in finding.message


# 4. Rows, a package to begin with, a file that is not installed


def test_a_task_of_a_plugin_ships_its_rows() -> None:
    write_plugin("task", "tickets", Path("tickets"))
    register_module = Path("tickets/zoplat_tickets/__init__.py")
    register(register_module)
    task = data.find("tickets")
    splits = data.load(task, "tickets", None)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 42, "dev": 6, "test": 12}
    done = zoplat("run", "--device", "reference", "--task", "tickets", "--steps", 3, "--json")
    assert done.exit_code == 0, done.output


def test_rows_that_are_not_there_are_said() -> None:
    task = Classification(
        summary="x", prompt=lambda row: "x", words={"a": "a", "b": "b"}, fields=("text",), packaged="no.jsonl"
    )
    with pytest.raises(ZoplatError, match=r"Task 'mine' ships its rows in no\.jsonl, and neither"):
        data.load(task, "mine", None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_passes_its_check(kind: str) -> None:
    done = zoplat("new-plugin", kind, f"my-{kind}")
    assert done.exit_code == 0, done.output
    assert f"Next: pip install -e zoplat-my-{kind}" in done.stdout
    checked = zoplat("check", f"./zoplat-my-{kind}")
    assert checked.exit_code == 0, checked.output
    assert f"{kind} my-{kind}: " in checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_can_be_installed_and_its_own_tests_pass(kind: str, here: Path) -> None:
    write_plugin(kind, "my-own-part")
    folder = here / "zoplat-my-own-part"
    builder = pytest.importorskip("hatchling.builders.wheel")
    wheel = next(builder.WheelBuilder(str(folder)).build(directory=str(here / "dist"), versions=["standard"]))
    site = here / "site"
    zipfile.ZipFile(wheel).extractall(site)
    import os

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    command = [sys.executable, "-m", "zoplat", "check", "zoplat-my-own-part"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_that_can_not_be_one_is_refused() -> None:
    assert "small letters, digits and single hyphens" in refused("new-plugin", "sampler", "My_Law")
    assert "There is a sampler 'gaussian' already, of zoplat" in refused("new-plugin", "sampler", "gaussian")
    Path("zoplat-mine").mkdir()
    assert "zoplat-mine is there already" in refused("new-plugin", "sampler", "mine")
    assert zoplat("new-plugin", "estimator", "none", "--to", "other").exit_code == 0
    assert "class NoneEstimator" in Path("other/zoplat_none/__init__.py").read_text()


FILE = '''"""A law."""

from dataclasses import dataclass

from zoplat import Sampler, hookimpl


@dataclass(frozen=True)
class Level(Sampler):
    """Entries on [−√3, √3)."""

    def fill(self, out, tile, key, noise):
        out[:] = (2 * noise.uniform(tile.shape, key, tile) - 1) * 3**0.5


@hookimpl
def zoplat_samplers():
    return {"level": Level()}
'''
TOY = ("--device", "reference", "--limit", 8, "--batch-size", 4, "--steps", 3)


def test_a_file_that_is_not_installed_can_be_run_and_replayed() -> None:
    Path("level.py").write_text(FILE)
    plugin = ("--plugin", "level.py")
    done = zoplat("run", *TOY, "--estimator", "mezo", "--sampler", "level", "--out", "run", "--json", *plugin)
    assert done.exit_code == 0, done.output
    assert zoplat("replay", "run", *plugin).exit_code == 0
    assert zoplat("show", "level", *plugin).exit_code == 0


def test_a_file_that_takes_a_name_or_is_none_is_refused() -> None:
    Path("level.py").write_text(FILE.replace('"level"', '"gaussian"'))
    Path("bare.py").write_text('"""Nothing."""\n')
    assert "registers the sampler 'gaussian', which zoplat has too" in refused("run", "--plugin", "level.py")
    assert "there is no file nowhere.py" in refused("run", "--plugin", "nowhere.py")
    assert "--plugin bare.py registers nothing" in refused("run", "--plugin", "bare.py")


# 13. Messages


def test_a_hook_that_returns_a_list_is_explained() -> None:
    Path("listed.py").write_text(FILE.replace('{"level": Level()}', "[Level()]"))
    message = refused("check", "listed.py")
    assert (
        'zoplat_samplers must return parts by name, such as {"my-name": Sampler(…)}; it returned [Level()]' in message
    )


def test_a_hook_whose_name_is_misspelt_gets_a_suggestion() -> None:
    Path("misspelt.py").write_text(FILE.replace("def zoplat_samplers", "def zoplat_sampler"))
    assert "Unknown hook 'zoplat_sampler'. Did you mean 'zoplat_samplers'?" in refused("check", "misspelt.py")


def test_a_plugin_for_hooks_of_another_version_is_refused_with_both_versions() -> None:
    Path("newer.py").write_text(f"{FILE}\nzoplat_api = 2\n")
    message = refused("check", "newer.py")
    assert "it was written for version 2 of the hooks (zoplat_api), and this zoplat has version 1" in message
    Path("same.py").write_text(f"{FILE}\nzoplat_api = 1\n")
    assert zoplat("run", *TOY, "--plugin", "same.py", "--sampler", "level").exit_code == 0


def test_a_hook_without_its_mark_is_said() -> None:
    Path("unmarked.py").write_text(FILE.replace("@hookimpl\n", ""))
    assert "zoplat_samplers is not marked as a hook: write @hookimpl above it" in refused("check", "unmarked.py")


def test_an_import_error_names_the_line_of_the_plugin() -> None:
    """Not that of the standard library in which it was raised."""
    Path("mutable.py").write_text(
        '"""Broken."""\n\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass A:\n    x: list = []\n'
    )
    assert "mutable.py can't be imported: ValueError: mutable default" in refused("check", "mutable.py")
    assert "(line 6)" in refused("check", "mutable.py")


def test_a_catalogue_takes_nothing_from_a_plugin_that_is_refused() -> None:
    import types

    module = types.ModuleType("partly")
    exec(FILE.replace('{"level": Level()}', '{"level": Level(), "other": 3}'), module.__dict__)
    found = Catalogue()
    with pytest.raises(TypeError, match="'other' is no instance of Sampler"):
        found.add(module, "here", "0")
    assert not list(found)


# Pages


@pytest.mark.parametrize("page", ["write-an-estimator", "write-a-rule", "write-a-device"])
def test_the_code_of_a_page_registers_parts_that_keep_their_contract(page: str) -> None:
    text = (ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "@hookimpl" in code
    Path("on_the_page.py").write_text(code)
    done = zoplat("check", "on_the_page.py")
    assert done.exit_code == 0, done.output

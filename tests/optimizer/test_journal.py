"""The journal of an optimizer: its steps made again with the same bits, and what is refused by name."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoplat import ZoplatError
from zoplat.core.errors import RunFailed
from zoplat.torch import ZerothOrder
from zoplat.training.journal import Journal

sys.path.insert(0, str(Path(__file__).parent))

from test_zeroth_order import FORWARD_ONLY, Net, are_equal, closure_of, groups, made, train, weights

STEPS = 4


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_every_forward_only_method_is_replayed_bit_for_bit(name: str, tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = made(model, name, lr=1e-2, journal=file, steps=2 * STEPS)
    train(model, optimizer, range(STEPS))
    again = Net()
    rebuilt = made(again, name, lr=1e-2, journal=file, steps=2 * STEPS)
    assert rebuilt.replay() == STEPS
    assert are_equal(weights(again), weights(model))
    train(model, optimizer, range(STEPS, STEPS + 2))
    other = Net()
    onwards = made(other, name, lr=1e-2, steps=2 * STEPS)
    onwards.replay(file)
    assert are_equal(weights(other), weights(model))
    assert (onwards.progress.step, onwards.progress.passes) == (optimizer.progress.step, optimizer.progress.passes)


def test_a_replayed_optimizer_goes_on_behind_its_journal(tmp_path: Path) -> None:
    file, model, whole = tmp_path / "steps.jsonl", Net(), Net()
    train(whole, made(whole, "zo-adam", lr=1e-2), range(2 * STEPS))
    train(model, made(model, "zo-adam", lr=1e-2, journal=file), range(STEPS))
    again = Net()
    optimizer = made(again, "zo-adam", lr=1e-2, journal=file)
    optimizer.replay()
    train(again, optimizer, range(STEPS, 2 * STEPS))
    assert are_equal(weights(again), weights(whole))
    assert len(Journal.read(file).steps) == 2 * STEPS


@pytest.mark.parametrize("name", ["mezo", "block-zo"])
def test_no_step_follows_one_that_was_interrupted_with_its_weights_moved(name: str, tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = made(model, name, lr=1e-2, journal=file)
    train(model, optimizer, range(STEPS))
    before = weights(model)

    def interrupted() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted)
    with pytest.raises(RunFailed, match=f"Step {STEPS} was ended by KeyboardInterrupt .* no longer leads to these"):
        train(model, optimizer, range(STEPS, STEPS + 1))
    again = Net()
    assert made(again, name, lr=1e-2).replay(file) == STEPS
    assert are_equal(weights(again), before)


def test_a_closure_that_fails_before_weights_are_moved_leaves_the_journal_whole(tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = made(model, "mezo", lr=1e-2, journal=file, restore="exact")
    train(model, optimizer, range(STEPS))
    with pytest.raises(ZoplatError, match="number"):
        optimizer.step(lambda: "no loss")  # type: ignore[arg-type,return-value]
    train(model, optimizer, range(STEPS, STEPS + 1))
    again = Net()
    assert made(again, "mezo", lr=1e-2, restore="exact").replay(file) == STEPS + 1
    assert are_equal(weights(again), weights(model))


def test_schedulers_groups_and_samplers_are_in_the_journal(tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = ZerothOrder(groups(model), "mezo", model=model, journal=file)
    scheduler = CosineAnnealingLR(optimizer, 2 * STEPS)
    for step in range(STEPS):
        train(model, optimizer, range(step, step + 1))
        scheduler.step()
    optimizer.param_groups[1]["sampler"] = optimizer.param_groups[0]["sampler"] = None
    optimizer.param_groups[1]["eps"] = 2e-3
    train(model, optimizer, range(STEPS, STEPS + 2))
    again = Net()
    rebuilt = ZerothOrder(groups(again), "mezo", model=again)
    rebuilt.replay(file)
    assert are_equal(weights(again), weights(model))
    assert rebuilt.param_groups[1]["eps"] == 2e-3
    changed = [record.step for record in Journal.read(file).steps if record.groups]
    assert changed == [*range(STEPS + 1)]


@pytest.mark.parametrize("settings", [{"restore": "exact"}, {"rounding": "master", "restore": "exact"}])
def test_sixteen_bit_weights_are_replayed_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    file, model, again = tmp_path / "steps.jsonl", Net().bfloat16(), Net().bfloat16()

    def closure(net: Net, step: int) -> Any:
        x, y = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(step)).bfloat16(), 1.0
        return lambda: (net(x).float() - y).square().mean()

    optimizer = ZerothOrder(model, "mezo", lr=1e-2, journal=file, **settings)
    for step in range(STEPS):
        optimizer.step(closure(model, step))
    ZerothOrder(again, "mezo", lr=1e-2, **settings).replay(file)
    assert are_equal(weights(again), weights(model))


def test_a_loaded_state_goes_on_where_the_journal_was_then(tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = made(model, "lozo", lr=1e-2, journal=file)
    train(model, optimizer, range(2))
    saved = {"model": {n: p.clone() for n, p in model.state_dict().items()}, "optimizer": optimizer.state_dict()}
    train(model, optimizer, range(2, STEPS))
    other = Net()
    other.load_state_dict(saved["model"])
    resumed = made(other, "lozo", lr=1e-2, journal=file)
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, range(2, STEPS))
    assert are_equal(weights(other), weights(model))
    again = Net()
    assert made(again, "lozo", lr=1e-2).replay(file) == STEPS
    assert are_equal(weights(again), weights(model))


def test_the_journal_has_the_form_of_a_run_s(tmp_path: Path) -> None:
    file, model = tmp_path / "folder" / "steps.jsonl", Net()
    train(model, made(model, "mezo", journal=file), range(2))
    header, first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert header["zoplat_journal"] == 1
    assert header["optimizer"]["parameters"]["last.bias"] == "float32 [1]"
    assert {"step", "answers", "lr", "loss", "checksum"} == set(second)
    assert set(first) - set(second) == {"groups"}
    assert len(second["answers"]) == 2


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(8, 2)


REFUSED = [
    (lambda: ZerothOrder(Net(), "lozo"), "name: 'mezo' → 'lozo'"),
    (lambda: ZerothOrder(Net(), "mezo", queries=2), "queries: 1 → 2"),
    (lambda: ZerothOrder(Net(), "mezo", seed=1), "seed: 0 → 1"),
    (lambda: ZerothOrder(Wider(), "mezo"), r"parameter last.weight: float32 \[1, 8\] → float32 \[2, 8\]"),
    (lambda: ZerothOrder(Net(seed=1), "mezo"), "began with other weights"),
    (lambda: ZerothOrder(Net().double(), "mezo"), r"parameter scale: float32 \[1\] → float64 \[1\]"),
]


@pytest.mark.parametrize(("other", "words"), REFUSED)
def test_a_journal_of_something_else_is_refused_by_name(other: Any, words: str, tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    train(model, made(model, "mezo", journal=file), range(2))
    with pytest.raises(ZoplatError, match=words):
        other().replay(file)


def test_mistakes_with_files_say_what_to_do(tmp_path: Path) -> None:
    file, model = tmp_path / "steps.jsonl", Net()
    optimizer = made(model, "mezo", journal=file)
    train(model, optimizer, range(2))
    with pytest.raises(ZoplatError, match=r"has 2 steps already.*replay"):
        train(model, made(model, "mezo", journal=file), range(1))
    with pytest.raises(ZoplatError, match="has made 2 steps, and replay"):
        optimizer.replay()
    with pytest.raises(ZoplatError, match="none was given"):
        made(Net(), "mezo").replay()
    late = made(model, "mezo", journal=tmp_path / "other.jsonl")
    late.load_state_dict(optimizer.state_dict())
    with pytest.raises(ZoplatError, match="there is no such file"):
        train(model, late, range(1))
    (tmp_path / "run.jsonl").write_text(file.read_text().replace("optimizer", "settings", 1))
    with pytest.raises(ZoplatError, match="does not match its checksum"):
        made(Net(), "mezo").replay(tmp_path / "run.jsonl")
    file.unlink()
    for _ in range(2):
        with pytest.raises(RunFailed, match="is gone"):
            optimizer.step(closure_of(model))
    assert optimizer.progress.step == 3


def test_parameters_that_change_during_a_journal_are_refused(tmp_path: Path) -> None:
    model = Net()
    model.scale.requires_grad_(False)
    optimizer = made(model, "mezo", journal=tmp_path / "steps.jsonl")
    train(model, optimizer, range(2))
    model.scale.requires_grad_(True)
    with pytest.raises(ZoplatError, match=r"parameter scale: not trained → float32 \[1\]"):
        train(model, optimizer, range(2, 3))

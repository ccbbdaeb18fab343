"""`zoplat.torch.ZerothOrder`: the engine as an optimizer of PyTorch."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from zoplat import ZoplatError
from zoplat.registry import catalogue
from zoplat.torch import ZerothOrder

FORWARD_ONLY = sorted(e.name for e in catalogue() if e.kind == "estimator" and e.value.asks == {"losses"})
OTHERS = sorted(e.name for e in catalogue() if e.kind == "estimator" and e.value.asks != {"losses"})
OPTIONS = {"dizo": {"targets": "weight", "every": 2}}
"""What a method must know of a model that is no transformer."""


class Net(torch.nn.Module):
    """Matrices, vectors, a convolution and a scalar."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = torch.nn.Conv1d(2, 4, 3)
            self.first, self.last = torch.nn.Linear(16, 8), torch.nn.Linear(8, 1)
            self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(self.conv(x).flatten(1)))
        return (self.last(h) * self.scale).squeeze(1)


def batch(step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 2, 6, generator=generator)
    return x, x.mean((1, 2)) * 3


def closure_of(model: torch.nn.Module, step: int = 0) -> Callable[[], torch.Tensor]:
    x, y = batch(step)
    return lambda: functional.mse_loss(model(x), y)


def train(model: Any, optimizer: ZerothOrder, steps: range) -> list[float]:
    def other(step: int) -> Callable[[int], torch.Tensor]:
        return lambda index: closure_of(model, 100 * (step + 1) + index)()

    return [float(optimizer.step(closure_of(model, step), auxiliary=other(step))) for step in steps]


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def are_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def made(params: Any, name: str, **settings: Any) -> ZerothOrder:
    return ZerothOrder(params, name, options=OPTIONS.get(name), **settings)


def groups(model: Net) -> list[dict[str, Any]]:
    """Two groups with settings of their own."""
    last = [*model.last.parameters(), model.scale]
    first = [*model.conv.parameters(), *model.first.parameters()]
    return [{"params": first, "lr": 2e-3}, {"params": last, "lr": 1e-3, "weight_decay": 0.1}]


def test_a_step_of_mezo_is_the_published_one() -> None:
    model, (x, y) = Net(), batch()
    start, eps, lr = weights(model), 1e-3, 0.1
    losses: list[float] = []
    seen: list[list[torch.Tensor]] = []

    def closure() -> torch.Tensor:
        seen.append(weights(model))
        losses.append(float(functional.mse_loss(model(x), y)))
        return torch.tensor(losses[-1])

    returned = ZerothOrder(model, "mezo", lr=lr, eps=eps).step(closure)
    up, down = losses
    z = [(a - b) / (2 * eps) for a, b in zip(*seen, strict=True)]
    g = (up - down) / (2 * eps)
    for before, after, direction in zip(start, weights(model), z, strict=True):
        torch.testing.assert_close(after, before - lr * g * direction, rtol=1e-4, atol=1e-5)
    assert float(returned) == pytest.approx((up + down) / 2)
    spread = torch.cat([direction.flatten() for direction in z]).std()
    assert 0.8 < float(spread) < 1.2


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_every_forward_only_method_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = Net()
    train(whole, made(whole, name, seed=5), range(6))
    model = Net()
    optimizer = made(model, name, seed=5)
    train(model, optimizer, range(3))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = Net(seed=1)
    resumed = made(other, name, seed=6)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, range(3, 6))
    assert resumed.progress.step == 6
    assert are_equal(weights(whole), weights(other))
    assert not are_equal(weights(Net()), weights(other))


def test_a_method_that_uses_the_rate_itself_refuses_groups_with_rates() -> None:
    model = Net()
    rates = [{"params": model.first.parameters(), "lr": 1e-3}, {"params": model.last.parameters(), "lr": 1e-4}]
    optimizer = made(rates, "mezo-svrg", model=model)
    with pytest.raises(ZoplatError, match="'mezo-svrg' uses the step size of its rule itself"):
        train(model, optimizer, range(1))


@pytest.mark.parametrize("name", ["hizoo", "conmezo", "zo-muon"])
def test_a_method_that_needs_one_radius_refuses_groups_with_others_before_anything_moves(name: str) -> None:
    """In its first step, and where a group changes later."""
    model = Net()
    first, last = [*model.first.parameters()], [*model.last.parameters()]
    optimizer = made([{"params": first, "eps": 1e-3}, {"params": last, "eps": 1e-2}], name, model=model)
    with pytest.raises(ZoplatError, match=f"different eps, and '{name}' must probe all weights at one"):
        train(model, optimizer, range(1))
    assert are_equal(weights(model), weights(Net()))
    optimizer.param_groups[1]["eps"] = 1e-3
    train(model, optimizer, range(1))
    optimizer.param_groups[0]["eps"] = 2e-3
    with pytest.raises(ZoplatError, match="different eps"):
        train(model, optimizer, range(1, 2))


def test_a_schedule_that_begins_at_zero_keeps_groups_apart() -> None:
    model = Net()
    optimizer = made(groups(model), "zo-adam", model=model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 3)
    for step in range(3):
        train(model, optimizer, range(step, step + 1))
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-3)
    assert not are_equal(weights(Net()), weights(model))


@pytest.mark.parametrize("name", [name for name in FORWARD_ONLY if name != "mezo-svrg"])
def test_every_forward_only_method_takes_groups(name: str, tmp_path: Path) -> None:
    whole = Net()
    train(whole, made(groups(whole), name, model=whole), range(4))
    model = Net()
    optimizer = made(groups(model), name, model=model)
    train(model, optimizer, range(2))
    other = Net()
    resumed = made(groups(other), name, model=other)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, resumed, range(2, 4))
    assert are_equal(weights(whole), weights(other))
    assert all(bool(torch.isfinite(p).all()) for p in other.parameters())


@pytest.mark.parametrize("name", OTHERS)
def test_methods_that_need_more_than_losses_are_refused_by_name(name: str) -> None:
    with pytest.raises(ZoplatError, match=rf"'{name}' asks for .*"):
        made(Net(), name)


@pytest.mark.parametrize("name", ["mezo", "lozo", "zo-adam", "hizoo"])
def test_groups_with_equal_settings_give_the_bits_of_one_group(name: str) -> None:
    one, other = Net(), Net()
    train(one, ZerothOrder(one, name, lr=0.01), range(4))
    by_layer = [{"params": list(layer.parameters())} for layer in (other.conv, other.first, other.last)]
    by_layer.insert(0, {"params": [other.scale]})
    train(other, ZerothOrder(by_layer, name, lr=0.01, model=other), range(4))
    assert are_equal(weights(one), weights(other))


def test_each_group_has_its_own_rate_radius_and_sampler() -> None:
    model, eps = Net(), (1e-2, 2e-3)
    parts = [[*model.conv.parameters(), *model.first.parameters()], [*model.last.parameters(), model.scale]]
    own = [{"params": parts[0], "lr": 0.3, "eps": eps[0], "sampler": "rademacher"}, {"params": parts[1], "lr": 0.0}]
    optimizer = ZerothOrder(own, "mezo", eps=eps[1], model=model)
    seen: list[list[torch.Tensor]] = []
    losses: list[float] = []
    start = [[p.detach().clone() for p in part] for part in parts]

    def closure() -> float:
        seen.append([p.detach().clone() for part in parts for p in part])
        losses.append(float(closure_of(model)()))
        return losses[-1]

    optimizer.step(closure)
    moved = [(a - b) / 2 for a, b in zip(*seen, strict=True)]
    signs = torch.cat([d.flatten() for d in moved[: len(parts[0])]])
    torch.testing.assert_close(signs.abs(), torch.full_like(signs, eps[0]), rtol=1e-3, atol=0)
    normals = torch.cat([d.flatten() for d in moved[len(parts[0]) :]])
    assert normals.abs().max() < 5 * eps[1]
    assert normals.abs().std() > 0.1 * eps[1]
    g = (losses[0] - losses[1]) / (2 * eps[0])
    for before, after, z in zip(start[0], parts[0], moved, strict=False):
        torch.testing.assert_close(after.detach(), before - 0.3 * g * z / eps[0], rtol=1e-3, atol=1e-5)
    for before, after in zip(start[1], parts[1], strict=True):
        torch.testing.assert_close(after.detach(), before, rtol=0, atol=1e-6)


def test_weight_decay_of_a_group_shrinks_its_matrices_alone() -> None:
    model = Net()
    flat = {"params": [*model.conv.parameters(), *model.last.parameters(), model.scale]}
    optimizer = ZerothOrder(
        [{"params": model.first.parameters(), "weight_decay": 0.5}, flat], "mezo", lr=0.1, model=model
    )
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(lambda: 1.0)
    for name, p in model.named_parameters():
        factor = 0.95 if name == "first.weight" else 1.0
        torch.testing.assert_close(p.detach(), factor * start[name], rtol=1e-4, atol=1e-6)


def test_schedulers_of_torch_set_the_rate() -> None:
    rates, steps = [1.0, 0.5, 0.0], []
    model = Net()
    optimizer = ZerothOrder(model, "mezo", lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[step])
    for step in range(3):
        before = weights(model)
        train(model, optimizer, range(step, step + 1))
        steps.append(max(float((a - b).abs().max()) for a, b in zip(before, weights(model), strict=True)))
        if step < 2:
            scheduler.step()
    assert steps[0] > 1e-4
    assert steps[1] > 1e-4
    assert steps[2] < 1e-6


def test_groups_that_differ_later_go_on_where_the_rule_keeps_nothing() -> None:
    model = Net()
    parts = [{"params": model.first.parameters()}, {"params": model.last.parameters()}]
    optimizer = ZerothOrder(parts, "lozo", lr=0.01, model=model)
    train(model, optimizer, range(2))
    optimizer.param_groups[1]["lr"] = 0.0
    before = weights(model)
    train(model, optimizer, range(2, 3))
    after = weights(model)
    assert not are_equal(before, after)
    torch.testing.assert_close(before[5], after[5], rtol=0, atol=1e-6)

    adam = ZerothOrder([{**part, "params": list(part["params"])} for part in optimizer.param_groups], "zo-adam")
    adam.param_groups[1]["lr"] = adam.param_groups[0]["lr"]
    train(model, adam, range(1))
    adam.param_groups[1]["lr"] = 0.0
    with pytest.raises(ZoplatError, match="differ from the first step on"):
        train(model, adam, range(1))


def test_the_closure_is_called_as_often_as_the_method_says() -> None:
    counts = {"mezo": 2, "lozo": 2, "zo-sgd-cons": 5, "one-point": 1, "fzoo": 9, "hizoo": 3}
    for name, count in counts.items():
        model, calls = Net(), []
        optimizer = ZerothOrder(model, name)
        for step in range(3):
            optimizer.step(lambda step=step, calls=calls, model=model: calls.append(0) or closure_of(model, step)())
        extra = 1 if name == "one-point" else 0  # the first step has no loss before it
        assert len(calls) in (3 * count, 3 * count + extra), name
        assert optimizer.progress.passes == len(calls)


def test_dropout_is_the_same_in_all_calls_of_a_step_and_differs_from_step_to_step() -> None:
    dropout, masks = torch.nn.Dropout(0.5), []
    model = torch.nn.Linear(4, 1)

    def closure() -> torch.Tensor:
        masks.append(dropout(torch.ones(64)))
        return model(torch.ones(4)).sum()

    optimizer = ZerothOrder(model, "mezo", queries=2)
    optimizer.step(closure)
    optimizer.step(closure)
    assert all(torch.equal(mask, masks[0]) for mask in masks[:4])
    assert all(torch.equal(mask, masks[4]) for mask in masks[4:])
    assert not torch.equal(masks[0], masks[4])


def test_a_closure_with_another_batch_at_every_call_is_found() -> None:
    model, steps = Net(), iter(range(10))
    optimizer = ZerothOrder(model)
    optimizer.check_closure(closure_of(model))
    with pytest.raises(ZoplatError, match="at the same weights"):
        optimizer.check_closure(lambda: closure_of(model, next(steps))())


def test_tied_weights_move_together_and_once() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    loss = lambda: functional.cross_entropy(model.head(model.embed(torch.arange(6))), torch.arange(6))  # noqa: E731
    optimizer = ZerothOrder(model, "mezo", lr=0.05)
    losses = [float(optimizer.step(loss)) for _ in range(60)]
    assert model.head.weight is model.embed.weight
    assert losses[-1] < losses[0]


def test_frozen_parameters_stay_and_may_be_trained_later() -> None:
    model = Net()
    model.first.requires_grad_(False)
    start = model.first.weight.detach().clone()
    optimizer = ZerothOrder(model, "zo-adam", lr=0.01)
    train(model, optimizer, range(2))
    assert torch.equal(start, model.first.weight)
    assert not model.first.weight.requires_grad
    assert model.last.weight.requires_grad
    model.first.requires_grad_(True)
    train(model, optimizer, range(2, 4))
    assert not torch.equal(start, model.first.weight)
    assert optimizer.progress.step == 4


def test_parameters_may_be_added_later() -> None:
    model, more = Net(), torch.nn.Linear(1, 1)
    x, y = batch()
    optimizer = ZerothOrder(model, "mezo", lr=0.01)
    train(model, optimizer, range(2))
    start = more.weight.detach().clone()
    optimizer.add_param_group({"params": [("more.weight", more.weight)], "lr": 0.1})
    optimizer.step(lambda: functional.mse_loss(more(model(x)[:, None]).squeeze(1), y))
    assert not torch.equal(start, more.weight)
    curved = ZerothOrder(model, "hizoo")
    train(model, curved, range(1))
    curved.add_param_group({"params": [("more.weight", more.weight)]})
    with pytest.raises(ZoplatError, match="keeps something for each weight"):
        train(model, curved, range(1))


def test_parameters_that_lie_in_another_order_are_moved_where_they_are() -> None:
    layer = torch.nn.Linear(5, 3)
    layer.weight = torch.nn.Parameter(torch.randn(5, 3).t())
    image = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    places = layer.weight.data_ptr(), image.weight.data_ptr()
    model = torch.nn.ModuleList([layer, image])
    start = weights(model)
    optimizer = ZerothOrder(model, "lozo", lr=0.1)
    optimizer.step(lambda: (layer(torch.ones(5)) ** 2).sum() + (image(torch.ones(1, 3, 4, 4)) ** 2).sum())
    assert (layer.weight.data_ptr(), image.weight.data_ptr()) == places
    assert not layer.weight.is_contiguous()
    assert not any(torch.equal(a, b) for a, b in zip(start, weights(model), strict=True))
    with pytest.raises(ZoplatError, match="gaps or overlaps"):
        ZerothOrder([torch.nn.Parameter(torch.zeros(4, 8)[:, ::2])]).step(lambda: 0.0)


def test_weights_that_are_moved_elsewhere_are_found_again() -> None:
    whole, model = Net(), Net()
    train(whole, ZerothOrder(whole, "zo-adam", lr=0.01), range(4))
    optimizer = ZerothOrder(model, "zo-adam", lr=0.01)
    train(model, optimizer, range(2))
    for p in model.parameters():
        p.data = p.data.clone()
    train(model, optimizer, range(2, 4))
    assert are_equal(weights(whole), weights(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_learn(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    x, y = batch()
    closure = lambda: functional.mse_loss(model(x.to(dtype)).float(), y)  # noqa: E731
    optimizer = ZerothOrder(model, "mezo", lr=0.01, eps=1e-2)
    losses = [float(optimizer.step(closure)) for _ in range(150)]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    if dtype != torch.float64:
        before = weights(model)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step(closure)
        assert are_equal(before, weights(model))  # probes are never written
        with pytest.raises(ZoplatError, match="the module is needed"):
            ZerothOrder(model.parameters()).step(closure)


def test_sixteen_bit_runs_go_on_with_the_same_bits() -> None:
    def steps(model: torch.nn.Module, optimizer: ZerothOrder, numbers: range) -> None:
        for number in numbers:
            x, y = batch(number)
            optimizer.step(lambda x=x, y=y: functional.mse_loss(model(x.bfloat16()).float(), y))

    for rounding in ("stochastic", "master"):
        whole, model, other = (Net().bfloat16() for _ in range(3))
        settings = {"lr": 0.01, "rounding": rounding}
        steps(whole, ZerothOrder(whole, "mezo", **settings), range(4))
        optimizer = ZerothOrder(model, "mezo", **settings)
        steps(model, optimizer, range(2))
        other.load_state_dict(model.state_dict())
        resumed = ZerothOrder(other, "mezo", **settings)
        resumed.load_state_dict(optimizer.state_dict())
        steps(other, resumed, range(2, 4))
        assert are_equal(weights(whole), weights(other)), rounding


def test_the_loss_may_be_any_number() -> None:
    model, (x, y) = Net(), batch()
    optimizer = ZerothOrder(model, "mezo", lr=0.01, eps=0.1)
    before = weights(model)
    returned = optimizer.step(lambda: int(((model(x) > 0) != (y > 0)).sum()))  # counts of errors have no gradient
    assert returned.shape == ()
    assert float(returned) >= 0
    assert [a.shape for a in before] == [b.shape for b in weights(model)]


def test_mistakes_say_what_to_do() -> None:
    model, (x, y) = Net(), batch()
    optimizer = ZerothOrder(model)
    for closure, message in [
        (None, "optimizer.step.closure."),
        (lambda: None, "no `return loss`"),
        (lambda: model(x), r"shape \(8,\)"),
        (lambda: "loss", "a str"),
        (lambda: functional.mse_loss(model(x), y).backward(), "calls backward"),
    ]:
        start = weights(model)
        with pytest.raises(ZoplatError, match=message):
            optimizer.step(closure)
        for before, after in zip(start, weights(model), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)
    with pytest.raises(ZoplatError, match="Did you mean 'mezo'"):
        ZerothOrder(model, "mezzo")
    with pytest.raises(ZoplatError, match="must be positive"):
        ZerothOrder(model, "mezo", eps=-1.0)
    with pytest.raises(ZoplatError, match="Give steps"):
        ZerothOrder(model, "mezo", step_rule="linear")
    with pytest.raises(ZoplatError, match="Unknown sampler 'gausian'"):
        ZerothOrder([{"params": model.parameters(), "sampler": "gausian"}])
    with pytest.raises(ZoplatError, match="are frozen"):
        ZerothOrder(Net().requires_grad_(False)).step(lambda: 0.0)
    with pytest.raises(ZoplatError, match="no parameters"):
        ZerothOrder([])
    saved = ZerothOrder(model, "mezo", queries=2).state_dict()
    with pytest.raises(ZoplatError, match="queries: 2 → 1"):
        ZerothOrder(model, "mezo").load_state_dict(saved)
    with pytest.raises(ZoplatError, match="was not saved by"):
        ZerothOrder(model).load_state_dict(torch.optim.SGD(model.parameters(), lr=1).state_dict())


def test_twenty_steps_without_a_finite_loss_end_the_run() -> None:
    model = Net()
    optimizer = ZerothOrder(model)
    start = weights(model)
    for _ in range(19):
        assert bool(torch.isnan(optimizer.step(lambda: float("nan"))))
    with pytest.raises(ZoplatError, match="20 steps in a row"):
        optimizer.step(lambda: float("nan"))
    for before, after in zip(start, weights(model), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_the_weights_are_theta_after_a_closure_that_failed() -> None:
    model = Net()
    optimizer, start = ZerothOrder(model, "mezo", eps=0.1), weights(model)

    def closure() -> float:
        raise KeyError("a bug of the user")

    with pytest.raises(KeyError):
        optimizer.step(closure)
    for before, after in zip(start, weights(model), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_several_processes_and_copies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = ZerothOrder(Net())
    with pytest.raises(ZoplatError, match="Save its state_dict"):
        copy.deepcopy(optimizer)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ZoplatError, match="one of 2 processes"):
        optimizer.step(lambda: 0.0)


def test_the_door_imports_no_framework() -> None:
    code = "import sys, zoplat.torch, zoplat.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

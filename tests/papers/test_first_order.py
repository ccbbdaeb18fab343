"""The first-order yardsticks against plain loops; against torch's own optimizers in tests/devices."""

import numpy as np
import pytest

from zoplat import StepRule, ZoplatError
from zoplat.config.layers import resolve
from zoplat.space.parameter_space import Restore
from zoplat.testing import Plain, Toy, train, two_layers
from zoplat_plugins import adamw, sgd
from zoplat_plugins.adam import Adam
from zoplat_plugins.constant import Constant
from zoplat_plugins.linear import Linear
from zoplat_plugins.sgd import Backpropagation

LR, DECAY, STEPS = 1e-2, 0.1, 60


def gradient_of_network(arrays: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of `two_layers` and its gradient, backwards by hand."""
    rng = np.random.default_rng(20)
    rng.normal(size=61)
    inputs = rng.normal(size=(40, 3))
    targets = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]
    hidden = np.tanh(inputs @ arrays["hidden.weight"].T + arrays["hidden.bias"])
    error = hidden @ arrays["output.weight"][0] + arrays["output.bias"] - targets
    back = 2 * error / 40
    inside = np.outer(back, arrays["output.weight"][0]) * (1 - hidden**2)
    return float(np.mean(error**2)), {
        "hidden.weight": inside.T @ inputs,
        "hidden.bias": inside.sum(axis=0),
        "output.weight": (back @ hidden)[None],
        "output.bias": np.array([back.sum()]),
    }


def loop(toy: Toy, rule: str) -> list[float]:
    """Gradient steps on the toy's own arrays, plain ones or those of AdamW on a falling line; returns the losses."""
    arrays = {block.name: block.array for block in toy.space.blocks}
    m, v = ({name: np.zeros(array.shape) for name, array in arrays.items()} for _ in range(2))
    recorded = []
    for step in range(STEPS):
        lr = LR if rule == "sgd" else LR * (1 - step / STEPS)
        loss, gradient = gradient_of_network(arrays)
        recorded.append(loss)
        for name, array in arrays.items():
            g = gradient[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            if array.ndim == 2:
                array *= 1 - lr * DECAY
            first, second = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            array -= lr * (g if rule == "sgd" else first / (np.sqrt(second) + 1e-8))
    return recorded


@pytest.mark.parametrize("restore", ["in-place", "exact"])
@pytest.mark.parametrize(
    ("name", "rule"),
    [("sgd", Plain(lr=LR, decay=DECAY)), ("adamw", Adam(schedule=Linear(lr=LR, decay=DECAY)))],
)
def test_the_yardsticks_take_the_steps_of_the_plain_loop(name: str, rule: StepRule, restore: Restore) -> None:
    """60 steps in float64, to 1e-6: the toy's gradient is a difference of 1e-6."""
    plain, toy = two_layers(), two_layers(restore=restore)
    recorded = loop(plain, name)
    answers = train(toy, Backpropagation(rule=rule), steps=STEPS)
    np.testing.assert_allclose([a for step in answers for a in step], recorded, rtol=1e-6)
    np.testing.assert_allclose(toy.theta, plain.held, rtol=1e-6, atol=1e-6)
    assert recorded[-1] < 0.5 * recorded[0]


def test_what_is_registered_is_one_estimator_with_two_rules() -> None:
    one, other = sgd.zoplat_estimators()["sgd"], adamw.zoplat_estimators()["adamw"]
    assert one == Backpropagation(recompute=False, rule=Constant(lr=1e-3))
    assert other == Backpropagation(recompute=False, rule=Adam(schedule=Linear(lr=5e-5)))
    assert one.asks == other.asks == {"gradient"}


@pytest.mark.parametrize(("recompute", "passes"), [(False, 3), (True, 4)])
@pytest.mark.parametrize("rule", [Plain(lr=LR), Adam(schedule=Plain(lr=LR))], ids=["plain", "adam"])
def test_a_step_counts_three_passes_or_four_and_moves_the_weights_once(
    rule: StepRule, recompute: bool, passes: int
) -> None:
    toy, method = two_layers(), Backpropagation(recompute=recompute, rule=rule)
    state = rule.init(toy.space)
    for step in range(10):
        oracle = toy.oracle(step)
        for estimate in method.estimate(oracle, None):
            rule.apply(estimate, oracle, state)
        assert oracle.passes == passes
    toy.space.settle()
    assert toy.space.passes_over_weights == 10


def test_only_the_loss_is_journaled_and_a_replay_declines_politely() -> None:
    toy = two_layers()
    answers = train(toy, Backpropagation(rule=Plain(lr=LR)), steps=3)
    assert [len(step) for step in answers] == [1, 1, 1]
    with pytest.raises(ZoplatError, match="can't be replayed"):
        train(two_layers(), Backpropagation(rule=Plain(lr=LR)), steps=3, answers=answers)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_device_without_gradients_is_refused_by_name(name: str) -> None:
    with pytest.raises(ZoplatError, match=f"'{name}' asks the device for gradient; 'reference' answers only features"):
        resolve({"estimator": name, "device": "reference", "steps": 10})


def test_lr_and_decay_reach_the_schedule_of_adamw() -> None:
    config = resolve({"estimator": "adamw", "device": "cpu", "task": "sst2", "data": "x", "lr": 3e-4, "steps": 9})
    assert config.estimator.rule == Adam(schedule=Linear(lr=3e-4))

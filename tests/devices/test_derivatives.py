"""Exact derivatives by PyTorch, compared with plain torch on models of a few kilobytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Direction, Example, Key, ModelSpec, Oracle, ZoplatError
from zoplat.core.blocks import Part
from zoplat.core.errors import NonFinite
from zoplat.core.example import Row
from zoplat.core.losses import LossBackend, in_blocks
from zoplat.core.model_spec import Tuning
from zoplat.space.parameter_space import ParameterSpace
from zoplat.testing import Plain, quadratic, train
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.adam import Adam
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.hybrid import Hybrid
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.sgd import Backpropagation

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
KINDS = ["llama", "opt", "gpt2"]
OPTIONS = (" terrible", " great")
EXAMPLES = [
    Example(prompt, OPTIONS, label)
    for prompt, label in (
        ("the film was great . It was", 1),
        ("terrible food , It was", 0),
        ("the plot was boring and the actor was poor and we would go again . It was", 0),
    )
]


def opened(folder: Path, tune: str = "full", dtype: str = "float32", **device: Any) -> Any:
    """A session whose trial of padding is over, so that it is in no count."""
    session = PyTorch(**device).open(ModelSpec(str(folder), Tuning(tune), dtype, 0))
    assert not session.scorer.sees_padding
    return session


class SessionLosses(LossBackend):
    """A session and one batch, as in a training step."""

    def __init__(self, session: Any, rows: Sequence[Row]) -> None:
        self.session, self.rows = session, rows

    def forward(self) -> float:
        return float(self.session.forward(self.rows))

    def jvp(self, direction: Direction) -> tuple[float, float]:
        value, slope = self.session.jvp(self.rows, direction)
        return float(value), float(slope)

    def gradient(self, part: Part, recompute: bool) -> tuple[float, dict[str, Any]]:
        loss, arrays = self.session.gradient(self.rows, part, recompute)
        return float(loss), dict(arrays)

    def input_norms(self, space: ParameterSpace) -> dict[str, list[float]]:
        return in_blocks(space, self.session.input_norms(self.rows))


def oracle_of(session: Any, examples: Sequence[Example] = EXAMPLES, step: int = 0) -> Oracle:
    return Oracle(session.space, Key(4, step, -1), 0.0, SessionLosses(session, session.encode(examples)))


def eager(session: Any, examples: Sequence[Example] = EXAMPLES) -> tuple[float, dict[str, Any]]:
    """Loss and gradient by plain torch: one unpadded sequence at a time through the model's own forward pass."""
    model, tokenizer = session.model, session.loaded.tokenizer
    parameters = {p.data_ptr(): p for p in model.parameters()}
    owned = {block.name: parameters[block.array.data_ptr()] for block in session.space.blocks}
    before = {p: p.requires_grad for p in model.parameters()}
    for parameter in owned.values():
        parameter.requires_grad_(True)
    total = 0.0
    for example in examples:
        scores = []
        for option in example.options:
            ids = torch.tensor([tokenizer(example.prompt + option)["input_ids"]])
            logs = torch.log_softmax(model(ids[:, :-1]).logits[0, -1].float(), -1)
            scores.append(logs[ids[0, -1]])
        total += torch.nn.functional.cross_entropy(torch.stack(scores)[None], torch.tensor([example.label]))
    loss = total / len(examples)
    gradients = torch.autograd.grad(loss, list(owned.values()), materialize_grads=True)
    for parameter, needed in before.items():
        parameter.requires_grad_(needed)
    return loss.item(), {name: g.detach() for name, g in zip(owned, gradients, strict=True)}


def entries(session: Any, direction: Direction) -> dict[str, Any]:
    """A direction's numbers, block by block."""
    found = {}
    for block in session.space.blocks:
        tiles = [session.space.entries(direction, tile).clone() for tile in block.tiles()]
        found[block.name] = torch.cat(tiles)
    return found


def snapshot(session: Any) -> tuple[Any, ...]:
    """All that computing a derivative must not change."""
    model = session.model
    return (
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [module.training for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
        [list(module._parameters) for module in model.modules()],
        [len(module._forward_pre_hooks) for module in model.modules()],
        torch.get_rng_state().tolist(),
        session.digest(),
    )


def close(found: Any, expected: Any, rtol: float = 1e-4) -> None:
    """Entry by entry, to a share of the largest entry."""
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=rtol * float(expected.abs().max()) + 1e-8)


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_along_a_direction_is_its_product_with_the_gradient(
    checkpoint: Make, kind: str, tune: str
) -> None:
    """To 1e-4 of |∇L|·|v| / √d, the size of such a product, in float32; tied weights count once."""
    session = opened(checkpoint(kind), tune)
    loss, gradient = eager(session)
    oracle, before = oracle_of(session), snapshot(session)
    for v in oracle.draw(Gaussian(), 3):
        value, slope = oracle.jvp(v)
        parts = entries(session, v)
        expected = sum(float((gradient[name].reshape(v.shape) * v).sum()) for name, v in parts.items())
        size = sum(float((g**2).sum()) for g in gradient.values()) ** 0.5
        assert value == pytest.approx(loss, rel=1e-5)
        assert slope == pytest.approx(expected, abs=1e-4 * size)
    assert snapshot(session) == before
    assert oracle.passes == 2 * 3


def test_the_derivative_is_the_limit_of_central_differences(checkpoint: Make) -> None:
    """The error falls with ε², down to the rounding of float32 losses."""
    session = opened(checkpoint())
    oracle = oracle_of(session)
    [v] = oracle.draw(Gaussian(), 1)
    slope = oracle.jvp(v)[1]
    errors = []
    for eps in (8e-2, 4e-2, 2e-2):
        up, down = oracle.losses(eps * v, -eps * v)
        errors.append(abs((up - down) / (2 * eps) - slope))
    assert errors[2] < 0.05 * abs(slope), errors
    assert errors[0] > 3 * errors[1], errors
    assert errors[1] > 2 * errors[2], errors


def test_a_direction_on_a_part_has_its_derivative_there(checkpoint: Make) -> None:
    session = opened(checkpoint())
    oracle, (_, gradient) = oracle_of(session), eager(session)
    part = session.space.part(lambda block: block.layer == 1)
    [v] = oracle.draw(Gaussian(), 1)
    expected = sum(
        float((gradient[block.name].reshape(block.shape) * entries(session, v)[block.name]).sum())
        for block in session.space.blocks
        if block in part
    )
    assert oracle.jvp(v.on(part))[1] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_plain_torch(checkpoint: Make, kind: str, tune: str, recompute: bool) -> None:
    session = opened(checkpoint(kind), tune)
    loss, expected = eager(session)
    oracle, before = oracle_of(session), snapshot(session)
    found, direction = oracle.gradient(recompute=recompute)
    assert snapshot(session) == before
    assert found == pytest.approx(loss, rel=1e-5)
    [(draw, c)] = direction
    assert c == 1.0
    assert list(draw.sampler.buffer.arrays) == [block.name for block in session.space.blocks]  # type: ignore[attr-defined]
    for name, array in entries(session, direction).items():
        close(array, expected[name].reshape(array.shape))
    assert oracle.passes == (4 if recompute else 3)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_exactly_the_same_gradient_and_keep_less(checkpoint: Make, kind: str) -> None:
    session = opened(checkpoint(kind))
    kept, gradients = [], []
    for recompute in (False, True):
        with counting() as saved:
            gradients.append(session.gradient(session.encode(EXAMPLES), session.space.everything, recompute)[1])
        kept.append(saved[0])
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert kept[1] < 0.5 * kept[0], "bytes kept for the backward pass"


def test_a_model_without_a_list_of_layers_says_that_none_can_be_recomputed(checkpoint: Make) -> None:
    session = opened(checkpoint())
    session.derivatives.model = session.model.lm_head
    with pytest.raises(ZoplatError, match="no list of layers"):
        session.gradient(session.encode(EXAMPLES), session.space.everything, True)


class counting:  # noqa: N801  # used as a context manager
    """Counts the bytes that autograd keeps, each storage once, weights excluded."""

    def __enter__(self) -> list[int]:
        self.total, seen = [0], set()

        def pack(tensor: Any) -> Any:
            if not isinstance(tensor, torch.nn.Parameter) and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                self.total[0] += tensor.nbytes
            return tensor

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self.total

    def __exit__(self, *problem: Any) -> None:
        self.hooks.__exit__(*problem)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_before_the_part_keep_no_activations(checkpoint: Make, kind: str) -> None:
    """The graph does not reach the first layer, and fewer bytes are kept."""
    session = opened(checkpoint(kind))
    part, rows = Hybrid(last=1).exact_part(session.space), session.encode(EXAMPLES)
    assert {block.layer for block in session.space.blocks if block not in part} >= {None, 0}
    layers = next(m for m in session.model.modules() if isinstance(m, torch.nn.ModuleList))
    reached: list[bool] = []
    hooks = [
        layer.register_forward_hook(
            lambda module, inputs, output: reached.append(
                (output[0] if type(output) is tuple else output).requires_grad
            )
        )
        for layer in layers
    ]
    with counting() as tail:
        _, gradient = session.gradient(rows, part, False)
    assert reached == [False, True]
    for hook in hooks:
        hook.remove()
    with counting() as whole:
        everything = session.gradient(rows, session.space.everything, False)[1]
    assert tail[0] < 0.7 * whole[0], "bytes kept for the backward pass"
    assert set(gradient) == set(part.names)
    for name in gradient:
        close(gradient[name], everything[name], 1e-5)


@pytest.mark.parametrize("restore", ["in-place", "exact"])
def test_a_hybrid_step_updates_the_last_part_by_backpropagation_and_the_first_as_mezo_does(
    checkpoint: Make, restore: str
) -> None:
    """The update of each part does not depend on the other."""
    from zoplat_plugins.constant import Constant
    from zoplat_plugins.hybrid import Routed

    rule = Routed(probed=Constant(lr=1e-2), exact=Constant(lr=1e-1))
    method, session = Hybrid(eps=1e-2, rule=rule), opened(checkpoint(), restore=restore)
    part = method.exact_part(session.space)
    start = {block.name: block.array.clone() for block in session.space.blocks}
    _, gradient = eager(session)
    oracle, state = oracle_of(session), rule.init_for(session.space, method.law)
    for estimate in method.estimate(oracle, None):
        rule.apply(estimate, oracle, state)
    session.space.settle()
    alone = opened(checkpoint(), restore=restore)
    oracle = oracle_of(alone)
    [z] = oracle.draw(Gaussian(), 1)
    z = z.on(alone.space.everything - part)
    up, down = oracle.losses(1e-2 * z, -1e-2 * z)
    alone.space.add(-1e-2 * (up - down) / 2e-2 * z)
    alone.space.settle()
    for block, other in zip(session.space.blocks, alone.space.blocks, strict=True):
        if block in part:
            expected = start[block.name] - 1e-1 * gradient[block.name].reshape(block.shape)
            torch.testing.assert_close(block.array, expected, rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(block.array, other.array, rtol=0, atol=1e-6)
        assert float((block.array - start[block.name]).abs().max()) > 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_16_bit_weights_are_buffers_like_any_other(checkpoint: Make, dtype: str) -> None:
    """An update along a gradient is the one that its entries define, whichever kernel performs it."""
    session, full = opened(checkpoint(), dtype=dtype, rounding="nearest"), opened(checkpoint())
    _, gradient = oracle_of(session).gradient()
    _, expected = oracle_of(full).gradient()
    parts = entries(session, gradient)
    cosine = [float(torch.nn.functional.cosine_similarity(a.reshape(1, -1), b.reshape(1, -1)))
              for a, b in zip(parts.values(), entries(full, expected).values(), strict=True)]  # fmt: skip
    assert min(cosine) > 0.9
    start = {block.name: block.array.clone() for block in session.space.blocks}
    session.space.add(-0.5 * gradient)
    session.space.settle()
    for block in session.space.blocks:
        moved = start[block.name].float() - 0.5 * parts[block.name].reshape(block.shape)
        assert torch.equal(block.array, moved.to(block.array.dtype)), block.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_derivatives_of_16_bit_weights_are_those_of_float32_within_their_rounding(checkpoint: Make, dtype: str) -> None:
    session, full = opened(checkpoint(), dtype=dtype), opened(checkpoint())
    size = sum(float((array**2).sum()) for array in entries(full, oracle_of(full).gradient()[1]).values()) ** 0.5
    [v], [same] = oracle_of(session).draw(Gaussian(), 1), oracle_of(full).draw(Gaussian(), 1)
    before = session.digest()
    found, expected = oracle_of(session).jvp(v), oracle_of(full).jvp(same)
    assert found[0] == pytest.approx(expected[0], rel=0.05)
    assert found[1] == pytest.approx(expected[1], abs=0.1 * size)
    assert session.digest() == before


def test_a_gradient_that_is_not_finite_skips_the_step(checkpoint: Make) -> None:
    session = opened(checkpoint())
    norm = next(block for block in session.space.blocks if block.name.endswith("model.norm.weight"))
    norm.array[0] = torch.nan
    with pytest.raises(NonFinite):
        oracle_of(session).gradient()


def test_derivatives_are_taken_at_theta_whatever_the_weights_hold(checkpoint: Make) -> None:
    for restore in ("in-place", "exact"):
        session = opened(checkpoint(), restore=restore)
        oracle = oracle_of(session)
        [v] = oracle.draw(Gaussian(), 1)
        value, slope = oracle.jvp(v)
        oracle.losses(0.3 * v)
        assert oracle.jvp(v) == pytest.approx((value, slope), rel=1e-4)
        oracle.losses(0.3 * v)
        assert oracle.gradient()[0] == pytest.approx(value, rel=1e-5)


def test_a_forward_pass_after_a_derivative_gives_what_it_gave_before(checkpoint: Make) -> None:
    session = opened(checkpoint("llama", tied=True))
    oracle = oracle_of(session)
    [v] = oracle.draw(Gaussian(), 1)
    before = next(iter(MeZO(eps=1e-2).estimate(oracle_of(session, step=1), None))).losses
    oracle.jvp(v)
    oracle.gradient(recompute=True)
    oracle.input_norms()
    assert next(iter(MeZO(eps=1e-2).estimate(oracle_of(session, step=1), None))).losses == pytest.approx(
        before, rel=1e-6
    )
    assert session.model.lm_head.weight is session.model.model.embed_tokens.weight


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_first_order_baselines_take_the_steps_of_torchs_optimizers(name: str) -> None:
    toy = quadratic()
    assert toy.gradient is not None
    tensors = [torch.tensor(block.array.copy(), requires_grad=True) for block in toy.space.blocks]
    groups = [
        {"params": [t for t in tensors if t.ndim == 2], "weight_decay": 0.1 if name == "adamw" else 0.0},
        {"params": [t for t in tensors if t.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = (torch.optim.SGD if name == "sgd" else torch.optim.AdamW)(groups, lr=1e-2)
    for _ in range(30):
        flat = np.concatenate([t.detach().numpy().reshape(-1) for t in tensors])
        gradient, at = toy.gradient(flat), 0
        for tensor in tensors:
            tensor.grad = torch.tensor(gradient[at : at + tensor.numel()].reshape(tensor.shape))
            at += tensor.numel()
        optimizer.step()
    rule = Plain(lr=1e-2) if name == "sgd" else Adam(schedule=Plain(lr=1e-2, decay=0.1))
    train(toy, Backpropagation(rule=rule), steps=30)
    expected = np.concatenate([t.detach().numpy().reshape(-1) for t in tensors])
    np.testing.assert_allclose(toy.theta, expected, rtol=1e-9, atol=1e-12)

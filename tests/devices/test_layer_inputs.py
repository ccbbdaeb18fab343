"""Norms and leading directions of what linear layers read, on models of a few kilobytes, against numpy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from zoplat import Example, ModelSpec, ZoplatError
from zoplat.cli import main
from zoplat.core.input_directions import directions_of
from zoplat.core.losses import in_blocks
from zoplat.core.model_spec import Tuning
from zoplat.training.objective import Objective
from zoplat_devices.pytorch.device import PyTorch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
OPTIONS = (" terrible", " great")
EXAMPLES = [
    Example("the film was great . It was", OPTIONS, 1),
    Example("terrible food , It was", OPTIONS, 0),
    Example("the plot was boring and the actor was poor and we would go again . It was", OPTIONS, 0),
]
MANY = 60
"""Rounds of power iteration after which nothing changes."""


def opened(folder: Path, tune: str = "full", dtype: str = "float32", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning(tune), dtype, 0))


def inputs_of(session: Any) -> dict[str, np.ndarray]:
    """By block what its layer reads, (tokens, features), by one unpadded sequence at a time through the model."""
    by_address = {block.array.data_ptr(): block for block in session.space.blocks}
    seen: dict[str, list[Any]] = {}
    hooks = []
    for module in session.model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.data_ptr() in by_address:
            name = by_address[module.weight.data_ptr()].name

            def note(module: Any, inputs: Any, name: str = name) -> None:
                flat = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
                is_head = module.weight.shape[0] == len(session.loaded.tokenizer)  # it predicts one token only
                seen.setdefault(name, []).append(flat[-1:] if is_head else flat)

            hooks.append(module.register_forward_pre_hook(note))
    with torch.no_grad():
        for example in EXAMPLES:
            text = example.prompt + example.options[0]
            session.model(torch.tensor([session.loaded.tokenizer(text)["input_ids"][:-1]]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(some).numpy() for name, some in seen.items()}


def hooks_of(session: Any) -> list[int]:
    return [len(module._forward_pre_hooks) for module in session.model.modules()]


def projector(rows: Any) -> np.ndarray:
    q = np.linalg.qr(np.array(rows).T)[0]
    found: np.ndarray = q @ q.T
    return found


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_norms_are_those_of_the_tokens_that_each_layer_sees(checkpoint: Make, kind: str, tune: str) -> None:
    """By one unpadded sequence at a time through the model; padding does not count."""
    session = opened(checkpoint(kind), tune)
    before, hooks = session.digest(), hooks_of(session)
    found = in_blocks(session.space, session.input_norms(session.encode(EXAMPLES)))
    assert (session.digest(), hooks_of(session)) == (before, hooks)
    expected = inputs_of(session)
    assert list(found) == [block.name for block in session.space.blocks if len(block.shape) == 2]
    for name, norms in found.items():
        of_inputs = np.linalg.norm(expected[name], axis=0) if name in expected else np.ones(len(norms))
        np.testing.assert_allclose(norms, of_inputs, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_they_are_the_singular_vectors_of_the_tokens_that_each_layer_sees(
    checkpoint: Make, kind: str, tune: str
) -> None:
    """Vectors as long as their singular values, with the loss of the same pass; padding does not count."""
    session = opened(checkpoint(kind), tune)
    rows, expected = session.encode(EXAMPLES), inputs_of(session)
    before, hooks = session.digest(), hooks_of(session)
    loss, found = session.input_directions(rows, 2, MANY)
    assert loss == pytest.approx(float(session.forward(rows)), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, inputs in expected.items():
        values = np.linalg.svd(inputs, compute_uv=False)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), values[:2], rtol=1e-4, err_msg=name)
        along = np.linalg.norm(inputs @ np.array(found[name]).T / np.linalg.norm(found[name], axis=1), axis=0)
        np.testing.assert_allclose(along, values[:2], rtol=1e-4, err_msg=name)
    assert session.digest() == before
    assert hooks_of(session) == hooks


@pytest.mark.parametrize("rounds", [1, 3])
def test_k_rounds_are_k_rounds_of_power_iteration(checkpoint: Make, rounds: int) -> None:
    """From Hᵀ times a fixed Gaussian: before they have converged they span what a transcription spans."""
    session = opened(checkpoint("llama"))
    random = torch.random.get_rng_state()
    found = session.input_directions(session.encode(EXAMPLES), 2, rounds)[1]
    assert torch.equal(torch.random.get_rng_state(), random)
    for name, inputs in inputs_of(session).items():
        a = np.linalg.qr(inputs.T @ torch.randn(len(inputs), 2, generator=torch.Generator().manual_seed(0)).numpy())[0]
        for _ in range(rounds):
            a = np.linalg.qr(inputs.T @ (inputs @ a))[0]
        np.testing.assert_allclose(projector(found[name]), projector(a.T), rtol=0, atol=1e-4, err_msg=name)
        if rounds == 1 and name.endswith("down_proj.weight"):
            converged = np.linalg.svd(inputs)[2][:2]
            assert np.abs(projector(converged) - projector(a.T)).max() > 1e-3, "or any number of rounds would pass"


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_directions_of_micro_batches_are_nearly_those_of_the_batch(checkpoint: Make, micro_batch: int) -> None:
    """Each part gives its leading ones alone, so that the sum of squares along them falls short by a little."""
    session = opened(checkpoint("opt"))
    rows, expected = session.encode(EXAMPLES), inputs_of(session)
    whole, parts = (Objective(micro_batch=n).input_directions(session, rows, 2, MANY) for n in (None, micro_batch))
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    for name, inputs in expected.items():
        most = (np.linalg.svd(inputs, compute_uv=False)[:2] ** 2).sum()
        assert np.sum(np.square(whole[1][name])) == pytest.approx(most, rel=1e-4)
        directions = directions_of(session.space.blocks, 2, parts[1])[name]
        assert 0.9 * most < np.sum(np.square(inputs @ np.array(directions).T)) < 1.0001 * most


def test_as_many_as_the_layer_has_and_zeros_for_those_that_its_inputs_do_not_have(checkpoint: Make) -> None:
    session = opened(checkpoint("llama"), tune="lora")
    rows = session.encode(EXAMPLES[:1])
    found = directions_of(session.space.blocks, 99, session.input_directions(rows, 99, 3)[1])
    tokens = len(session.loaded.tokenizer(EXAMPLES[0].prompt + OPTIONS[0])["input_ids"]) - 1
    for block in session.space.blocks:
        directions = np.array(found[block.name])
        assert directions.shape == (min(block.shape), block.shape[1])
        own = directions[directions.any(axis=1)]
        assert len(own) <= tokens
        np.testing.assert_allclose(own @ own.T, np.eye(len(own)), rtol=0, atol=1e-3)


def test_a_seq2seq_model_is_refused(checkpoint: Make) -> None:
    session = opened(checkpoint("llama"))
    session.inputs._head = "seq2seq"
    with pytest.raises(ZoplatError, match="not known for seq2seq"):
        session.input_directions(session.encode(EXAMPLES), 1, 3)
    with pytest.raises(ZoplatError, match="not known for seq2seq"):
        session.input_norms(session.encode(EXAMPLES))


def command(*arguments: Any) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "more",
    [
        ("--tune", "lora"),
        ("--dtype", "bfloat16", "-o", "rank=3"),
        ("-o", "interval=3", "-o", "queries=2"),
        ("--micro-batch-size", 2),
        ("-o", "device.strategy=streaming"),
        ("--head", "classifier"),
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_a_run_of_agzo_replays_bit_for_bit(checkpoint: Make, more: tuple[Any, ...]) -> None:
    arguments = ["--model", checkpoint(), "--steps", 4, "--limit", 8, "--batch-size", 4, "--evaluate-every", 2]
    arguments += ["--estimator", "agzo", "--eps", 1e-2, "--lr", 1e-3, "--device", "cpu"]
    summary = command("run", *arguments, *more, "--quiet")
    assert summary["forward_passes"] == (12 if "queries=2" in more else 8)
    assert summary["passes_outside"] == 0
    assert summary["weights_digest"] != summary["start_digest"]
    assert command("replay", summary["run_dir"])["weights_digest"] == summary["weights_digest"]

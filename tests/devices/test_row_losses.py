"""A direction for every row: all rows in one pass give what one row after the other gives, on every kind of model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat import ZERO, Direction, Example, Key, ModelSpec, RowSigns, Sampler
from zoplat.cli import main
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.strategies.branch_weights import BranchWeights
from zoplat_devices.pytorch.strategies.signed import SignedBranches
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.rademacher import Rademacher

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
EXAMPLES = [
    Example("the film was great . It was", (" terrible", " great"), 1),
    Example("the plot was boring and the actor was poor . It was", (" terrible", " great"), 0),
    Example("It was", (" terrible", " great"), 1),
    Example("the actor was poor . It was", (" terrible", " great"), 0),
]
EPS = 0.02
FORMED = "zoplat_devices.pytorch.strategies.branch_weights.FORMED"


def opened(folder: Path, tune: str = "full", dtype: str = "float32", **tuning: Any) -> Any:
    device: Any = PyTorch(restore="exact", strategy="batched")
    return device.open(ModelSpec(str(folder), Tuning(tune, **tuning), dtype, 0))


def points(session: Any, law: Sampler, rows: int = len(EXAMPLES)) -> list[list[Direction]]:
    """θ ± εzᵢ, a z for each row."""
    zs = [EPS * session.space.draw(law, Key(3, 0, row)) for row in range(rows)]
    return [zs, [-z for z in zs]]


def row_by_row(session: Any, rows: Any, asked: list[list[Direction]]) -> list[list[float]]:
    found = []
    for point in asked:
        found.append([])
        for row, direction in zip(rows, point, strict=True):
            session.space.at(direction)
            found[-1].append(float(session.forward([row])))
    session.space.settle()
    return found


def agree(session: Any, law: Sampler, tolerance: float = 1e-5) -> None:
    rows, asked, start = session.encode(EXAMPLES), points(session, law), session.digest()
    together = session.row_losses_at(rows, asked)
    assert session.digest() == start
    expected = row_by_row(session, rows, asked)
    for found, right in zip(together, expected, strict=True):
        assert found == pytest.approx(right, abs=tolerance)
    [base] = row_by_row(session, rows, [[ZERO] * len(rows)])
    assert all(abs(loss - at_theta) > 10 * tolerance for loss, at_theta in zip(expected[0], base, strict=True))


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("base", [Gaussian(), Rademacher(), LowRank()], ids=["gaussian", "rademacher", "low-rank"])
def test_all_rows_in_one_pass_agree_with_one_after_the_other(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, kind: str, base: Sampler
) -> None:
    """Matrices, tied embeddings, positions, biases and norms; matrices a few rows at a time."""
    monkeypatch.setattr(FORMED, 200)
    agree(opened(checkpoint(kind)), RowSigns(base))


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_so_they_do_where_all_weights_are_formed_ahead_or_no_u_is_shared(checkpoint: Make, tune: str) -> None:
    session = opened(checkpoint("llama"), tune, **({"rank": 4, "alpha": 8} if tune == "lora" else {}))
    for law in (RowSigns(Gaussian()), Gaussian()):
        agree(session, law, 1e-6 if tune == "lora" else 1e-5)


def test_no_weight_is_formed_and_u_is_drawn_once_a_matrix(checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMED, 4000)
    session = opened(checkpoint("llama"))
    rows, asked = session.encode(EXAMPLES), points(session, RowSigns(Gaussian()))
    session.row_losses_at(rows, asked)  # the first one tries out what the model can do
    drawn, calls = list[str](), list[int]()
    product = SignedBranches.product
    monkeypatch.setattr(
        SignedBranches, "product", lambda own, block, *more: drawn.append(block.name) or product(own, block, *more)
    )
    monkeypatch.setattr(BranchWeights, "form", lambda *_: pytest.fail("weights were formed"))
    session.model.get_submodule("model.layers.0").register_forward_pre_hook(lambda *_: calls.append(1))
    session.row_losses_at(rows, asked)
    assert calls == [1]
    assert sorted(drawn) == sorted(block.name for block in session.space.blocks if len(block.shape) == 2)


def test_rows_of_several_sequences_and_of_different_numbers_of_them(checkpoint: Make) -> None:
    """Options of several tokens are a sequence each."""
    session, law = opened(checkpoint("llama")), RowSigns(Gaussian())
    several = [
        Example("It was", (" great film", " poor film"), 0),
        Example("the film was", (" great", " poor film"), 1),
    ]
    for examples in (several[:1] * 2, [*several, EXAMPLES[0]]):
        rows = session.encode(examples)
        asked = points(session, law, len(rows))
        for found, right in zip(session.row_losses_at(rows, asked), row_by_row(session, rows, asked), strict=True):
            assert found == pytest.approx(right, abs=1e-5)


def test_one_direction_for_all_rows_is_one_branch(checkpoint: Make) -> None:
    session = opened(checkpoint("llama"))
    rows, [z, *_] = session.encode(EXAMPLES), points(session, Gaussian())[0]
    [found, at_theta] = session.row_losses_at(rows, [[z] * len(rows), [ZERO] * len(rows)])
    session.space.at(z)
    assert found == pytest.approx(session.row_losses(rows), abs=1e-5)
    assert sum(found) / len(found) == pytest.approx(session.forward(rows), abs=1e-5)
    session.space.settle()
    assert at_theta == pytest.approx(session.row_losses(rows), abs=1e-5)


def test_the_loss_of_a_row_of_several_tokens_is_that_of_the_row_alone(checkpoint: Make) -> None:
    session = opened(checkpoint("llama"))
    texts = [
        Example("It was", (" great film",), 0, loss="tokens"),
        Example("the film was", (" poor",), 0, loss="tokens"),
    ]
    rows = session.encode(texts)
    alone = [session.forward([row]) for row in rows]
    assert session.row_losses(rows) == pytest.approx(alone, abs=1e-5)
    weights = [row.weight for row in rows]
    whole = sum(w * loss for w, loss in zip(weights, alone, strict=True)) / sum(weights)
    assert session.forward(rows) == pytest.approx(whole, abs=1e-5)


def command(*arguments: Any) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("more", "strategy"),
    [
        ((), "batched"),
        (("--tune", "lora"), "batched"),
        (("-o", "sampler.base.name=low-rank"), "batched-side-terms"),
        (("-o", "device.strategy=sequential"), "sequential"),
        (("-o", "device.strategy=streaming"), "streaming"),
    ],
    ids=lambda more: " ".join(more) if isinstance(more, tuple) else more,
)
def test_a_run_of_grzo_replays_bit_for_bit(checkpoint: Make, more: tuple[Any, ...], strategy: str) -> None:
    arguments = ["--model", checkpoint(), "--steps", 4, "--limit", 8, "--batch-size", 4, "--evaluate-every", 2]
    arguments += ["--estimator", "grzo", "--eps", 1e-2, "--lr", 1e-3, "--device", "cpu"]
    summary = command("run", *arguments, *more, "--quiet")
    assert summary["forward_passes"] == 8
    assert summary["passes_outside"] == 0
    assert summary["weights_digest"] != summary["start_digest"]
    header = json.loads(Path(summary["run_dir"], "journal.jsonl").read_text().splitlines()[0])
    assert header["strategy"] == strategy
    assert command("replay", summary["run_dir"])["weights_digest"] == summary["weights_digest"]


def test_a_plan_rehearses_the_pass_of_all_rows(checkpoint: Make) -> None:
    device: Any = PyTorch()
    session = device.rehearse(ModelSpec(str(checkpoint()), Tuning("full"), "float32", 0))
    law, rows = RowSigns(Gaussian()), session.blank(4, 8)
    with session.traced():
        assert session.strategy_for(law, 8.0) == "batched"
        before = session.memory().host_peak
        losses = session.row_losses_at(rows, points(session, law))
    assert [len(point) for point in losses] == [4, 4]
    assert session.memory().host_peak > before

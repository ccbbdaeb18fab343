"""A model on two cards, which are stand-ins: runs end in the weights of one processor, whatever is trained and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat import Block, Direction, Example, Key, ModelSpec, ParameterSpace
from zoplat.core.model_spec import Tuning
from zoplat.errors import ZoplatError

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.devices.cards import OfCard, cards  # noqa: E402
from zoplat_devices.kernels.fused import FusedBackend  # noqa: E402
from zoplat_devices.kernels.gpu import TritonKernels  # noqa: E402
from zoplat_devices.pytorch import backends  # noqa: E402
from zoplat_devices.pytorch.device import PyTorch  # noqa: E402
from zoplat_devices.pytorch.session import PyTorchSession  # noqa: E402
from zoplat_devices.pytorch.sharding import inferred, shares  # noqa: E402
from zoplat_plugins.gaussian import Gaussian  # noqa: E402

MAP = {"model.embed_tokens": 0, "lm_head": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1}
MAP |= {"model.rotary_emb": 0}
TOY: dict[str, Any] = {"steps": 3, "batch_size": 4, "limit": 8, "evaluate_every": 2, "dtype": "float32"}
METHODS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-2},
    "hizoo": {"lr": 1e-2},
    "lozo": {"lr": 1e-2},
    "mezo": {"lr": 1e-2},
    "zo-adam": {"lr": 1e-2},
}


@pytest.fixture
def on_cards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes contexts with two cards; the kernels of the processor stand in for those of the cards."""
    for_cpu = backends.kernels_for

    def enter() -> Any:
        monkeypatch.setattr(PyTorch, "missing", lambda device: None)
        monkeypatch.setattr(backends, "kernels_for", lambda kind: OfCard(for_cpu("cpu"), kind))
        monkeypatch.setattr(backends, "_pinned", lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype)))
        return cards(monkeypatch)

    return enter


def digest(folder: Path, place: Any, device: PyTorch, **settings: Any) -> str:
    with place:
        result = zoplat.run(out=folder, device=device, progress=False, **{**TOY, **settings})
    return str(result.summary.weights_digest)


SLOW = [pytest.param(name, marks=pytest.mark.slow) if name != "mezo" else name for name in METHODS]


@pytest.mark.parametrize("method", SLOW)
def test_a_run_on_two_cards_ends_in_the_weights_of_one_place(
    method: str,
    tmp_path: Path,
    checkpoint: Callable[..., Path],
    on_cards: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        PyTorchSession, "strategy_for", lambda *_: "sequential"
    )  # one place has side terms, which round otherwise
    settings = {"estimator": method, "model": checkpoint(), **METHODS[method]}
    alone = digest(tmp_path / "one", nullcontext(), PyTorch("cpu"), **settings)
    spread = digest(tmp_path / "two", on_cards(), PyTorch("cuda", map=json.dumps(MAP)), **settings)
    assert spread == alone


VARIANTS: dict[str, dict[str, Any]] = {
    "bfloat16, exact and stochastic": {"dtype": "bfloat16", "lr": 1e-2},
    "lora": {"tune": "lora", "lr": 1e-1},
    "prompt": {"tune": "prompt", "lr": 1e-1},
    "the second card alone": {"tune": r"layers\.1", "lr": 1e-2},
    "recomputed": {"estimator": "adamw", "lr": 1e-2, "options": {"recompute": True}},
    "wanda scores": {"estimator": "sparse-zo", "lr": 1e-2, "options": {"scores": "wanda"}},
    "state on the host": {"estimator": "hizoo", "lr": 1e-2, "options": {"device.state": "host"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_so_does_one_of_another_kind(
    name: str,
    tmp_path: Path,
    checkpoint: Callable[..., Path],
    on_cards: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PyTorchSession, "strategy_for", lambda *_: "sequential")
    settings = {"estimator": "mezo", "model": checkpoint(), **VARIANTS[name]}
    here = {"options": {}} if "state" in name else {}
    alone = digest(tmp_path / "one", nullcontext(), PyTorch("cpu"), **{**settings, **here})
    spread = digest(tmp_path / "two", on_cards(), PyTorch("cuda", map=json.dumps(MAP)), **settings)
    assert spread == alone


@pytest.mark.slow
def test_a_run_on_two_cards_goes_on_where_it_was_and_says_what_lies_where(
    tmp_path: Path, checkpoint: Callable[..., Path], on_cards: Callable[[], Any]
) -> None:
    settings: dict[str, Any] = {"estimator": "zo-adam", "model": checkpoint(), "lr": 1e-2}
    device = PyTorch("cuda", map=json.dumps(MAP))
    alone = digest(tmp_path / "one", nullcontext(), PyTorch("cpu"), **settings)
    digest(tmp_path / "two", on_cards(), device, **{**settings, "steps": 2})
    assert digest(tmp_path / "two", on_cards(), device, **settings, resume=True) == alone
    facts = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert set(facts["cards"]) == {"cuda:0", "cuda:1"}
    assert sum(facts["cards"].values()) == facts["model_bytes"]
    lines = [json.loads(line) for line in (tmp_path / "two" / "memory.jsonl").read_text().splitlines()]
    owners = {line["owner"]: line["bytes"] for line in lines if line["kind"] == "owner"}
    weights = [size for owner, size in owners.items() if " weights" in owner]
    assert sum(weights) == facts["model_bytes"]
    assert owners["adam/m, on cuda:1"] == owners["trainable weights, on cuda:1"]


def test_answers_and_scores_are_those_of_one_place(
    checkpoint: Callable[..., Path], on_cards: Callable[[], Any]
) -> None:
    def answered(device: PyTorch, kind: str, head: Any) -> Any:
        session = device.open(ModelSpec(str(checkpoint(kind)), Tuning("full"), "float32", 0, head=head, classes=2))
        for weight in [weight for name, weight in session.arrays().items() if name == "score.weight"]:
            weight[:] = torch.linspace(-1, 1, weight.numel()).view(weight.shape)  # a new head, whatever was drawn
        rows = session.encode([Example("the film was", (" great", " terrible"), 0, suffix=" .")] * 2)
        texts = session.generate(rows, 5, "\n") if head == "causal" else []
        losses = session.text_loss(["the film was great and the food"], 2).loss if texts else 0.0
        return session.scores(rows), texts, session.features(rows), losses

    roberta = {"roberta.embeddings": 0, "roberta.encoder.layer.0": 1, "roberta.encoder.layer.1": 1, "lm_head": 0}
    classifier = {"model.embed_tokens": 0, "model.layers": 1, "model.norm": 1, "model.rotary_emb": 0, "score": 1}
    given = (("llama", "causal", MAP), ("roberta", "masked", roberta), ("llama", "classifier", classifier))
    for kind, head, places in given:
        alone = answered(PyTorch("cpu"), kind, head)
        with on_cards():
            assert answered(PyTorch("cuda", map=json.dumps(places)), kind, head) == alone


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"map": '{"": "cpu"}'}, "places modules on 'cpu'.*strategy=streaming"),
        ({"map": '{"model": 0, "lm_head": "disk"}'}, "places modules on 'disk'.*strategy=streaming"),
        ({"map": "evenly"}, "must be auto, balanced"),
        ({"map": "auto", "kind": "cpu"}, "map=auto is for --device cuda"),
        ({"map": "auto", "strategy": "batched"}, "batched takes one GPU"),
        ({"map": "auto", "compile": True}, "compile=true takes one GPU"),
    ],
)
def test_a_map_that_can_not_be_is_refused_with_what_to_do(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoplatError, match=words):
        PyTorch(**{"kind": "cuda", **settings})


def test_a_map_that_leaves_modules_out_and_a_prefix_are_refused(
    checkpoint: Callable[..., Path], on_cards: Callable[[], Any]
) -> None:
    device = PyTorch("cuda", map='{"model.layers": 0}')
    with on_cards():
        with pytest.raises(ZoplatError, match="Name every module or its parent"):
            device.open(ModelSpec(str(checkpoint()), Tuning("full"), "float32", 0))
        tied = PyTorch("cuda", map=json.dumps({**MAP, "lm_head": 1}))
        with pytest.raises(ZoplatError, match="are the same weights, and can't be on cuda:0 and cuda:1"):
            tied.open(ModelSpec(str(checkpoint()), Tuning("full"), "float32", 0))
        with pytest.raises(ZoplatError, match="--tune prefix gives all layers keys on one card"):
            device.open(ModelSpec(str(checkpoint()), Tuning("prefix"), "float32", 0))


def meta_model() -> Any:
    import transformers as t

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    with torch.device("meta"):
        return t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_hidden_layers=6, vocab_size=500))


def test_layers_are_spread_evenly_and_in_order() -> None:
    model, gib = meta_model(), 1 << 30
    found = inferred(model, "auto", {0: gib, 1: gib})
    layers = [found[f"model.layers.{k}"] for k in range(6)]
    assert layers == sorted(layers)
    assert set(layers) == {"cuda:0", "cuda:1"}
    sizes = shares(model, found)
    assert sum(sizes.values()) == sum(p.nbytes for p in [*model.parameters(), *model.buffers()])
    assert max(sizes.values()) < 0.7 * sum(sizes.values())
    with pytest.raises(ZoplatError, match=r"don't fit on the cards.*strategy=streaming"):
        inferred(model, "auto", {0: 1000, 1: 1000})


def test_a_plan_is_of_the_fullest_card_and_says_the_share_of_each(checkpoint: Callable[..., Path]) -> None:
    settings: dict[str, Any] = {"model": checkpoint(), "estimator": "hizoo", "tokens": 16, "alone": True}
    alone = zoplat.plan(device=PyTorch("cuda"), **settings)
    spread = zoplat.plan(device=PyTorch("cuda", map=json.dumps(MAP)), **settings)
    cards = spread.asked.facts["cards"]
    assert set(cards) == {"cuda:0", "cuda:1"}
    share = max(cards.values()) / sum(cards.values())
    one, other = ({s.owner: s.expected for s in plan.asked.shares} for plan in (alone, spread))
    for owner in ("trainable weights", "hizoo/h"):
        assert other[owner] == pytest.approx(one[owner] * share, abs=2)
    assert any("cuda:1 has" in note for note in spread.notes())


def test_kernels_are_launched_on_the_card_of_their_arrays(
    interpreted_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    entered: list[str] = []

    @contextmanager
    def on(card: Any) -> Any:
        entered.append(str(card))
        yield

    monkeypatch.setattr(torch.cuda, "device", on)
    kernels = TritonKernels("cuda:1", interpreted_kernels._programs)
    kernels.link = interpreted_kernels.link  # whose tables the interpreter reads
    backend = FusedBackend(kernels, lambda shape, dtype: torch.empty(shape, dtype=getattr(torch, dtype)))
    block = Block("w", torch.ones(64, 32))
    space = ParameterSpace([block], backend)
    space.add(Direction.of(Gaussian(), Key(0, 0, 0)))
    space.settle()
    assert not block.array.equal(torch.ones(64, 32))
    assert set(entered) == {"cuda:1"}
    assert TritonKernels("cuda", interpreted_kernels._programs)._on_card is nullcontext

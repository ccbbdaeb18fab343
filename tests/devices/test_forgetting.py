"""What becomes of general text: losses and divergences against plain transformers, and in runs that are torn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat.config.layers import resolve
from zoplat.core.errors import Interrupted, ZoplatError
from zoplat.core.model_spec import ModelSpec, Tuning
from zoplat.evaluation import general
from zoplat.training.callbacks import Callback
from zoplat.training.train import train
from zoplat_devices.pytorch.device import PyTorch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
TEXTS = [
    "the film was great and the food was terrible but we would go again .",
    "It was a good day for a bad movie , yes or no ?",
    "awful wonderful boring fine nice poor plot actor . " * 9,  # longer than the model reads
]
SHORT = {"device": "cpu", "estimator": "mezo", "limit": 8, "batch_size": 4, "lr": 1e-2, "forgetting": True}
GENERAL = ("general_loss_before", "general_loss_after", "general_kl", "general_tokens", "general_positions")


def opened(folder: Path, tune: str = "full", head: Any = "auto") -> Any:
    return PyTorch("cpu").open(ModelSpec(str(folder), Tuning(tune), "float32", 0, head, 2))


@contextmanager
def scaled_head(session: Any) -> Iterator[None]:
    """The logits are 4 times what they were."""
    weight = session.model.get_output_embeddings().weight
    with torch.no_grad():
        weight.mul_(4)
        yield
        weight.div_(4)


def directly(session: Any) -> list[Any]:
    """Log-probabilities of each text in float64, by transformers alone: (tokens − 1, vocabulary)."""
    tokenizer, found = session.loaded.tokenizer, []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, : session.encoder.limit]
        with torch.no_grad():
            logits = session.model(input_ids=ids).logits[0, :-1]
        found.append((torch.log_softmax(logits.double(), dim=-1), ids[0, 1:]))
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_losses_and_divergences_are_those_of_a_direct_computation(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    session, kept = opened(checkpoint(kind, tied=False)), tmp_path / "kept"
    before, start = directly(session), session.text_loss(TEXTS, 10**6, keep=kept)
    with scaled_head(session):
        after, end = directly(session), session.text_loss(TEXTS, 10**6, against=kept)
    for measured, expected in ((start, before), (end, after)):
        losses = torch.cat([-logs.gather(1, ids[:, None])[:, 0] for logs, ids in expected])
        assert measured.loss == pytest.approx(float(losses.mean()), abs=1e-5)
        assert measured.tokens == measured.places == len(losses)
    divergences = [(p.exp() * (p - q)).sum(dim=1) for (p, _), (q, _) in zip(before, after, strict=True)]
    assert float(torch.cat(divergences).mean()) > 0.01, "the change shows"
    assert end.divergence == pytest.approx(float(torch.cat(divergences).mean()), abs=1e-5)
    assert start.divergence is None


def test_some_places_are_spread_evenly_over_all_texts(checkpoint: Make, tmp_path: Path) -> None:
    session, kept = opened(checkpoint(tied=False)), tmp_path / "kept"
    before, _ = torch.cat([logs for logs, _ in directly(session)]), session.text_loss(TEXTS, 7, keep=kept)
    with scaled_head(session):
        after, end = torch.cat([logs for logs, _ in directly(session)]), session.text_loss(TEXTS, 7, against=kept)
    places = [i * len(before) // 7 for i in range(7)]
    expected = (before[places].exp() * (before[places] - after[places])).sum(dim=1).mean()
    assert end.divergence == pytest.approx(float(expected), abs=1e-5)
    assert (end.places, kept.stat().st_size) == (7, 7 * before.shape[1] * 4)


@pytest.mark.parametrize("tune", ["full", "lora", "prefix", "prompt"])
def test_nothing_has_changed_before_training(checkpoint: Make, tmp_path: Path, tune: str) -> None:
    session, kept = opened(checkpoint(), tune), tmp_path / "kept"
    start = session.text_loss(TEXTS, 20, keep=kept)
    end = session.text_loss(TEXTS, 20, against=kept)
    assert (end.loss, end.divergence) == (start.loss, 0.0)


def test_a_file_that_ends_too_early_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    session, kept = opened(checkpoint()), tmp_path / "kept"
    session.text_loss(TEXTS, 20, keep=kept)
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(ZoplatError, match="is damaged"):
        session.text_loss(TEXTS, 20, against=kept)


class Impatient(Callback):
    """Interrupts after the second step."""

    def stepped(self, progress: Any, loss: float | None) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt


def test_a_torn_run_has_the_numbers_of_a_whole_one(checkpoint: Make, tmp_path: Path) -> None:
    config = resolve({**SHORT, "model": str(checkpoint()), "steps": 4})
    whole = train(config, tmp_path / "whole").summary
    with pytest.raises(Interrupted):
        train(config, tmp_path / "torn", callback=Impatient())
    assert (tmp_path / "torn" / "general.f32").exists()
    resumed = train(config, tmp_path / "torn", resume=True).summary
    assert [getattr(resumed, name) for name in GENERAL] == [getattr(whole, name) for name in GENERAL]
    assert whole.general_kl is not None
    assert whole.general_kl > 0
    assert whole.general_text == general.digest()
    assert not list(tmp_path.glob("*/general.f32")), "it is of no use after the run"
    without = resolve({**SHORT, "model": str(checkpoint()), "steps": 4, "forgetting": None})
    plain = train(without, tmp_path / "without").summary
    assert plain.weights_digest == whole.weights_digest, "measuring changes no step"
    assert [getattr(plain, name) for name in GENERAL] == [None] * len(GENERAL)
    assert "forgetting" not in (tmp_path / "without" / "config.toml").read_text()


@pytest.mark.parametrize(("kind", "head"), [("bert", "masked"), ("t5", "seq2seq"), ("llama", "classifier")])
def test_other_heads_are_refused_before_anything_is_written(
    checkpoint: Make, tmp_path: Path, kind: str, head: str
) -> None:
    with pytest.raises(ZoplatError, match=f"is {head}. Leave it out"):
        zoplat.run(**SHORT, model=str(checkpoint(kind)), head=head, steps=2, out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()
    with pytest.raises(ZoplatError, match="only a causal one"):
        opened(checkpoint(kind), head=head).text_loss(TEXTS, 20)


def test_a_device_that_can_not_is_refused() -> None:
    with pytest.raises(ZoplatError, match="'reference' does not give"):
        zoplat.run(**{**SHORT, "device": "reference"}, steps=2)


def test_the_text_is_many_paragraphs_of_prose() -> None:
    texts = general.texts()
    assert len(texts) == 30
    assert 12_000 < sum(map(len, texts)) < 20_000
    assert len({*texts}) == len(texts)

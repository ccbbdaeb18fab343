"""`zoplat.torch.ModuleDevice`: modules of PyTorch that are no language models keep what every device promises."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from zoplat import Example, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat.testing.devices import DeviceContract
from zoplat.torch import ModuleDevice

WORDS = 64


class Net(torch.nn.Module):
    """A bag of words, through layers that a LoRA finds by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WORDS, 12)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(12, 12) for _ in range(2)])
        self.last = torch.nn.Linear(12, 2)

    def forward(self, bags: Any) -> Any:
        hidden = torch.tanh(self.first(bags))
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        return self.last(hidden)


@dataclass(frozen=True)
class Bags(ModuleDevice):
    """A bag of words.

    Attributes:
        extra: options too many that are scored.
    """

    extra: int = 0

    def build(self, spec: ModelSpec) -> Any:
        return Net()

    def read(self, example: Example) -> Any:
        bag = torch.zeros(WORDS)
        for word in example.prompt.split():
            bag[zlib.crc32(word.encode()) % WORDS] += 1
        return bag

    def scores(self, model: Any, inputs: Sequence[Any]) -> Any:
        scores = model(torch.stack([*inputs]).to(model.last.weight))
        return torch.nn.functional.pad(scores, (0, self.extra))


class TestContract(DeviceContract):
    """All that every device promises, derivatives too."""

    device = Bags()


@dataclass(frozen=True)
class Numbers(Bags):
    """Reads lists of numbers, and no English.

    Attributes:
        tried: whether it gives rows.
    """

    tried: bool = True

    def build(self, spec: ModelSpec) -> Any:
        net = Net()
        net.last = torch.nn.Linear(12, spec.classes)
        return net

    def read(self, example: Example) -> Any:
        if set(example.prompt) - set("0123456789 "):
            raise ZoplatError("These are no numbers.")
        return super().read(example)

    def trial_examples(self) -> Sequence[Example]:
        return [Example(f"{k} {k + 1} 7", ("low", "middle", "high"), k) for k in range(3)] if self.tried else ()


class TestContractWithoutText(DeviceContract):
    """The same on rows that the device gives."""

    device = Numbers()


def test_a_device_that_reads_no_english_and_gives_no_rows_fails_with_what_to_do() -> None:
    contract = TestContractWithoutText()
    contract.device = Numbers(tried=False)
    with pytest.raises(AssertionError, match=r"are no numbers\. Let its `trial_examples` give some rows"):
        contract.test_a_probe_is_taken_back()


def opened(device: ModuleDevice | None = None, tune: Tuning | None = None, **more: Any) -> Any:
    return (device or Bags()).open(ModelSpec(more.pop("model", None), tune or Tuning(), "auto", 0, **more))


def test_it_is_used_only_when_it_is_named_and_says_what_it_is() -> None:
    assert Bags().priority is None
    assert Bags().summary == "A bag of words"


def test_an_adapter_is_trained_beside_frozen_weights() -> None:
    session = opened(tune=Tuning("lora", rank=2, targets=r"\d"))
    assert [block.name for block in session.space.blocks][:2] == ["blocks.0.lora_A.weight", "blocks.0.lora_B.weight"]
    assert session.space.size == 2 * 2 * (12 * 2)
    rows = session.encode([Example("a b", ("x", "y"), 1)])
    before = session.forward(rows)
    session.space.blocks[1].array[:] += 1.0
    assert session.forward(rows) != before


def test_what_is_exported_is_loaded_by_torch(tmp_path: Path) -> None:
    from safetensors.torch import load_model

    session, other = opened(), Net()
    session.export(tmp_path / "model")
    load_model(other, tmp_path / "model" / "model.safetensors")
    assert other.last.weight.equal(session.model.last.weight)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": Bags(strategy="batched")}, "one point after the other"),
        ({"tune": Tuning("prefix")}, "is for language models"),
        ({"model": "opt"}, "has a model of its own"),
        ({"base": "int8"}, "does not store weights as int8"),
    ],
)
def test_what_it_can_not_do_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoplatError, match=words):
        opened(**given)


def test_scores_of_another_shape_than_the_options_are_an_error() -> None:
    session = opened(Bags(extra=1))
    with pytest.raises(ZoplatError, match=r"`scores` of device Bags gave a tensor of \(1, 3\) for 1 rows of 2 options"):
        session.forward(session.encode([Example("a", ("x", "y"), 0)]))


def test_a_loss_of_tokens_is_refused() -> None:
    with pytest.raises(ZoplatError, match="has no tokens"):
        opened().encode([Example("a", ("x", "y"), 0, loss="tokens")])

"""A model on two cards, which are stand-ins: runs end in the weights of one processor, whatever is trained and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import zoplat
from zoplat.errors import ZoplatError

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from zoplat_devices.pytorch import backends  # noqa: E402
from zoplat_devices.pytorch.device import PyTorch  # noqa: E402
from zoplat_devices.pytorch.session import PyTorchSession  # noqa: E402

from tests.devices.cards import cards  # noqa: E402

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
        monkeypatch.setattr(backends, "kernels_for", lambda kind: for_cpu("cpu"))
        return cards(monkeypatch)

    return enter


def digest(folder: Path, place: Any, device: PyTorch, **settings: Any) -> str:
    with place:
        result = zoplat.run(out=folder, device=device, progress=False, **{**TOY, **settings})
    return str(result.summary.weights_digest)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_two_cards_ends_in_the_weights_of_one_place(
    method: str,
    tmp_path: Path,
    checkpoint: Callable[..., Path],
    on_cards: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PyTorchSession, "strategy_for", lambda *_: "sequential")  # one place has side terms, which round otherwise
    settings = {"estimator": method, "model": checkpoint(), **METHODS[method]}
    alone = digest(tmp_path / "one", nullcontext(), PyTorch("cpu"), **settings)
    spread = digest(tmp_path / "two", on_cards(), PyTorch("cuda", map=json.dumps(MAP)), **settings)
    assert spread == alone

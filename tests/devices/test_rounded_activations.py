"""Device onnx with activations=int8: a second graph on the same weights; slopes must agree with the exact ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.onnx import agreement
from zoplat_devices.onnx.device import OnnxRuntime
from zoplat_devices.onnx.graph import GRAPH, ROUNDING, Graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # a graph is made
ROUNDS = OnnxRuntime(threads=1, activations="int8")


@pytest.fixture(scope="module")
def spec(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small Llama with a base of integers; its graph is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOPLAT_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield ModelSpec(str(checkpoint("llama", words=False)), Tuning("lora"), "float32", 0, base="int8")


def test_losses_are_near_the_exact_ones_and_slopes_agree(spec: ModelSpec) -> None:
    exact, rounded = replace(ROUNDS, activations="float32").open(spec), ROUNDS.open(spec)
    rows = exact.encode(agreement.EXAMPLES)
    assert 0 < abs(exact.forward(rows) - rounded.forward(rows)) < 0.05
    assert rounded.facts["activations"] == "int8"
    assert rounded.facts["parity"]["slopes_agree"] > agreement.LEAST
    assert "slopes_agree" not in exact.facts["parity"]


def test_the_second_graph_is_small_and_reads_the_weights_of_the_first(spec: ModelSpec) -> None:
    folder = ROUNDS.open(spec).folder
    assert (folder / ROUNDING).stat().st_size < 1.2 * (folder / GRAPH).stat().st_size
    assert [path.name for path in folder.glob("*.data")] == [f"{GRAPH}.data"]


def test_directions_are_the_same_for_both_graphs_and_differences_are_those_of_two_passes(spec: ModelSpec) -> None:
    session = replace(ROUNDS, activations="float32").open(spec)
    rows = session.encode(agreement.EXAMPLES)
    found = agreement.differences(session.graph, rows, session.weights)
    assert found == agreement.differences(session.graph, rows, session.weights)
    random = np.random.default_rng(0)
    start = {name: array.copy() for name, array in session.weights.items()}
    z = {name: random.standard_normal(array.shape, np.float32) for name, array in start.items()}
    losses = []
    for sign in (1, -1):
        for name, array in session.weights.items():
            array[...] = start[name] + sign * np.float32(agreement.EPS) * z[name]
        losses.append(session.forward(rows))
    assert found[0] == pytest.approx(losses[0] - losses[1], abs=1e-5)


def test_a_model_whose_slopes_are_lost_is_refused(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1)
    plain = Graph.losses

    def disturbed(graph: Graph, rows: Any, points: Any) -> list[float]:
        return [loss + float(noise.normal()) for loss in plain(graph, rows, points)]

    session = replace(ROUNDS, activations="float32").open(spec)
    exact = agreement.differences(session.graph, session.encode(agreement.EXAMPLES), session.weights)
    monkeypatch.setattr(Graph, "losses", disturbed)
    rounded = agreement.differences(session.graph, session.encode(agreement.EXAMPLES), session.weights)
    with pytest.raises(ZoplatError, match=r"activations=int8: rounding the activations of .*at least 0\.9 is needed"):
        agreement.check(exact, rounded, "a model")


def test_a_base_of_floats_has_nothing_to_round(spec: ModelSpec) -> None:
    with pytest.raises(ZoplatError, match="add --base int8"):
        ROUNDS.open(replace(spec, base="plain"))


def test_without_what_makes_graphs_a_missing_second_one_is_explained(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ROUNDS.open(spec).folder
    (folder / ROUNDING).unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ZoplatError, match=r"pack the bundle again with -o device\.activations=int8"):
        ROUNDS.open(spec)

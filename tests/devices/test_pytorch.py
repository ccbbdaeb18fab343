"""The PyTorch device on models of a few kilobytes: scores, precision, restore, tuning, and side effects of a step."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from zoplat import ZERO, Example, Key, ModelSpec, Session
from zoplat.cli import main
from zoplat.core.model_spec import Tuning
from zoplat.evaluation.predictions import predict
from zoplat_devices.kernels import native
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.text.encoding import Encoder
from zoplat_plugins.gaussian import Gaussian
from zoplat_plugins.lozo import LowRank

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
PLACES = 64
OPTIONS = (" terrible", " great")
EXAMPLES = [
    Example(prompt, OPTIONS, label)
    for prompt, label in (
        ("the film was great . It was", 1),
        ("terrible food , It was", 0),
        ("the plot was boring and the actor was poor and we would go again . It was", 0),
        ("nice day . It was", 1),
        ("It was", 1),
    )
]
LONG = Example(" ".join(["the film was great and the food was nice ."] * 9) + " It was", OPTIONS, 1)


def opened(folder: Path, tune: str = "full", dtype: str = "float32", **device: Any) -> Any:
    return PyTorch(**device).open(ModelSpec(str(folder), Tuning(tune), dtype, 0))


def plain_scores(folder: Path, example: Example, model: Any = None) -> list[float]:
    """Mean log-probability of each option's tokens: one unpadded sequence at a time, straight from transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = (model or AutoModelForCausalLM.from_pretrained(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = []
    for option in example.options:
        text = example.prompt + option
        encoded = tokenizer(text, return_offsets_mapping=True)
        ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
        count = sum(end > len(example.prompt) for end in ends)
        if len(ids) - 1 > PLACES:
            ids = [ids[0], *ids[-PLACES:]]
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0].float()
        logs = torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        scores.append(float(logs[-count:].mean()))
    return scores


class TestScores:
    """Against transformers with one unpadded sequence for each option."""

    @pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
    @pytest.mark.parametrize("words", [True, False], ids=["options of one token", "options of many tokens"])
    def test_scores_are_those_of_plain_transformers(self, checkpoint: Make, kind: str, words: bool) -> None:
        folder = checkpoint(kind, words)
        session = opened(folder)
        rows = session.encode(EXAMPLES)
        assert all(row.tokens.is_shared == words for row in rows)
        assert len({row.length for row in rows}) > 2
        expected = [plain_scores(folder, example) for example in EXAMPLES]
        np.testing.assert_allclose(session.scorer.scores(rows), expected, atol=1e-5)
        for row, own in zip(rows, expected, strict=True):
            np.testing.assert_allclose(session.scorer.scores([row]), [own], atol=1e-5)
        assert predict(session, rows) == [
            e.options[int(np.argmax(own))].strip() for e, own in zip(EXAMPLES, expected, strict=True)
        ]

    @pytest.mark.parametrize("kind", ["llama", "opt"])
    def test_scores_of_an_untied_head_are_those_of_plain_transformers(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind, words=False, tied=False)
        session = opened(folder)
        expected = [plain_scores(folder, example) for example in EXAMPLES]
        np.testing.assert_allclose(session.scorer.scores(session.encode(EXAMPLES)), expected, atol=1e-5)
        assert {"lm_head.weight"} <= {block.name for block in session.space.blocks}

    def test_options_of_different_lengths_are_averaged_over_their_own_tokens(self, checkpoint: Make) -> None:
        folder = checkpoint(words=False)
        example = Example("the film was", (" a", " wonderful plot", " poor"), 1)
        session = opened(folder)
        [row] = session.encode([example])
        assert len({len(target) for target in row.tokens.targets}) > 1
        found = session.scorer.scores([row])
        np.testing.assert_allclose(found, [plain_scores(folder, example)], atol=1e-5)

    def test_the_loss_is_the_mean_cross_entropy_of_the_scores(self, checkpoint: Make) -> None:
        session = opened(checkpoint())
        scores = np.array([plain_scores(checkpoint(), example) for example in EXAMPLES])
        labels = [example.label for example in EXAMPLES]
        expected = np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels])
        assert session.forward(session.encode(EXAMPLES)) == pytest.approx(expected, abs=1e-5)

    def test_an_option_begins_where_its_first_character_does(self) -> None:
        """Also where a token reaches over the end of the prompt: the prompt alone has other tokens."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        pieces = ["<s>", "a", "b", " ", "c", "b ", "b c"]
        model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [("b", " "), ("b ", "c")])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), bos_token="<s>")
        encoder = Encoder(tokenizer, 100)
        [row] = encoder.encode([Example("aab", (" ca", " ba"), 0)])
        spelled = [[pieces[token] for token in target] for target in row.tokens.targets]
        assert spelled == [["b c", "a"], ["b ", "b", "a"]]
        assert [[pieces[token] for token in ids] for ids in row.tokens.inputs] == [
            ["a", "a", "b c"],
            ["a", "a", "b ", "b"],
        ]

    @pytest.mark.parametrize("words", [True, False])
    def test_a_long_prompt_is_cut_after_its_first_special_token(self, checkpoint: Make, words: bool) -> None:
        folder = checkpoint(words=words)
        session = opened(folder)
        [row] = session.encode([LONG])
        assert row.length == PLACES
        assert all(ids[0] == 0 and len(ids) == PLACES for ids in row.tokens.inputs)
        scores = session.scorer.scores(session.encode([LONG, *EXAMPLES]))
        np.testing.assert_allclose(scores[0], plain_scores(folder, LONG), atol=1e-5)

    @pytest.mark.parametrize("words", [True, False])
    def test_logits_at_the_last_positions_alone_give_the_same_scores(self, checkpoint: Make, words: bool) -> None:
        session = opened(checkpoint(words=words))
        rows = session.encode(EXAMPLES)
        assert "logits_to_keep" in session.scorer.builder.accepts
        few = session.scorer.scores(rows)
        session.scorer.builder.accepts.discard("logits_to_keep")
        whole = session.scorer.scores(session.encode(EXAMPLES))
        np.testing.assert_allclose(few, whole, atol=1e-6)

    def test_an_option_without_a_token_is_refused_by_name(self, checkpoint: Make) -> None:
        from zoplat import ZoplatError

        with pytest.raises(ZoplatError, match="No token of its own for an option"):
            opened(checkpoint()).encode([Example("It was", ("", " great"), 0)])


class TestOneStep:
    """One step changes the trained weights by its update, and nothing else."""

    def test_tied_weights_are_one_block_and_are_perturbed_once(self, checkpoint: Make) -> None:
        session = opened(checkpoint("llama", tied=True))
        model = session.model
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        names = [block.name for block in session.space.blocks]
        assert "model.embed_tokens.weight" in names
        assert "lm_head.weight" not in names
        before = model.lm_head.weight.detach().clone()
        z = 0.125 * session.space.draw(Gaussian(), Key(1, 0, 0))
        session.space.at(z)
        block = next(block for block in session.space.blocks if block.name == "model.embed_tokens.weight")
        [tile] = block.tiles()
        expected = before + session.space.entries(z, tile)
        assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
        assert torch.equal(model.lm_head.weight.detach(), expected)

    @pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
    @pytest.mark.parametrize("restore", ["in-place", "exact"])
    def test_a_step_does_not_change_modes_gradients_and_global_random_states(
        self, checkpoint: Make, kind: str, restore: str
    ) -> None:
        session = opened(checkpoint(kind), restore=restore)
        rows = session.encode(EXAMPLES)
        states = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
        modes = [module.training for module in session.model.modules()]
        wanted = [p.requires_grad for p in session.model.parameters()]
        first = step(session, rows)
        assert not any(modes)
        assert [module.training for module in session.model.modules()] == modes
        assert [p.requires_grad for p in session.model.parameters()] == wanted
        assert all(p.grad is None for p in session.model.parameters())
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (random.getstate(), str(np.random.get_state())) == states[1:]
        again = opened(checkpoint(kind), restore=restore)
        torch.manual_seed(99)
        assert step(again, again.encode(EXAMPLES)) == first, "dropout, or a global stream, was at work"

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_losses_are_float32_in_every_precision(self, checkpoint: Make, dtype: str) -> None:
        session = opened(checkpoint(), dtype=dtype)
        rows = session.encode(EXAMPLES)
        assert session.scorer.mean_loss(rows).dtype == torch.float32
        assert isinstance(session.forward(rows), float)
        assert {str(p.dtype) for p in session.model.parameters()} == {f"torch.{dtype}"}
        full = opened(checkpoint())
        assert session.forward(rows) == pytest.approx(full.forward(full.encode(EXAMPLES)), rel=0.05)

    @pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_exact_restore_changes_no_bit_and_has_the_losses_of_in_place(
        self, checkpoint: Make, kind: str, dtype: str
    ) -> None:
        exact, moved = (opened(checkpoint(kind), dtype=dtype, restore=r) for r in ("exact", "in-place"))
        rows, same = exact.encode(EXAMPLES), moved.encode(EXAMPLES)
        start = exact.digest()
        for draw in range(4):
            z = 1e-2 * exact.space.draw(LowRank() if draw % 2 else Gaussian(), Key(2, 0, draw))
            for direction in (z, -z, ZERO):
                exact.space.at(direction)
                moved.space.at(direction)
                assert exact.digest() == start
                tolerance = 1e-5 if dtype == "float32" else 0.05  # weights of 8 bits, rounded at each perturbation
                assert exact.forward(rows) == pytest.approx(moved.forward(same), abs=tolerance)
        exact.space.settle()
        assert exact.digest() == start
        assert exact.space.drift == 0.0

    def test_exact_restore_has_exactly_the_losses_of_fresh_in_place_probes(self, checkpoint: Make) -> None:
        exact = opened(checkpoint(), restore="exact")
        for draw in range(3):
            moved = opened(checkpoint(), restore="in-place")
            z = 1e-2 * exact.space.draw(Gaussian(), Key(2, 0, draw))
            exact.space.at(z)
            moved.space.at(z)
            assert exact.forward(exact.encode(EXAMPLES)) == moved.forward(moved.encode(EXAMPLES))


def step(session: Session, rows: Any) -> list[float]:
    """One central difference and its update, as in a training step."""
    from zoplat import Oracle
    from zoplat.core.losses import LossBackend
    from zoplat_plugins.mezo import MeZO

    class SessionLosses(LossBackend):
        def forward(self) -> float:
            return session.forward(rows)

    estimator = MeZO(eps=1e-2)
    oracle = Oracle(session.space, Key(4, 0, -1), 0.0, SessionLosses())
    for estimate in estimator.estimate(oracle, None):
        session.space.add(-1e-3 * estimate.direction)
    session.space.settle()
    return oracle.answers


class TestRuns:
    """Whole runs through the command line."""

    def run(self, folder: Path, *more: Any) -> dict[str, Any]:
        arguments = ["--model", folder, "--steps", 6, "--limit", 8, "--batch-size", 4, "--evaluate-every", 3]
        arguments += ["--device", "cpu", "--eps", 1e-2, *more]
        done = CliRunner().invoke(main, ["run", *map(str, arguments), "--quiet", "--json"])
        assert done.exit_code == 0, (done.stderr, done.exception)
        return dict(json.loads(done.stdout))

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_a_run_in_every_precision_can_be_replayed(self, checkpoint: Make, dtype: str) -> None:
        summary = self.run(checkpoint(words=False), "--dtype", dtype, "--lr", 1e-3)
        assert (summary["device"], summary["dtype"], summary["steps"]) == ("cpu", dtype, 6)
        assert summary["restore"] == ("in-place" if dtype == "float32" else "exact")
        assert summary["weights_digest"] != summary["start_digest"]
        assert self.replayed(summary) == summary["weights_digest"]

    def test_first_scores_are_cached_for_the_next_run_of_the_same_model(self, checkpoint: Make) -> None:
        first, second = self.run(checkpoint(), "--seed", 0), self.run(checkpoint(), "--seed", 0, "--lr", 1e-3)
        assert (first["dev_before"], first["test_before"]) == (second["dev_before"], second["test_before"])
        metrics = [json.loads(line) for line in Path(second["run_dir"], "metrics.jsonl").read_text().splitlines()]
        assert [record["kept"] for record in metrics if record["step"] == 0] == [True, True]
        assert second["evaluation_passes"] == first["evaluation_passes"] - 4

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_drift_is_zero_with_exact_restore_and_of_rounding_size_in_place(self, checkpoint: Make, dtype: str) -> None:
        common = ("--lr", 0, "--dtype", dtype, "-o", "device.strategy=sequential", "-o")
        exact = self.run(checkpoint(), *common, "device.restore=exact")
        assert exact["drift"] == 0.0
        assert exact["weights_digest"] == exact["start_digest"]
        in_factors = self.run(checkpoint(), *common, "device.restore=in-place", "--estimator", "lozo")
        assert in_factors["drift"] == 0.0, "side terms write no weight"
        moved = self.run(checkpoint(), *common, "device.restore=in-place", "--estimator", "mezo")
        assert 0 < moved["drift"] < (1e-6 if dtype == "float32" else 0.05)
        assert moved["weights_digest"] != moved["start_digest"]

    @pytest.mark.parametrize(
        "more",
        [
            ("--estimator", "mezo", "--sampler", "rademacher", "--lr", 1e-3, "--dtype", "bfloat16"),
            ("--estimator", "lozo", "--lr", 1e-3, "-o", "rule.decay=0.1"),
            *(
                pytest.param(("--lr", 1e-3, *more), marks=pytest.mark.slow)
                for more in [
                    ("--estimator", "mezo"),
                    ("--estimator", "mezo", "--sampler", "uniform", "--dtype", "float16"),
                    ("--estimator", "mezo", "--sampler", "sphere", "-o", "rule.decay=0.1"),
                    ("--estimator", "lozo", "--dtype", "bfloat16", "--tune", "lora"),
                ]
            ),
        ],
        ids=lambda more: " ".join(map(str, more)),
    )
    def test_without_a_compiler_numpy_makes_the_same_bits(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch, more: tuple[Any, ...]
    ) -> None:
        """The forward passes are torch's either way, so the answers must agree as well."""
        if native.library() is None:
            pytest.skip("no compiler here")
        compiled = self.run(checkpoint(), *more, "--queries", 2)
        monkeypatch.setattr(native, "library", lambda: None)
        plain = self.run(checkpoint(), *more, "--queries", 2)
        environments = [json.loads(Path(s["run_dir"], "environment.json").read_text()) for s in (compiled, plain)]
        assert [e["kernels"] for e in environments] == ["NativeKernels", "TorchNoise"]
        assert plain["weights_digest"] == compiled["weights_digest"]
        assert self.replayed(compiled) == compiled["weights_digest"]

    def test_the_environment_variable_switches_the_kernels_off(self) -> None:
        code = "from zoplat_devices.kernels.native import library; assert library() is None"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "ZOPLAT_KERNELS": "numpy"}, check=True)

    def replayed(self, summary: dict[str, Any], *more: Any) -> str:
        done = CliRunner().invoke(main, ["replay", summary["run_dir"], *map(str, more), "--json"])
        assert done.exit_code == 0, (done.stderr, done.exception)
        return str(json.loads(done.stdout)["weights_digest"])

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("kind", ["llama", "opt"])
    def test_replayed_weights_load_in_plain_transformers(self, checkpoint: Make, kind: str, tied: bool) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        summary = self.run(checkpoint(kind, words=False, tied=tied), "--tune", "full", "--lr", 1e-3)
        assert self.replayed(summary, "--to", "there") == summary["weights_digest"]
        assert list(Path("there").glob("*.safetensors"))
        model = AutoModelForCausalLM.from_pretrained("there")
        assert digest(parameter for _, parameter in model.named_parameters()) == summary["weights_digest"]
        assert AutoTokenizer.from_pretrained("there")("It was")["input_ids"]
        found = opened(Path("there")).scorer
        again = opened(Path("there"))
        expected = [plain_scores(Path("there"), example, model) for example in EXAMPLES]
        np.testing.assert_allclose(found.scores(again.encode(EXAMPLES)), expected, atol=1e-5)

    def test_replayed_adapters_load_in_peft_onto_the_frozen_base(self, checkpoint: Make) -> None:
        peft = pytest.importorskip("peft")
        from transformers import AutoModelForCausalLM

        folder = checkpoint(words=False)
        summary = self.run(folder, "--tune", "lora", "--dtype", "float32", "--lr", 1e-2, "-o", "tune.rank=3")
        assert summary["tune"] == "lora"
        assert summary["trainable_parameters"] == 2 * 3 * ((16 + 16) + (16 + 8))  # q and v of two layers
        self.replayed(summary, "--to", "adapter")
        base = AutoModelForCausalLM.from_pretrained(folder)
        frozen = digest(base.parameters())
        model = peft.PeftModel.from_pretrained(base, "adapter")
        adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
        assert digest(adapters) == summary["weights_digest"]
        assert digest(AutoModelForCausalLM.from_pretrained(folder).parameters()) == frozen

    def test_a_regular_expression_trains_what_it_finds_and_nothing_else(self, checkpoint: Make) -> None:
        from transformers import AutoModelForCausalLM

        folder = checkpoint("opt", words=False)
        summary = self.run(folder, "--tune", r"layers\.1.*(q_proj|k_proj)", "--lr", 1e-2)
        assert summary["trainable_parameters"] == 2 * (16 * 16 + 16)
        self.replayed(summary, "--to", "there")
        start, end = (dict(AutoModelForCausalLM.from_pretrained(f).named_parameters()) for f in (folder, "there"))
        changed = {name for name in start if not torch.equal(start[name], end[name])}
        assert {name.split("layers.")[1] for name in changed} == {
            f"1.self_attn.{which}.{kind}" for which in ("q_proj", "k_proj") for kind in ("weight", "bias")
        }

    def test_a_tuning_that_finds_nothing_is_an_error(self, checkpoint: Make) -> None:
        for tune, words in (("nothing", "finds no parameter"), ("(", "not full, lora or a regular expression")):
            arguments = ["run", "--device", "cpu", "--model", str(checkpoint()), "--tune", tune]
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 2
            assert words in done.stderr
        arguments = ["run", "--device", "cpu", "--model", str(checkpoint()), "--tune", "lora"]
        done = CliRunner().invoke(main, [*arguments, "-o", "tune.targets=nothing"])
        assert (done.exit_code, "peft can't place adapters" in done.stderr) == (2, True)

    def test_adapters_are_initialised_from_the_seed_of_the_run(self, checkpoint: Make) -> None:
        starts = [self.run(checkpoint(), "--tune", "lora", "--seed", seed)["start_digest"] for seed in (0, 0, 1)]
        assert starts[0] == starts[1] != starts[2]

    def test_a_killed_run_is_resumed_to_the_same_bits(self, checkpoint: Make) -> None:
        arguments = ("--lr", 1e-3, "--dtype", "bfloat16")
        whole = self.run(checkpoint(), *arguments, "--out", "whole")
        self.run(checkpoint(), *arguments, "--out", "torn")
        journal = Path("torn/journal.jsonl")
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
        Path("torn/summary.json").unlink()
        torn = self.run(checkpoint(), *arguments, "--out", "torn", "--resume")
        assert torn["weights_digest"] == whole["weights_digest"]
        assert journal.read_bytes() == Path("whole/journal.jsonl").read_bytes()

    def test_memory_and_parameters_are_in_the_ledger(self, checkpoint: Make) -> None:
        summary = self.run(checkpoint(), "--lr", 1e-3)
        weights = 4 * summary["trainable_parameters"]
        assert weights <= summary["model_bytes"] < 1.01 * weights  # plus a table of positions
        rows = [json.loads(line) for line in Path(summary["run_dir"], "memory.jsonl").read_text().splitlines()]
        owners = {row["owner"]: row["bytes"] for row in rows if row["kind"] == "owner"}
        assert owners["trainable weights"] == weights
        assert owners["trainable weights"] + owners["frozen weights"] == summary["model_bytes"]
        assert {row["phase"] for row in rows if row["kind"] == "phase"} >= {"open", "inference", "forward", "move"}


def digest(parameters: Any) -> str:
    """As `weights_digest` is defined: sha256 of the bytes as stored, in order."""
    found = sha256()
    for parameter in parameters:
        found.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256:{found.hexdigest()}"

"""Which weights are trained: how many, no others, and that plain peft and transformers load what is saved."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.core.model_spec import Tuning
from zoplat_devices.pytorch import virtual as virtual_tokens
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.generation import PREFIX_WRITES
from zoplat_devices.pytorch.virtual import TEXT
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")
peft = pytest.importorskip("peft")

Make = Callable[..., Path]
WORDS = (" terrible", " great")
EXAMPLES = [
    Example("the film was great . It was", WORDS, 1, suffix=" ."),
    Example("the plot was boring and the actor was poor . It was", WORDS, 0, suffix=" . nice day"),
    Example("It was", WORDS, 1),
]
AUTO = {"causal": "CausalLM", "masked": "MaskedLM", "seq2seq": "Seq2SeqLM", "classifier": "SequenceClassification"}
OPT, HIDDEN = 2, 16
CASES = [
    ("opt", "auto", "full", 5728),
    ("opt", "auto", "lora", OPT * 2 * 8 * (16 + 16)),
    ("opt", "auto", "dora", OPT * 2 * (8 * (16 + 16) + 16)),
    ("opt", "auto", "ia3", OPT * (16 + 16 + 24)),
    ("opt", "auto", "prefix", 5 * OPT * 2 * 16),
    ("opt", "auto", "prompt", 5 * 16),
    ("opt", "auto", "bitfit", OPT * (4 * 16 + 24 + 16 + 2 * 16) + 16),
    ("opt", "auto", "norms", OPT * 2 * 32 + 32),
    ("opt", "auto", "head", 45 * 16),
    ("opt", "auto", r"layers\.0\.fc1", 24 * 16 + 24),
    ("llama", "auto", "prefix", 5 * 2 * 2 * 8),
    ("llama", "auto", "prompt", 5 * 16),
    ("llama", "auto", "norms", 5 * 16),
    ("qwen3", "auto", "prefix", 5 * 2 * 2 * 2 * 12),
    ("gemma3", "auto", "prefix", 5 * 2 * 2 * 2 * 12),
    ("gpt2", "auto", "prefix", 5 * 2 * 2 * 16),
    ("gpt2", "auto", "lora", 2 * 8 * (16 + 48)),
    ("roberta", "auto", "lora", 2 * 2 * 8 * 64),
    ("roberta", "auto", "prefix", 5 * 2 * 2 * 32),
    ("roberta", "auto", "prompt", 5 * 32),
    ("roberta", "auto", "bitfit", None),
    ("roberta", "auto", "head", None),
    ("bert", "auto", "prefix", 5 * 2 * 2 * 32),
    ("bert", "classifier", "lora", 2 * 2 * 8 * 64 + 32 * 33 + 2 * 33),
    ("bert", "classifier", "prefix", 5 * 2 * 2 * 32 + 32 * 33 + 2 * 33),
    ("bert", "classifier", "bitfit", None),
    ("bert", "classifier", "head", 32 * 33 + 2 * 33),
    ("roberta", "classifier", "lora", 2 * 2 * 8 * 64 + 32 * 33 + 2 * 33),
    ("roberta", "classifier", "prefix", 5 * 2 * 2 * 32 + 32 * 33 + 2 * 33),
    ("roberta", "classifier", "prompt", 5 * 32 + 32 * 33 + 2 * 33),
    ("llama", "classifier", "lora", 2 * 8 * (32 + 24) + 2 * 16),
    ("llama", "classifier", "ia3", 2 * (8 + 8 + 24) + 2 * 16),
    ("llama", "classifier", "prefix", 5 * 2 * 2 * 8 + 2 * 16),
    ("t5", "auto", "lora", 2 * 3 * 2 * 8 * (32 + 24)),
    ("t5", "auto", "dora", 2 * 3 * 2 * (8 * (32 + 24) + 24)),
    ("t5", "auto", "prefix", 5 * 2 * 2 * 24),
    ("t5", "auto", "prompt", 5 * 32),
    ("t5", "auto", "head", None),
    ("t5", "classifier", "bitfit", 32 * 33 + 2 * 33),
]


def opened(folder: Path, tune: Tuning | str, head: Any = "auto", dtype: str = "float32", **device: Any) -> Any:
    tuning = Tuning(tune) if isinstance(tune, str) else tune
    return PyTorch(**device).open(ModelSpec(str(folder), tuning, dtype, 0, head, 2))


def two_steps(session: Any, examples: list[Example]) -> None:
    """Central differences along random directions and updates along them, as an estimator makes them."""
    rows = session.encode(examples)
    for step in range(2):
        z = session.space.draw(Gaussian(), Key(4, step, 0))
        losses = []
        for sign in (1, -1):
            session.space.at(sign * 0.05 * z)
            losses.append(session.forward(rows))
        assert losses[0] != losses[1]
        session.space.add(-0.05 * z)
    session.space.settle()


def parameters_of(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=True)}


def writes_or_skip(kind: str, tune: str) -> None:
    """Skip a test in which a seq2seq model writes with a prefix, where transformers is too old for it."""
    import transformers

    if (kind, tune) == ("t5", "prefix") and tuple(map(int, transformers.__version__.split(".")[:2])) < PREFIX_WRITES:
        pytest.skip(f"transformers {transformers.__version__} is refused")


def plain_scores(base: Path, saved: Path, head: str, virtual: str, example: Example) -> list[float]:
    """By transformers and peft alone: a sequence at a time, without padding."""
    import transformers

    auto, more = getattr(transformers, f"AutoModelFor{AUTO[head]}"), {}
    if head == "classifier":
        more["num_labels"] = 2
    if (saved / "adapter_config.json").exists():
        model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, **more), saved)
    else:
        model = auto.from_pretrained(saved)
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved)
    model.eval()
    given = virtual_tokens.cache_argument(model.get_base_model()) if virtual == "prefix" else ""
    by_hand = head == "classifier" and given == "cache"  # peft 0.21 looks for the argument by its earlier name

    def ask(text: str, **inputs: Any) -> tuple[list[int], Any]:
        ids = tokenizer(text)["input_ids"]
        if by_hand:
            with torch.no_grad():
                return ids, model.base_model(torch.tensor([ids]), **{given: model.get_prompt(1)}).logits[0].float()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), **inputs).logits[0].float()
        return ids, logits if head == "classifier" else torch.log_softmax(logits, -1)

    if head == "classifier":
        return list(ask(example.prompt)[1].tolist())
    if head == "masked":
        ids, logs = ask(example.prompt + tokenizer.mask_token + example.suffix)
        at = ids.index(tokenizer.mask_token_id) + (5 if virtual == "prompt" else 0)
        words = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in example.options]
        return [float(logs[at, word]) for [word] in words]
    scores = []
    for option in example.options:
        if head == "seq2seq":
            own = tokenizer(option.strip(), add_special_tokens=False)["input_ids"]
            _, logs = ask(example.prompt, decoder_input_ids=torch.tensor([[0, *own[:-1]]]))
            scores.append(float(np.mean([float(logs[i, token]) for i, token in enumerate(own)])))
        else:
            ids, logs = ask(example.prompt + option)  # the options are of one token
            scores.append(float(logs[-2, ids[-1]]))
    return scores


@pytest.mark.parametrize(("kind", "head", "tune", "size"), CASES)
class TestTunings:
    def test_trained_weights_are_counted_changed_and_saved(
        self, checkpoint: Make, tmp_path: Path, kind: str, head: str, tune: str, size: int | None
    ) -> None:
        folder = checkpoint(kind, words=True)
        torch.manual_seed(77)
        state = torch.get_rng_state()
        session = opened(folder, tune, head)
        assert torch.equal(torch.get_rng_state(), state)
        names = [name for name, p in session.model.named_parameters() if p.requires_grad]
        if size is None:
            parameters = {id(p): p for n, p in session.model.named_parameters() if _belongs(tune, n, session)}
            size = sum(p.numel() for p in parameters.values())
        assert session.space.size == session.facts["trainable_parameters"] == size
        assert len(session.space.blocks) == len(names) == len({block.name for block in session.space.blocks})
        before = parameters_of(session.model)
        two_steps(session, EXAMPLES)
        after = parameters_of(session.model)
        assert {name for name in before if not torch.equal(before[name], after[name])} == set(names)
        saved = tmp_path / "saved"
        session.export(saved)
        virtual = tune if tune in ("prefix", "prompt") else ""
        examples = EXAMPLES
        if kind == "t5" and head == "auto":  # several tokens, and another number of options
            examples = [*EXAMPLES, replace(EXAMPLES[0], options=(" wonderful", " bad", " poor wonderful"))]
        expected = [plain_scores(folder, saved, session.head, virtual, example) for example in examples]
        rows = session.encode(examples)
        for row, own in zip(rows, expected, strict=True):
            np.testing.assert_allclose(session.scores([row])[0], own, atol=1e-6)
        for scores, own in zip(session.scores(rows), expected, strict=True):
            np.testing.assert_allclose(scores, own, atol=5e-6)


def _belongs(tune: str, name: str, session: Any) -> bool:
    if tune == "head":
        own = {id(p) for p in session.model.get_output_embeddings().parameters()}
        return id(session.model.get_parameter(name)) in own
    return name.endswith("bias") or name.startswith("classifier") or "pooler" in name


class TestStrategies:
    @pytest.mark.parametrize(
        ("kind", "head"), [("opt", "auto"), ("llama", "auto"), ("roberta", "auto"), ("bert", "classifier")]
    )
    @pytest.mark.parametrize("tune", ["lora", "ia3", "prefix", "prompt", "bitfit", "norms", "head"])
    def test_both_strategies_and_both_restores_have_the_same_losses(
        self, checkpoint: Make, kind: str, head: str, tune: str
    ) -> None:
        if (kind, tune) == ("llama", "bitfit"):
            pytest.skip("no biases")
        exact, moved = (
            opened(checkpoint(kind), tune, head, restore=r, strategy="batched") for r in ("exact", "in-place")
        )
        rows, same, start = exact.encode(EXAMPLES), moved.encode(EXAMPLES), exact.digest()
        points = [0.1 * exact.space.draw(Gaussian(), Key(2, 0, draw)) for draw in range(3)]
        found, expected = exact.losses_at(rows, points), []
        for point in points:
            exact.space.at(point)
            moved.space.at(point)
            expected.append(exact.forward(rows))
            assert moved.forward(same) == pytest.approx(expected[-1], abs=1e-5)
        assert exact.digest() == start
        assert found == pytest.approx(expected, abs=1e-5)
        assert max(expected) - min(expected) > 1e-5

    def test_dora_by_the_batched_strategy_is_refused(self, checkpoint: Make) -> None:
        session = opened(checkpoint("opt"), "dora", strategy="batched")
        points = [0.1 * session.space.draw(Gaussian(), Key(2, 0, draw)) for draw in range(2)]
        with pytest.raises(ZoplatError, match=r"Use -o device\.strategy=sequential"):
            session.losses_at(session.encode(EXAMPLES), points)

    @pytest.mark.parametrize("tune", ["prefix", "prompt", "lora", "head"])
    def test_the_gradient_is_the_slope_of_the_loss(self, checkpoint: Make, tune: str) -> None:
        session = opened(checkpoint("llama"), tune)
        rows = session.encode(EXAMPLES)
        loss, gradient = session.gradient(rows, session.space.part(lambda block: True), False)
        z = session.space.draw(Gaussian(), Key(5, 0, 0))
        value, slope = session.jvp(rows, z)
        assert value == pytest.approx(loss, abs=1e-6)
        by_hand = sum(
            float((gradient[tile.block.name][tile.start : tile.stop] * session.space.entries(z, tile)).sum())
            for block in session.space.blocks
            for tile in block.tiles()
        )
        assert slope == pytest.approx(by_hand, rel=1e-3, abs=1e-5)


class TestVirtualTokens:
    @pytest.mark.parametrize("kind", ["opt", "llama", "phi", "qwen3", "gemma2", "gemma3", "gpt2", "mistral"])
    @pytest.mark.parametrize("tune", ["prefix", "prompt"])
    def test_they_are_initialised_as_a_real_text_before_every_prompt(
        self, checkpoint: Make, kind: str, tune: str
    ) -> None:
        from transformers import AutoModelForCausalLM

        folder = checkpoint(kind)
        session = opened(folder, Tuning(tune, tokens=7))
        tokenizer = session.encoder.tokenizer
        text = (tokenizer(TEXT, add_special_tokens=False)["input_ids"] * 7)[:7]
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        expected = []
        for example in EXAMPLES:
            ids = [*text, *tokenizer(example.prompt)["input_ids"]]
            with torch.no_grad():
                logs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
            expected.append([float(logs[tokenizer(o)["input_ids"][-1]]) for o in example.options])
        np.testing.assert_allclose(session.scores(session.encode(EXAMPLES)), expected, atol=1e-5)

    @pytest.mark.parametrize("kind", ["llama", "t5"])
    @pytest.mark.parametrize("tune", ["prefix", "prompt"])
    def test_generation_and_features_are_the_same_alone_and_in_a_batch(
        self, checkpoint: Make, kind: str, tune: str
    ) -> None:
        session = opened(checkpoint(kind), tune)
        two_steps(session, EXAMPLES)
        rows = session.encode(EXAMPLES)
        writes_or_skip(kind, tune)
        texts = session.generate(rows, 6, "\n")
        assert texts == [session.generate([row], 6, "\n")[0] for row in rows]
        np.testing.assert_allclose(session.features(rows), [session.features([row])[0] for row in rows], atol=1e-5)

    @pytest.mark.parametrize("tune", ["prefix", "prompt"])
    def test_generation_continues_after_the_virtual_tokens(self, checkpoint: Make, tune: str) -> None:
        """The first word is the one with the best score among all words."""
        session = opened(checkpoint("llama"), tune)
        vocabulary = [word for word in session.encoder.tokenizer.get_vocab() if word not in ("<s>", "</s>", "<unk>")]
        examples = [replace(example, options=tuple(f" {word}" for word in vocabulary)) for example in EXAMPLES]
        best = [vocabulary[int(np.argmax(scores))] for scores in session.scores(session.encode(examples))]
        assert [text.split()[0] for text in session.generate(session.encode(EXAMPLES), 3, "\n")] == best

    @pytest.mark.parametrize("tune", ["prefix", "prompt"])
    def test_a_seq2seq_model_writes_first_what_its_forward_pass_has_first(self, checkpoint: Make, tune: str) -> None:
        session = opened(checkpoint("t5"), Tuning(tune, start="random"))
        writes_or_skip("t5", tune)
        prompts = session.encoder.prompts(session.encode(EXAMPLES), 3)
        firsts = []
        for scale in (1, 20):  # so that the virtual tokens decide
            for block in session.space.blocks:
                block.array.mul_(scale)
            expected = []
            for ids in prompts:
                inputs = session.scorer.builder.padded([ids])
                inputs["decoder_input_ids"] = torch.tensor([[session.encoder.start]])
                with torch.inference_mode():
                    logits = virtual_tokens.run(session.model, inputs).logits
                expected.append(session.encoder.tokenizer.decode([int(logits[0, -1].argmax())]).strip())
            texts = session.generate(session.encode(EXAMPLES), 3, "\n")
            assert [text.startswith(first) for text, first in zip(texts, expected, strict=True)] == [True] * len(texts)
            firsts.append(expected)
        assert firsts[0] != firsts[1]
        assert all(firsts[1])

    def test_a_transformers_that_leaves_the_prefix_out_is_refused(
        self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import transformers

        monkeypatch.setattr(transformers, "__version__", "5.0.0")
        session = opened(checkpoint("t5"), "prefix")
        with pytest.raises(ZoplatError, match=r"--tune prefix: with transformers 5\.0\.0 a seq2seq model may write"):
            session.generate(session.encode(EXAMPLES), 3, "\n")

    @pytest.mark.parametrize("tune", ["prefix", "prompt"])
    def test_random_ones_come_from_the_seed(self, checkpoint: Make, tune: str) -> None:
        tuning = Tuning(tune, start="random")
        specs = [ModelSpec(str(checkpoint("opt")), tuning, "float32", seed) for seed in (0, 0, 1)]
        digests = [PyTorch().open(spec).digest() for spec in specs]
        assert digests[0] == digests[1] != digests[2]
        assert opened(checkpoint("opt"), tune).digest() not in digests

    def test_they_shorten_the_text_that_fits(self, checkpoint: Make) -> None:
        example = Example(" ".join(["the film was great"] * 40), WORDS, 1)
        session = opened(checkpoint("gpt2"), Tuning("prompt", tokens=9))
        [row] = session.encode([example])
        assert row.length == 64 - 9
        assert len(session.scores([row])[0]) == 2


class TestChoices:
    def test_a_model_without_biases_says_so(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="--tune bitfit: LlamaForCausalLM has no biases"):
            opened(checkpoint("llama"), "bitfit")

    @pytest.mark.parametrize(("kind", "count"), [("llama", 5), ("qwen3", 9), ("gemma3", 13), ("t5", 12), ("bert", 6)])
    def test_norms_are_found_by_scale_invariance(self, checkpoint: Make, kind: str, count: int) -> None:
        session = opened(checkpoint(kind), "norms")
        modules = {block.name.rpartition(".")[0] for block in session.space.blocks}
        assert len(modules) == count
        assert all("norm" in name.lower() for name in modules)

    def test_scales_of_chosen_layers(self, checkpoint: Make) -> None:
        session = opened(checkpoint("llama"), Tuning("ia3", targets="o_proj|up_proj"))
        assert session.space.size == 2 * (16 + 24)
        two_steps(session, EXAMPLES)

    def test_a_tied_head_is_one_block(self, checkpoint: Make) -> None:
        session = opened(checkpoint("llama", tied=True), "head")
        assert [block.name for block in session.space.blocks] == ["model.embed_tokens.weight"]
        session = opened(checkpoint("llama", tied=False), "head")
        assert [block.name for block in session.space.blocks] == ["lm_head.weight"]

    @pytest.mark.parametrize("tune", ["full", "fc1"])
    def test_quantised_weights_are_refused(self, checkpoint: Make, monkeypatch: pytest.MonkeyPatch, tune: str) -> None:
        from zoplat_devices.pytorch import models, tuning

        loaded = models.load(str(checkpoint("opt")), torch.float32, lambda text: None)
        layer = loaded.model.model.decoder.layers[1].fc1
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
        spec = ModelSpec(str(checkpoint("opt")), Tuning(tune), "float32", 0)
        with pytest.raises(
            ZoplatError, match=r"selects model\.decoder\.layers\.1\.fc1\.weight, whose values are packed as int8"
        ):
            tuning.tuned(loaded, spec)

    def test_a_classifier_of_an_encoder_and_a_decoder_takes_no_virtual_tokens(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match=r"takes no virtual tokens\. Use --tune lora"):
            opened(checkpoint("t5"), "prefix", "classifier")

    @pytest.mark.parametrize("tune", ["lora", "dora", "ia3", "prefix", "prompt"])
    def test_adapters_are_trained_in_float32_over_a_bfloat16_base(self, checkpoint: Make, tune: str) -> None:
        session = opened(checkpoint("llama"), tune, dtype="bfloat16")
        assert session.facts["trainable_dtype"] == "float32"
        assert session.facts["restore"] == "in-place"
        frozen = {p.dtype for p in session.model.parameters() if not p.requires_grad}
        assert frozen == {torch.bfloat16}
        full = opened(checkpoint("llama"), tune)
        assert session.forward(session.encode(EXAMPLES)) == pytest.approx(full.forward(full.encode(EXAMPLES)), rel=0.05)

    @pytest.mark.parametrize(("kind", "head"), [("bert", "auto"), ("roberta", "auto"), ("bert", "classifier")])
    def test_shared_weights_keep_their_bits_when_bfloat16_is_probed(
        self, checkpoint: Make, kind: str, head: str
    ) -> None:
        session = opened(checkpoint(kind), "full", head, dtype="bfloat16")
        assert session.facts["restore"] == "exact"
        rows, start = session.encode(EXAMPLES), session.digest()
        losses = []
        for draw in range(4):
            session.space.at(0.05 * session.space.draw(Gaussian(), Key(2, 0, draw)))
            losses.append(session.forward(rows))
            assert session.digest() == start
        assert len(set(losses)) == 4

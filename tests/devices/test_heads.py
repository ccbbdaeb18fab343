"""Every head and family of models against plain transformers, one unpadded sequence at a time."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.model_spec import Tuning
from zoplat.evaluation.predictions import predict
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.tasks.metrics import accuracy
from zoplat.training.objective import Objective
from zoplat_devices.pytorch.device import PyTorch
from zoplat_plugins.gaussian import Gaussian

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("place")

Make = Callable[..., Path]
PLACES = 64
WORDS = (" terrible", " great")
CAUSAL = ["llama", "vicuna", "mistral", "phi", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "opt", "gpt2"]
EXAMPLES = [
    Example("the film was great . It was", WORDS, 1, suffix=" ."),
    Example("the plot was boring and the actor was poor . It was", WORDS, 0, suffix=" . nice day"),
    Example("It was", (" wonderful", " bad", " great"), 2),
]
OTHERS = [replace(example, options=WORDS, label=example.label % 2) for example in EXAMPLES]
LONG = " ".join(["the film was great and the food was nice ."] * 12)


def opened(folder: Path, head: Any = "auto", seed: int = 0, classes: int = 2, **device: Any) -> Any:
    spec = ModelSpec(str(folder), Tuning("full"), "float32", seed, head, classes)
    return PyTorch(**device).open(spec)


def plain(folder: Path, kind: str) -> tuple[Any, Any]:
    import transformers

    auto = getattr(transformers, f"AutoModelFor{kind}")
    return auto.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


def logs(logits: Any) -> Any:
    return torch.log_softmax(logits.float(), dim=-1)


def continued(folder: Path, example: Example) -> list[list[float]]:
    """For each option, the log-probabilities of its tokens by a causal model."""
    model, tokenizer = plain(folder, "CausalLM")
    found = []
    for option in example.options:
        encoded = tokenizer(example.prompt + option, return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        own = [i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(example.prompt)]
        with torch.no_grad():
            table = logs(model(ids).logits[0])
        found.append([float(table[i - 1, ids[0, i]]) for i in own])
    return found


def filled_in(folder: Path, example: Example) -> list[float]:
    """For each option, the log-probability of its word at the mask."""
    model, tokenizer = plain(folder, "MaskedLM")
    before = tokenizer(example.prompt)["input_ids"][:-1]
    after = tokenizer(example.suffix)["input_ids"][1:]
    ids = [*before, tokenizer.mask_token_id, *after]
    blank = "Ġ" if "Ġgreat" in tokenizer.get_vocab() else ""
    with torch.no_grad():
        table = logs(model(torch.tensor([ids])).logits[0, len(before)])
    return [float(table[tokenizer.get_vocab()[blank + option.strip()]]) for option in example.options]


def answered(folder: Path, example: Example) -> list[list[float]]:
    """For each option, the log-probabilities of its tokens by the decoder of a seq2seq model."""
    model, tokenizer = plain(folder, "Seq2SeqLM")
    found = []
    for option in example.options:
        labels = torch.tensor([tokenizer(option.strip(), add_special_tokens=False)["input_ids"]])
        with torch.no_grad():  # transformers shifts the labels itself
            table = logs(model(torch.tensor([tokenizer(example.prompt)["input_ids"]]), labels=labels).logits[0])
        found.append([float(table[i, token]) for i, token in enumerate(labels[0])])
    return found


def agree(session: Any, examples: list[Example], expected: list[list[float]], tolerance: float = 1e-5) -> None:
    """Check the scores of one padded batch, and of each row alone."""
    rows = session.encode(examples)
    assert len({row.length for row in rows}) > 1
    for scores, own in zip(session.scores(rows), expected, strict=True):
        np.testing.assert_allclose(scores, own, atol=tolerance)
    for row, own in zip(rows, expected, strict=True):
        np.testing.assert_allclose(session.scores([row])[0], own, atol=tolerance)


def can_be_probed(session: Any, examples: list[Example]) -> None:
    """Check that a perturbation changes the loss, and that restoring θ brings the loss back."""
    rows = session.encode(examples)
    before = session.forward(rows)
    session.space.at(0.05 * session.space.draw(Gaussian(), Key(1, 0, 0)))
    assert abs(session.forward(rows) - before) > 1e-4
    session.space.settle()
    assert session.forward(rows) == pytest.approx(before, abs=1e-5)


class TestFamilies:
    @pytest.mark.parametrize("kind", CAUSAL)
    def test_a_causal_model_scores_as_plain_transformers_does(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind, words=kind not in ("qwen2", "opt"))
        session = opened(folder)
        assert (session.head, session.facts["head"]) == ("causal", "causal")
        each = [continued(folder, example) for example in EXAMPLES]
        agree(session, EXAMPLES, [[float(np.mean(own)) for own in options] for options in each])
        summed = [replace(example, score="sum") for example in EXAMPLES]
        agree(session, summed, [[sum(own) for own in options] for options in each], 5e-5)
        can_be_probed(session, EXAMPLES)

    @pytest.mark.parametrize("kind", ["bert", "roberta"])
    def test_a_masked_model_scores_words_at_the_mask(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind)
        session = opened(folder)
        assert session.head == "masked"
        agree(session, EXAMPLES, [filled_in(folder, example) for example in EXAMPLES])
        can_be_probed(session, EXAMPLES)

    def test_a_seq2seq_model_scores_what_its_decoder_generates(self, checkpoint: Make) -> None:
        folder = checkpoint("t5")
        session = opened(folder)
        assert session.head == "seq2seq"
        each = [answered(folder, example) for example in EXAMPLES]
        assert {len(own) for options in each for own in options} > {1}
        agree(session, EXAMPLES, [[float(np.mean(own)) for own in options] for options in each])
        assert [row.tokens.is_shared for row in session.encode(EXAMPLES)] == [True, True, False]
        can_be_probed(session, EXAMPLES)

    @pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "gemma3", "bert", "roberta", "t5"])
    def test_a_classifier_scores_by_its_logits(self, checkpoint: Make, tmp_path: Path, kind: str) -> None:
        session = opened(checkpoint(kind), "classifier")
        assert session.facts["head"] == "classifier"
        session.export(tmp_path / "saved")
        model, tokenizer = plain(tmp_path / "saved", "SequenceClassification")
        with torch.no_grad():
            each = [model(torch.tensor([tokenizer(e.prompt)["input_ids"]])).logits[0].tolist() for e in OTHERS]
        agree(session, OTHERS, each)
        can_be_probed(session, OTHERS)
        again = opened(tmp_path / "saved")
        assert again.head == "classifier"
        agree(again, OTHERS, each)

    @pytest.mark.parametrize("kind", ["llama", "opt", "roberta", "t5"])
    def test_all_tokens_of_the_right_options_have_one_weight_in_the_loss(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind, words=False)
        session = opened(folder)
        examples = [replace(example, loss="tokens") for example in EXAMPLES]
        rows = session.encode(examples)
        if kind == "roberta":
            right = [[filled_in(folder, example)[example.label]] for example in examples]
        else:
            log_probabilities = answered if kind == "t5" else continued
            right = [log_probabilities(folder, example)[example.label] for example in examples]
        assert [row.weight for row in rows] == [len(own) for own in right]
        expected = -np.mean([log for own in right for log in own])
        assert session.forward(rows) == pytest.approx(expected, abs=1e-5)
        assert session.scorer.sequences(rows) == 3
        assert Objective(micro_batch=1).loss(session, rows) == pytest.approx(expected, abs=1e-5)
        assert [len(scores) for scores in session.scores(rows)] == [2, 2, 3]

    def test_the_loss_over_options_of_different_numbers_is_the_mean_of_their_own(self, checkpoint: Make) -> None:
        folder = checkpoint("llama")
        session = opened(folder)
        rows = session.encode(EXAMPLES)
        losses = []
        for example in EXAMPLES:
            scores = np.array([np.mean(own) for own in continued(folder, example)])
            losses.append(np.log(np.exp(scores).sum()) - scores[example.label])
        assert session.forward(rows) == pytest.approx(np.mean(losses), abs=1e-5)
        loss, gradient = session.gradient(rows, session.space.part(lambda block: True), False)
        assert loss == pytest.approx(np.mean(losses), abs=1e-5)
        assert all(bool(g.isfinite().all()) for g in gradient.values())


class TestTokens:
    @pytest.mark.parametrize("kind", ["llama", "bert", "roberta", "t5"])
    def test_special_tokens_are_the_tokenizers_own_and_come_once(self, checkpoint: Make, kind: str) -> None:
        session = opened(checkpoint(kind))
        opening = {"llama": "<s>", "bert": "[CLS]", "roberta": "<s>"}.get(kind)
        closing = {"bert": "[SEP]", "roberta": "</s>", "t5": "</s>"}.get(kind)
        for row in session.encode(EXAMPLES):
            spelled = session.encoder.tokenizer.convert_ids_to_tokens(row.tokens.inputs[0])
            assert opening is None or (spelled[0], spelled.count(opening)) == (opening, 1)
            assert closing is None or (spelled[-1], spelled.count(closing)) == (closing, 1)

    def test_the_turn_of_a_user_begins_with_one_special_token(self, checkpoint: Make) -> None:
        session = opened(checkpoint("vicuna"))
        [text] = session.chat(["It was"])
        assert text == "<s> USER: It was ASSISTANT:"
        [row] = session.encode([Example(text, WORDS, 1)])
        assert row.tokens.inputs[0].count(0) == 1
        assert row.tokens.inputs[0][0] == 0
        assert session.encoder.prompts([row], 0)[0].count(0) == 1

    @pytest.mark.parametrize("template", ["prompt", "chat"])
    def test_predictions_and_references_are_written_alike(self, checkpoint: Make, template: str) -> None:
        row = {"premise": "the film was bad .", "choice1": "the plot was poor .", "choice2": "the food was good ."}
        row |= {"question": "cause"}
        config = resolve({"task": "copa", "template": template, "model": str(checkpoint("vicuna"))})
        session = opened(checkpoint("vicuna"))
        rows = PromptEncoder(config, session).rows([("one", {**row, "label": 0}), ("two", {**row, "label": 1})])
        predicted = predict(session, rows)
        assert accuracy(predicted, [row.example.right for row in rows]) == 0.5, "one of the two is right"

    def test_a_model_without_a_chat_template_says_so(self, checkpoint: Make) -> None:
        with pytest.raises(ZoplatError, match="has no chat template"):
            opened(checkpoint("llama")).chat(["It was"])

    @pytest.mark.parametrize("kind", ["bert", "roberta"])
    def test_a_long_text_keeps_its_mask_and_its_special_tokens(self, checkpoint: Make, kind: str) -> None:
        session = opened(checkpoint(kind))
        mask = session.encoder.tokenizer.mask_token_id
        short = session.encode([Example("It was", WORDS, 1, suffix=" .")])[0].tokens.inputs[0]
        for prompt, suffix in ((f"{LONG} It was", " ."), ("It was", f" . {LONG}"), (LONG, f" . {LONG}")):
            [row] = session.encode([Example(prompt, WORDS, 1, suffix=suffix)])
            [ids] = row.tokens.inputs
            assert len(ids) == PLACES
            assert (ids[0], ids[-1], ids.count(mask)) == (short[0], short[-1], 1)
            assert ids[row.tokens.mask] == mask
            assert all(np.isfinite(session.scores([row])[0]))
        [row] = session.encode([Example(f"{LONG} It was", WORDS, 1, suffix=" .")])
        assert row.tokens.inputs[0][-len(short) + 2 :] == short[2:]  # the first word has a blank before it here

    @pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
    def test_a_long_text_of_a_classifier_keeps_its_end(self, checkpoint: Make, kind: str) -> None:
        session = opened(checkpoint(kind), "classifier", classes=2)
        session.encoder.limit = 20
        short = session.encode([Example("It was", WORDS, 1)])[0].tokens.inputs[0]
        [ids] = session.encode([Example(f"{LONG} It was", WORDS, 1)])[0].tokens.inputs
        assert len(ids) == 20
        marks = 0 if kind == "t5" else 1
        assert ids[:marks] == short[:marks]
        assert ids[-len(short) + marks :] == short[marks:]

    def test_an_option_of_several_tokens_is_refused_by_name(self, checkpoint: Make) -> None:
        session = opened(checkpoint("roberta"))
        with pytest.raises(ZoplatError, match=r"Option ' great film' is not one token for this model \(Ġgreat Ġfilm\)"):
            session.encode([Example("It was", (" great film", " bad"), 0)])
        with pytest.raises(ZoplatError, match=r"Option ' zebra' is not one token"):
            opened(checkpoint("bert")).encode([Example("It was", (" zebra", " bad"), 0)])

    @pytest.mark.parametrize("head", ["auto", "classifier"])
    def test_a_tokenizer_needs_no_padding_token(self, checkpoint: Make, tmp_path: Path, head: str) -> None:
        import shutil

        folder = tmp_path / "bare"
        shutil.copytree(checkpoint("llama"), folder)
        for name in ("tokenizer_config.json", "config.json"):
            settings = json.loads((folder / name).read_text())
            kept = {key: value for key, value in settings.items() if not key.startswith("pad_token")}
            (folder / name).write_text(json.dumps(kept))
        session = opened(folder, head)
        rows = session.encode(OTHERS)
        alone = [session.scores([row])[0] for row in rows]
        np.testing.assert_allclose(session.scores(rows), alone, atol=1e-5)


class TestOpening:
    def test_a_new_head_comes_from_the_seed_and_nothing_else_is_drawn(self, checkpoint: Make) -> None:
        torch.manual_seed(77)
        state = torch.get_rng_state()
        first, again, other = (opened(checkpoint("bert"), "classifier", seed) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), state)
        assert first.digest() == again.digest() != other.digest()
        backbone = [
            {n: a for n, a in s.arrays().items() if "pooler" not in n and "classifier" not in n} for s in (first, other)
        ]
        assert all(torch.equal(array, backbone[1][name]) for name, array in backbone[0].items())

    def test_checkpoints_that_do_not_fit_are_refused(self, checkpoint: Make, tmp_path: Path) -> None:
        with pytest.raises(ZoplatError, match=r"--head seq2seq: .*'llama'; it can be classifier, causal"):
            opened(checkpoint("llama"), "seq2seq")
        with pytest.raises(ZoplatError, match="has no classes of its own"):
            opened(checkpoint("llama"), "classifier", classes=0)
        opened(checkpoint("bert"), "classifier", classes=3).export(tmp_path / "three")
        with pytest.raises(ZoplatError, match="a classifier of 3 classes; the task has 2"):
            opened(tmp_path / "three")
        with pytest.raises(ZoplatError, match=r"has no cls\.predictions.*which BertForMaskedLM needs"):
            opened(tmp_path / "three", "masked")
        session = opened(tmp_path / "three", classes=0)
        with pytest.raises(ZoplatError, match="has 2 options, the classifier has 3 classes"):
            session.encode(OTHERS)

    def test_masked_models_and_classifiers_do_not_generate(self, checkpoint: Make) -> None:
        session = opened(checkpoint("bert"))
        with pytest.raises(ZoplatError, match="masked model can't write"):
            session.generate(session.encode(EXAMPLES), 5, "\n")

    def test_the_batched_strategy_refuses_seq2seq_models(self, checkpoint: Make) -> None:
        session = opened(checkpoint("t5"), strategy="batched")
        with pytest.raises(ZoplatError, match="can't follow seq2seq"):
            session.losses_at(session.encode(EXAMPLES), [session.space.draw(Gaussian(), Key(1, 0, 0))])


class TestRestoresAndStrategies:
    """For every head, either restore and either strategy have the same losses at perturbed weights."""

    @pytest.mark.parametrize(
        ("kind", "head"),
        [("bert", "auto"), ("roberta", "auto"), ("t5", "auto"), ("bert", "classifier"), ("llama", "classifier")],
    )
    def test_exact_restore_has_the_losses_of_in_place(self, checkpoint: Make, kind: str, head: str) -> None:
        exact, moved = (opened(checkpoint(kind), head, restore=restore) for restore in ("exact", "in-place"))
        start = exact.digest()
        rows, same = exact.encode(OTHERS), moved.encode(OTHERS)
        for draw in range(3):
            z = 0.02 * exact.space.draw(Gaussian(), Key(2, 0, draw))
            exact.space.at(z)
            moved.space.at(z)
            assert exact.forward(rows) == pytest.approx(moved.forward(same), abs=1e-5)
            np.testing.assert_allclose(exact.features(rows), moved.features(same), atol=1e-4)
            assert exact.digest() == start
        exact.space.settle()
        assert exact.digest() == start

    @pytest.mark.parametrize(
        ("kind", "head"), [("bert", "auto"), ("roberta", "auto"), ("bert", "classifier"), ("llama", "classifier")]
    )
    @pytest.mark.parametrize("loss", ["options", "tokens"])
    def test_the_batched_strategy_has_the_losses_of_the_sequential_one(
        self, checkpoint: Make, kind: str, head: str, loss: Any
    ) -> None:
        session = opened(checkpoint(kind), head, restore="exact", strategy="batched")
        rows = session.encode([replace(example, loss=loss) for example in OTHERS])
        points = [0.02 * session.space.draw(Gaussian(), Key(2, 0, draw)) for draw in range(3)]
        found, expected = session.losses_at(rows, points), []
        for point in points:
            session.space.at(point)
            expected.append(session.forward(rows))
        assert found == pytest.approx(expected, abs=1e-5)
        assert max(expected) - min(expected) > 1e-4


class TestGeneration:
    def greedy(self, folder: Path, prompt: str, tokens: int) -> list[int]:
        """One token after the other by arg-max, without a cache."""
        seq2seq = "t5" in folder.name
        model, tokenizer = plain(folder, "Seq2SeqLM" if seq2seq else "CausalLM")
        read = torch.tensor([tokenizer(prompt)["input_ids"]])
        new: list[int] = []
        while len(new) < tokens and new[-1:] != [tokenizer.eos_token_id]:
            with torch.no_grad():
                if seq2seq:
                    logits = model(read, decoder_input_ids=torch.tensor([[0, *new]])).logits
                else:
                    logits = model(torch.cat([read, torch.tensor([new], dtype=torch.long)], 1)).logits
            new.append(int(logits[0, -1].argmax()))
        return new

    @pytest.mark.parametrize("kind", ["llama", "opt", "gpt2", "gemma3", "t5"])
    def test_the_most_probable_text_is_generated_up_to_the_stop(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind, words=False)
        session = opened(folder)
        tokenizer = session.encoder.tokenizer
        rows = session.encode(EXAMPLES)
        ids = [self.greedy(folder, example.prompt, 8) for example in EXAMPLES]
        texts = [tokenizer.decode(line, skip_special_tokens=True) for line in ids]
        assert session.generate(rows, 8, "\n\n") == [text.strip() for text in texts]
        stop = next(letter for letter in texts[1][2:] if not letter.isspace())
        found = session.generate(rows, 8, stop)
        assert found == [text.partition(stop)[0].strip() for text in texts]
        assert len(found[1]) < len(texts[1].strip())

    def test_generation_ends_at_the_end_token_whatever_the_padding(self, checkpoint: Make) -> None:
        session = opened(checkpoint("mistral"))
        rows = session.encode(EXAMPLES)
        full = [text.split() for text in session.generate(rows, 6, "\n")]
        word = full[0][1]
        assert any(word not in line for line in full)
        before = session.generator.inner.generation_config
        before.eos_token_id = session.encoder.tokenizer.convert_tokens_to_ids(word)
        before.do_sample, before.temperature = True, 3.0
        session.scorer.builder.pad = session.encoder.tokenizer.convert_tokens_to_ids("movie")
        ended = [" ".join(line[: line.index(word)] if word in line else line) for line in full]
        assert session.generate(rows, 6, "\n") == ended
        assert session.generator.inner.generation_config is before

    def test_a_long_prompt_leaves_room_for_the_answer(self, checkpoint: Make) -> None:
        session = opened(checkpoint("gpt2"))
        [row] = session.encode([Example(f"{LONG} It was", (" great",), 0, loss="tokens")])
        [ids] = session.encoder.prompts([row], 50)
        assert (len(ids), ids[0]) == (PLACES - 50, 0)
        assert len(session.generate([row], 50, "\n").pop().split()) <= 50

    @pytest.mark.parametrize("kind", ["llama", "t5"])
    def test_exact_restore_generates_at_the_perturbed_weights(self, checkpoint: Make, kind: str) -> None:
        exact, moved = (opened(checkpoint(kind), restore=restore) for restore in ("exact", "in-place"))
        texts, start = [], exact.digest()
        for draw in range(4):
            z = 0.3 * exact.space.draw(Gaussian(), Key(2, 0, draw))
            for session in (exact, moved):
                session.space.at(z)
                texts.append(session.generate(session.encode(EXAMPLES), 6, "\n"))
            assert texts[-1] == texts[-2]
            assert exact.digest() == start
        assert any(text != texts[0] for text in texts)

    @pytest.mark.parametrize("kind", ["llama", "opt", "roberta", "t5"])
    def test_features_are_the_last_layer_at_the_end_of_the_prompt(self, checkpoint: Make, kind: str) -> None:
        folder = checkpoint(kind)
        session = opened(folder)
        heads = {"roberta": "MaskedLM", "t5": "Seq2SeqLM"}
        model, tokenizer = plain(folder, heads.get(kind, "CausalLM"))
        found = session.features(session.encode(EXAMPLES))
        for example, own in zip(EXAMPLES, found, strict=True):
            text = example.prompt + tokenizer.mask_token + example.suffix if kind == "roberta" else example.prompt
            ids = tokenizer(text)["input_ids"]
            backbone = model.get_encoder() if kind == "t5" else model.base_model
            with torch.no_grad():
                hidden = backbone(torch.tensor([ids])).last_hidden_state[0]
            at = ids.index(tokenizer.mask_token_id) if kind == "roberta" else -1
            np.testing.assert_allclose(own, hidden[at].tolist(), atol=1e-5)


def test_a_model_larger_than_memory_is_refused_before_its_weights_are_read(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    import psutil

    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "damaged"))
    size = sum(p.numel() for p in plain(folder, "CausalLM")[0].parameters()) * 4
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size - 1))
    with pytest.raises(ZoplatError, match=r"its weights take 0.0 GiB in float32, and .* or --dtype bfloat16"):
        opened(folder)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))
    with pytest.raises(ZoplatError, match="transformers could not load it"):
        opened(folder)

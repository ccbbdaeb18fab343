"""Numbers that look right and are wrong: scores that are none, classes in another order, padding that a state sees."""

import json
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat import Tuning, ZoplatError
from zoplat.cli import main
from zoplat.config.layers import resolve
from zoplat.config.usual import value_of
from zoplat.core.example import Example
from zoplat.core.model_spec import ModelSpec
from zoplat.evaluation.predictions import best, score_of
from zoplat.tasks import data
from zoplat.tasks.metrics import accuracy, f1, macro_f1, metric_of

CPU = ("--device", "cpu", "-o", "device.threads=1")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a cache of its own for each test."""
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def zoplat(*arguments: Any) -> click.testing.Result:
    """`zoplat …` in this process; never a traceback."""
    done = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


class TestScoresThatAreNoNumbers:
    def test_a_row_with_nan_has_no_answer(self) -> None:
        example = Example("It was", (" bad", " good"), 1)
        nan, inf = float("nan"), float("inf")
        answers = [best(example, scores) for scores in ([nan, 0.0], [0.0, nan], [-inf, -inf], [-inf, 0.0], [0.0, 0.0])]
        assert answers == [None, None, None, "good", "bad"]
        assert score_of(accuracy, [None, "good"], [example, example]) == (0.5, 1)

    def test_nothing_but_nan_is_a_failure(self, small_model: Any, rows: Any) -> None:
        def damage(model: Any, _: Any) -> None:
            model.model.norm.weight[0] = float("nan")

        model, folder = small_model(change=damage), rows(Path("rows"))
        common = (*CPU, "--model", model, "--task", "sentiment", "--data", folder)
        scored = zoplat("eval", *common, "--json")
        assert scored.exit_code == 1
        assert "all 8 rows are not numbers (NaN)" in scored.stderr
        trained = zoplat("run", *common, "--estimator", "mezo", "--batch-size", 4, "--steps", 2, "--tune", "full")
        assert trained.exit_code == 1
        assert "not numbers" in trained.stderr

    def test_some_nan_is_counted_and_said(self, small_model: Any, rows: Any) -> None:
        def damage(model: Any, tokenizer: Any) -> None:
            model.lm_head.weight = type(model.lm_head.weight)(model.lm_head.weight.detach().clone())
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("7")] = float("nan")

        model, folder = small_model(change=damage, tie_word_embeddings=False), rows(Path("rows"), train=32)
        common = (*CPU, "--model", model, "--task", "sentiment", "--data", folder)
        found = json.loads(zoplat("eval", *common, "--json").stdout)
        with_seven = sum("7" in json.loads(line)["sentence"] for line in (folder / "test.jsonl").open())
        assert 0 < found["unanswered"] == with_seven < 8
        flags = ("--estimator", "mezo", "--batch-size", 2, "--steps", 12, "--lr", 1e-4, "--tune", "lora", "--out", "r")
        done = zoplat("run", *common, *flags)
        assert done.exit_code == 0, done.output
        summary = json.loads(Path("r/summary.json").read_text())
        assert 0 < summary["skipped_steps"] < 12
        assert f"{summary['skipped_steps']} of 12 steps skipped, the loss not being finite" in done.output
        assert f"test: {with_seven} of 8 rows have scores that are not numbers (NaN)" in done.output


class TestClassesByName:
    @pytest.mark.parametrize(
        ("names", "order"),
        [
            (("negative", "positive"), None),
            (("POSITIVE", "Negative"), (1, 0)),
            (("LABEL_0", "LABEL_1"), None),
            (("great", "terrible"), (1, 0)),
            (("1", "0"), (1, 0)),
        ],
    )
    def test_logits_are_put_in_the_order_of_the_task(
        self, small_model: Any, names: tuple[str, ...], order: tuple[int, ...] | None
    ) -> None:
        session = _classifier(small_model, names)
        rows = session.encode([Example("The soup is", (" terrible", " great"), 1)])
        ours = session.scores(rows)[0]
        logits = (
            session.scorer.run(session.model, session.scorer.builder.padded(rows[0].tokens.inputs)).logits[0].tolist()
        )
        assert ours == [logits[i] for i in order or (0, 1)]

    def test_other_names_are_refused(self, small_model: Any) -> None:
        with pytest.raises(ZoplatError, match=r"(?s)classifier of cat, dog; the classes of the task are negative, pos"):
            _classifier(small_model, ("cat", "dog"))


def _classifier(small_model: Any, names: tuple[str, ...]) -> Any:
    from zoplat_devices.pytorch.device import PyTorch

    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    folder = small_model("classifier", num_labels=2, **labels)
    known = data.find("sentiment").class_names
    return PyTorch(threads=1).open(ModelSpec(str(folder), Tuning("full"), "float32", 0, classes=2, class_names=known))


class TestF1:
    def test_of_classes_it_is_the_mean_of_their_own(self) -> None:
        """As scikit-learn 1.9.1: f1_score, average="macro" over the classes that are right somewhere."""
        right = ["a"] * 6 + ["b"] * 3 + ["c"]
        predicted = ["a", "a", "a", "a", "b", "c", "b", "b", "a", "a"]
        assert macro_f1(predicted, [[text] for text in right]) == pytest.approx(0.4444444444)
        assert macro_f1(["a"] * 9 + [""], [[text] for text in right]) == pytest.approx((2 * 6 / 15) / 3)

    def test_the_name_f1_means_what_the_task_needs(self) -> None:
        assert metric_of(data.find("sentiment"), "f1") is macro_f1
        assert metric_of(data.find("squad"), "f1") is metric_of(data.find("squad")) is f1
        binary = metric_of(data.find("sentiment"), "binary-f1")
        assert binary(["great", "great", "terrible"], [["great"], ["terrible"], ["great"]]) == 0.5
        with pytest.raises(ZoplatError, match="is for two classes"):
            metric_of(data.find("trec"), "binary-f1")
        with pytest.raises(ZoplatError, match="compares classes"):
            metric_of(data.find("squad"), "macro-f1")

    def test_a_model_that_always_says_the_common_class_scores_low(self, small_model: Any) -> None:
        """One class in eight is rare: accuracy is 87.5 %, F1 over classes below 50 %."""
        Path("task.toml").write_text('prompt = "{text}\\nIt is"\nmetric = "f1"\n[options]\nham = "x"\nspam = "y"\n')
        Path("rows").mkdir()
        for split in ("train", "dev", "test"):
            lines = [json.dumps({"text": f"{split} {i}", "label": "ham" if i % 8 else "spam"}) for i in range(16)]
            Path("rows", f"{split}.jsonl").write_text("\n".join(lines) + "\n")

        def prefer_x(model: Any, tokenizer: Any) -> None:
            model.model.norm.weight.zero_()

        done = zoplat(
            "eval", *CPU, "--model", small_model(change=prefer_x), "--task", "task.toml", "--data", "rows", "--json"
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["score"] == pytest.approx((2 * 14 / 30) / 2)


class TestPadding:
    @pytest.mark.parametrize(("kind", "sees"), [("rwkv", True), ("llama", False)])
    def test_a_row_has_the_same_answer_beside_others_as_alone(self, small_model: Any, kind: str, sees: bool) -> None:
        from zoplat_devices.pytorch.device import PyTorch

        session = PyTorch(threads=1).open(ModelSpec(str(small_model(kind)), Tuning("full"), "float32", 0))
        assert session.scorer.sees_padding is sees
        texts = ("It was", "It was a long and lovely day for a film. It was", "No. It was", "Oh, it was")
        examples = [Example(text, (" bad", " quite good"), 1) for text in texts]
        rows = session.encode(examples)
        together, alone = session.scores(rows), [session.scores([row])[0] for row in rows]
        assert [x for line in together for x in line] == pytest.approx([x for line in alone for x in line], abs=1e-5)
        assert session.forward(rows) == pytest.approx(sum(session.forward([row]) for row in rows) / 4, abs=1e-5)
        loss, gradient = session.gradient(rows, session.space.everything, False)
        assert loss == pytest.approx(session.forward(rows), abs=1e-5)
        assert all(bool(array.isfinite().all()) for array in gradient.values())
        both = [session.generate(some, 3, "\n") for some in (rows, rows[:1])]
        assert both[0][0] == both[1][0]

    def test_it_is_not_read_by_the_batched_strategy(self, small_model: Any) -> None:
        from zoplat_devices.pytorch.device import PyTorch

        spec = ModelSpec(str(small_model("rwkv")), Tuning("full"), "float32", 0)
        session = PyTorch(threads=1, strategy="batched").open(spec)
        rows = session.encode([Example("It was", (" bad", " good"), 1)])
        with pytest.raises(ZoplatError, match="sees padding"):
            session.losses_at(rows, [])


class TestStepSizes:
    def test_adapters_have_step_sizes_of_their_own(self) -> None:
        for name, lr in (("lozo", 1e-3), ("mezo", 2e-3)):
            config = resolve({"device": "cpu", "estimator": name, "tune": "lora", "max_seconds": 1.0})
            assert (value_of(config.estimator, "lr"), value_of(config.estimator, "eps")) == (lr, 1e-2)
            assert config.origins["lr"] == f"usual for {name} with lora"
            assert not config.estimator.rule.has_horizon
        assert value_of(resolve({"device": "cpu", "tune": "full"}).estimator, "lr") == 1e-7

    def test_it_is_known_where_a_value_comes_from(self) -> None:
        given = resolve({"device": "cpu", "tune": "lora", "lr": 3e-4})
        assert given.origins == {"lr": "given", "eps": "usual for lozo with lora"}
        assert resolve({"device": "cpu"}).origins["lr"] == "recipe"
        assert resolve({"device": "cpu", "tune": "full"}).origins["lr"] == "lozo's own default"
        assert resolve({"device": "cpu", "tune": "lora", "estimator": "mezo", "step_rule": "adam"}).origins["lr"] == (
            "adam's own default"
        )
        preset = resolve({"device": "cpu", "preset": "mezo-paper/opt-13b"})
        assert preset.origins["lr"] == "preset mezo-paper/opt-13b"
        assert "origins" not in preset.table()

    def test_the_header_of_a_run_has_them(self) -> None:
        toy = ("run", "--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 2)
        done = zoplat(*toy, "--estimator", "mezo", "--lr", 1e-2)
        assert "lr 0.01 (given) · eps 0.001 (mezo's own default)" in done.output

    def test_an_eps_without_effect_is_said(self) -> None:
        toy = ("run", "--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 2)
        done = zoplat(*toy, "--estimator", "mezo", "--eps", 1e-30)
        assert "weights in float32 can't hold an eps of 1e-30" in done.output
        assert "can't hold" not in zoplat(*toy, "--estimator", "mezo").output

    def test_an_lr_without_effect_is_said(self) -> None:
        toy = ("run", "--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 2)
        for lr in (1e-30, 0):
            done = zoplat(*toy, "--estimator", "mezo", "--lr", lr)
            assert f"step 1 moves no weight: an lr of {lr:g} is too small for weights in float32" in done.output
        for name in ("mezo", "lozo", "block-zo", "zo-adam", "sparse-mezo"):
            assert "moves no weight" not in zoplat(*toy, "--estimator", name, "--lr", 1e-2).output

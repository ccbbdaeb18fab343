"""Objectives without a derivative, micro-batches, evaluation without training, and export."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoplat import Example, ModelSpec
from zoplat.config.layers import resolve
from zoplat.core.model_spec import Tuning
from zoplat.evaluation.linear_probe import fit_and_predict
from zoplat.evaluation.predictions import predict
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.tasks import data
from zoplat.tasks.metrics import METRICS, metric
from zoplat.training.objective import Objective
from zoplat.training.setup import spec_of
from zoplat_devices.reference import Reference

WORDS = {1: ("fine", "lovely", "great", "sunny", "warm", "kind"), 0: ("poor", "ugly", "cold", "rude", "dull", "sad")}
JUDGE = """
import json, sys
rows = [json.loads(line) for line in sys.stdin]
print(sum(row["answer"] in row["right"] for row in rows) / len(rows))
"""


@pytest.fixture
def toy(zoplat: Any) -> tuple[Any, ...]:
    """Twelve rows per split, each with one word that decides its label."""
    Path("toy").mkdir()
    for split in ("train", "dev", "test"):
        rows = [{"sentence": f"{WORDS[i % 2][i // 2]} {split}", "label": i % 2} for i in range(12)]
        Path(f"toy/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ("--device", "reference", "--task", "sst2", "--data", "toy", "--batch-size", 12)


def ran(zoplat: Any, *arguments: Any) -> dict[str, Any]:
    done = zoplat("run", *arguments, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("judge", [f"command:{sys.executable} judge.py", "accuracy", "judged:share"])
def test_training_on_a_score_learns(zoplat: Any, toy: Any, monkeypatch: pytest.MonkeyPatch, judge: str) -> None:
    """The starting weights predict half of the labels; all of them can be learned."""
    Path("judge.py").write_text(JUDGE)
    Path("judged.py").write_text("def share(answers, right): return sum(a in r for a, r in zip(answers, right)) / 12\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    steps, queries = (100, 8) if not judge.startswith("command") else (20, 4)
    settings = ("--estimator", "mezo", "--eps", 0.3, "--lr", 0.3, "--queries", queries, "--steps", steps)
    summary = ran(zoplat, *toy, *settings, "--objective", judge, "--out", "run")
    assert summary["dev_before"] == 0.5
    assert summary["dev_after"] >= (1.0 if steps == 100 else 0.75)
    first = json.loads(Path("run/journal.jsonl").read_text().splitlines()[1])["answers"][0]
    assert first * 12 == pytest.approx(round(first * 12)), "one minus a share of twelve"
    replayed = json.loads(zoplat("replay", "run", "--json").stdout)
    assert replayed["weights_digest"] == summary["weights_digest"]


def opened() -> Any:
    return Reference().open(ModelSpec(None, Tuning(), "float32", 3))


@pytest.mark.parametrize("loss", ["options", "tokens"])
@pytest.mark.parametrize("at_once", [1, 5, 7, 12, 50])
def test_the_loss_of_micro_batches_is_that_of_the_batch(loss: str, at_once: int) -> None:
    config = resolve({"device": "reference", "limit": 12, "objective": loss})
    session = opened()
    rows = PromptEncoder(config, session).rows(data.load(data.find("sentiment"), "sentiment", None, 12)["train"])
    whole = session.forward(rows)
    assert Objective(micro_batch=at_once).loss(session, rows) == pytest.approx(whole, rel=1e-12)
    weighted = [type(row)(row.example, row.length, row.tokens, 1 + i % 3) for i, row in enumerate(rows)]
    parts = [session.forward([row]) * row.weight for row in weighted]
    expected = sum(parts) / sum(row.weight for row in weighted)
    assert Objective(micro_batch=1).loss(session, weighted) == pytest.approx(expected, rel=1e-12)
    judged = Objective(metric("accuracy"), at_once)
    predicted = predict(session, rows)
    assert judged.loss(session, rows) == 1 - METRICS["accuracy"](predicted, [row.example.right for row in rows])


def test_a_run_with_micro_batches_differs_only_by_rounding(zoplat: Any, toy: Any) -> None:
    settings = ("--estimator", "lozo", "--eps", 0.1, "--lr", 0.1, "--steps", 5)
    for name, more in (("whole", ()), ("parts", ("--micro-batch-size", 5))):
        ran(zoplat, *toy, *settings, *more, "--out", name)
    losses = [
        [json.loads(line)["answers"] for line in Path(f"{name}/journal.jsonl").read_text().splitlines()[1:]]
        for name in ("whole", "parts")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert json.loads(Path("parts/summary.json").read_text())["forward_passes"] == 10, "a batch is one pass"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--objective", "acuracy"), ("Unknown metric 'acuracy'", "accuracy")),
        (("--objective", "judged:missing"), ("judged:missing: no such function",)),
        (("--objective", "command:"), ("names no program",)),
        (("--objective", "accuracy", "--estimator", "sgd", "--device", "cpu"), ("asks for a gradient", "has none")),
        (("--micro-batch-size", "0"), ("micro_batch_size must be positive",)),
        (("--template", "chatty"), ("template must be one of", "chat")),
        (("--template", "chat"), ("has no chat template",)),
        (("--head", "neck"), ("head must be one of", "masked")),
    ],
)
def test_impossible_objectives_are_explained(zoplat: Any, toy: Any, flags: Any, words: Any) -> None:
    message = zoplat.refused("run", *toy, "--steps", 2, *flags)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("command:no-such-program", "no-such-program could not be started"),
        (f"command:{sys.executable} -c 1/0", "ended with status 1: ZeroDivisionError"),
        (f"command:{sys.executable} -c print([])", "must print one number, got '[]"),
        ("math:sqrt", "math:sqrt failed: TypeError"),
    ],
)
def test_a_failing_metric_ends_the_run_with_its_message(zoplat: Any, toy: Any, judge: str, words: str) -> None:
    done = zoplat("run", *toy, "--steps", 2, "--objective", judge, "--out", "run")
    assert done.exit_code == 1
    assert words in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("name", "predicted", "right", "score"),
    [
        ("accuracy", ["a", "b"], [["a"], ["a", "c"]], 0.5),
        ("exact-match", ["The  Cat!", "dog"], [["cat"], ["a hog"]], 0.5),
        ("f1", ["the black cat", "dog"], [["a black dog", "black cat"], ["cat"]], 0.5),
        ("f1", ["black cat sat"], [["the cat"]], 0.5),
        ("f1", [""], [["cat"]], 0.0),
    ],
)
def test_metrics_are_those_of_squad(name: str, predicted: Any, right: Any, score: float) -> None:
    assert metric(name)(predicted, right) == pytest.approx(score)


def test_rouge_is_that_of_the_library() -> None:
    pytest.importorskip("rouge_score")
    assert metric("rouge")(["the cat sat down"], [["nothing", "the cat lay down"]]) == pytest.approx(0.75)


def asked(zoplat: Any, *arguments: Any) -> dict[str, Any]:
    done = zoplat("eval", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_solved_rows_come_before_every_prompt(toy: Any) -> None:
    config = resolve({"device": "reference", "task": "sst2", "data": "toy"})
    raw = data.load(data.find("sst2"), "sst2", Path("toy"))
    [row] = PromptEncoder(config, opened(), (raw["train"][1], raw["train"][0])).rows(raw["test"][:1])
    assert row.example.prompt == "fine train It was great\n\npoor train It was terrible\n\npoor test It was"


def test_a_seed_chooses_the_solved_rows(zoplat: Any, toy: Any) -> None:
    results = [asked(zoplat, *toy, "--shots", 4, "--seed", seed) for seed in (0, 0, 1)]
    assert results[0] | {"seconds": 0} == results[1] | {"seconds": 0}
    assert results[0]["way"] == "icl-4"
    assert "--shots 13 is more than the 12 training rows" in zoplat.refused("eval", *toy, "--shots", 13)


def test_calibration_subtracts_the_score_of_an_option_without_content(zoplat: Any, toy: Any) -> None:
    config = resolve({"device": "reference", "task": "sst2", "data": "toy", "tune": "full"})
    session = Reference().open(spec_of(config))
    rows = PromptEncoder(config, session).rows(data.load(data.find("sst2"), "sst2", Path("toy"))["test"])
    [bare] = session.scores(session.encode([Example("N/A It was", (" terrible", " great"), 0)]))
    gains = [[score - b for score, b in zip(scores, bare, strict=True)] for scores in session.scores(rows)]
    right = sum(g.index(max(g)) == row.example.label for g, row in zip(gains, rows, strict=True))
    assert asked(zoplat, *toy, "--calibrate")["score"] == right / 12
    assert asked(zoplat, *toy)["score"] != right / 12, "or nothing was at stake"


def test_a_linear_probe_learns_from_features(zoplat: Any, toy: Any) -> None:
    start = np.random.default_rng(0)
    x = start.standard_normal((300, 8))
    labels = (x[:, :3]).argmax(axis=1)
    predicted = fit_and_predict(x[:200].tolist(), labels[:200].tolist(), x[200:].tolist())
    assert np.mean(np.array(predicted) == labels[200:]) > 0.9
    found = asked(zoplat, *toy, "--probe", "--split", "dev")
    assert (found["way"], found["split"], found["rows"]) == ("linear-probe", "dev", 12)


def test_the_result_of_a_run_is_scored_and_exported(zoplat: Any, toy: Any) -> None:
    summary = ran(zoplat, *toy, "--estimator", "mezo", "--lr", 0.1, "--eps", 0.1, "--steps", 8, "--out", "run")
    for split in ("dev", "test"):
        assert asked(zoplat, "run", "--split", split)["score"] == summary[f"{split}_after"]
    done = zoplat("export", "run", "--to", "there", "--json")
    assert json.loads(done.stdout)["weights_digest"] == summary["weights_digest"]
    assert Path("there/model.safetensors").stat().st_size > 10_000
    scored = zoplat("eval", "run").stdout
    assert scored.startswith("run, after 8 steps of mezo, sst2 test: accuracy"), "not zero-shot, though no examples"
    again = zoplat("export", "run", "--to", "there")
    assert again.stdout == "there: model.safetensors\n", "over what an earlier export made"
    Path("there/notes.txt").write_text("mine")
    assert zoplat("export", "run", "--to", "there").stdout == "there: model.safetensors\n", "what was written"
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    for command in ("export", "replay"):
        assert "--to run is a run directory. Give a new folder" in zoplat.refused(command, "run", "--to", "run")
        assert "--to other has other files, such as notes.txt" in zoplat.refused(command, "run", "--to", "other")
    assert "run has its own settings; leave --limit out" in zoplat.refused("eval", "run", "--limit", 3)
    assert "nowhere is not a run directory" in zoplat.refused("export", "nowhere", "--to", "x")


PLAYS = """
import json, pathlib, sys
from safetensors.numpy import load_file
asked = json.load(sys.stdin)
weights = load_file(pathlib.Path(asked["adapter"]) / "model.safetensors")
pathlib.Path("asked.json").write_text(json.dumps(asked))
print(1 - float(((weights["hidden_bias"] - 1.5) ** 2).mean()))
"""
"""The loss that this makes is the mean square of b − 1.5, which is known to be least at b = 1.5."""


class TestAScoreOfTheModel:
    def test_a_program_is_given_the_perturbed_model_and_the_rows(self, zoplat: Any, toy: Any) -> None:
        Path("plays.py").write_text(PLAYS)
        flags = ("--objective", f"adapter:{sys.executable} plays.py", "--tune", "hidden_bias", "--estimator", "mezo")
        summary = ran(zoplat, *toy, *flags, "--eps", 0.1, "--lr", 1, "--steps", 3, "--out", "run")
        answers = [json.loads(line)["answers"] for line in Path("run/journal.jsonl").read_text().splitlines()[1:]]
        assert len({answer for pair in answers for answer in pair}) == 6
        asked = json.loads(Path("asked.json").read_text())
        assert len(asked["rows"]) == 12
        assert asked["rows"][0].keys() == {"prompt", "options", "label", "right"}
        assert asked["rows"][0]["right"] == [asked["rows"][0]["options"][asked["rows"][0]["label"]].strip()]
        replayed = json.loads(zoplat("replay", "run", "--json").stdout)
        assert replayed["weights_digest"] == summary["weights_digest"]

    @pytest.mark.slow
    def test_it_finds_a_known_answer(self, zoplat: Any, toy: Any) -> None:
        Path("plays.py").write_text(PLAYS)
        flags = ("--objective", f"adapter:{sys.executable} plays.py", "--tune", "hidden_bias", "--estimator", "mezo")
        ran(zoplat, *toy, *flags, "--eps", 0.1, "--lr", 0.4, "--steps", 50, "--out", "run")
        answers = [json.loads(line)["answers"] for line in Path("run/journal.jsonl").read_text().splitlines()[1:]]
        assert answers[0][0] > 1.5
        assert max(answers[-1]) < 0.5

    def test_a_program_that_a_file_names_is_refused(self, zoplat: Any, toy: Any) -> None:
        Path("own.toml").write_text('objective = "adapter:./plays"\n')
        assert "--allow-commands" in zoplat.refused("run", *toy, "--config", "own.toml")

    def test_a_name_without_a_program_is_refused(self, zoplat: Any, toy: Any) -> None:
        assert "names no program" in zoplat.refused("run", *toy, "--objective", "adapter:")

    def test_exact_restore_is_refused(self, zoplat: Any, toy: Any) -> None:
        flags = ("--objective", "adapter:./plays", "-o", "device.restore=exact")
        done = zoplat("run", *toy, *flags)
        assert done.exit_code == 2
        assert "device.restore=in-place" in done.stderr

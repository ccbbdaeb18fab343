"""predictions.jsonl: what was predicted for each test row before and after training."""

import json
from pathlib import Path
from typing import Any

import pytest

from zoplat.core.example import Example, Row
from zoplat.training.baseline import KeptScore
from zoplat.training.predicted import SHOWN, add_predictions, read_predictions


def test_a_run_keeps_what_it_predicted_before_and_after_and_its_scores_follow(zoplat: Any) -> None:
    summary = zoplat.run("--steps", 6, "--evaluate-every", 2)
    kept = read_predictions(Path(summary["run_dir"], "predictions.jsonl"))
    assert kept.keys() == {0, 6}
    for step, score in ((0, summary["test_before"]), (6, summary["test_after"])):
        assert sum(kept[step].right) / len(kept[step].right) == score
        assert len(kept[step].texts) == 16
        assert len(kept[step].shown) == SHOWN


def test_what_is_kept_of_a_model_before_training_has_predictions(tmp_path: Path) -> None:
    kept = KeptScore(["a model", str(tmp_path)], [Row(Example("p", ("a", "b"), 0), 1, None)])
    assert kept.read() is None
    kept.write(0.5, ["a", "b"])
    assert kept.read() == (0.5, ["a", "b"])
    kept.path.write_text('{"score": 0.5}')
    assert kept.read() is None, "an earlier version kept the score alone"
    for damaged in ("", '{"score": 0.5, "pre', "[]", '{"score": "x", "predicted": []}'):
        kept.path.write_text(damaged)
        assert kept.read() is None, "it is computed again"
    kept.path.unlink()
    kept.path.mkdir()
    kept.write(0.5, ["a", "b"])
    assert kept.read() is None, "there is no room for it"


def test_an_evaluation_says_how_long_training_took_until_then(zoplat: Any) -> None:
    summary = zoplat.run("--steps", 6, "--evaluate-every", 2)
    records = [json.loads(line) for line in Path(summary["run_dir"], "metrics.jsonl").read_text().splitlines()]
    seconds = [record["seconds_training"] for record in records if record["split"] == "dev"]
    assert seconds[0] == 0.0
    assert seconds == sorted(seconds)
    assert seconds[-1] == summary["seconds_training"]


def test_rows_without_an_answer_and_damaged_lines(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    examples = [Example("p" * 900, (" yes", " no"), label) for label in (0, 1, 1)]
    add_predictions(path, 0, ["yes", None, "yes"], examples)
    add_predictions(path, 0, ["yes", None, "no"], examples)
    [one] = read_predictions(path).values()
    assert (one.texts, one.right) == (["yes", None, "no"], [True, False, True])
    assert one.shown[0] == ("p" * 600, "yes")
    whole = path.read_text()
    path.write_text('{"step": 4}\n[]\n' + whole + whole[:40])
    add_predictions(path, 9, ["no", "no", "no"], examples)
    assert {step: p.right for step, p in read_predictions(path).items()} == {
        0: [True, False, True],
        9: [False, True, True],
    }
    assert read_predictions(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize("change", [("step", "0"), ("predicted", [9, 0, 0]), ("right", "01x"), ("shown", 3)])
def test_a_line_with_other_values_is_left_out(tmp_path: Path, change: tuple[str, Any]) -> None:
    path = tmp_path / "predictions.jsonl"
    add_predictions(path, 0, ["a", "b", "a"], [Example("p", ("a", "b"), 0)] * 3)
    path.write_text(json.dumps({**json.loads(path.read_text()), change[0]: change[1]}) + "\n")
    assert read_predictions(path) == {}

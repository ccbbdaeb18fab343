"""A toy whose answer is known, and a server of it in a process of its own that can be killed and started again."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).parent / "stand_in.py"
COLOURS = {"red": "on", "blue": "on", "green": "off", "grey": "off"}
"""The answer: the colour of a thing says whether it is on."""
THINGS = "box bag hat cup pen jar map key toy net fan rod"
SPLITS = {"train": slice(0, 6), "dev": slice(6, 9), "test": slice(9, 12)}
TASK = 'prompt = "{text}"\n[options]\noff = "off"\non = "on"\n'


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a task and rows; things in dev and test are in no row of train."""
    import torch
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("toy")
    words = ["<s>", "</s>", "<unk>", "the", "is", *COLOURS, *THINGS.split(), "on", "off", "."]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = t.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = t.LlamaConfig(vocab_size=len(words), **sizes, num_key_value_heads=1, max_position_embeddings=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "toy.toml").write_text(TASK)
    (folder / "data").mkdir()
    for split, chosen in SPLITS.items():
        pairs = itertools.product(COLOURS.items(), THINGS.split()[chosen])
        rows = [{"text": f"the {colour} {thing} is", "label": label} for (colour, label), thing in pairs]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class StandIn:
    """The stand-in server on a port of its own.

    Args:
        model: folder of the model.
    """

    def __init__(self, model: Path) -> None:
        self.model = self.other = model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, str(STAND_IN), str(self.model), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while wait and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once; when it is started again, it has the model `other`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.model = self.other


@pytest.fixture(scope="session")
def server(toy: Path) -> Iterator[StandIn]:
    """A server that is not killed."""
    made = StandIn(toy / "model")
    yield made
    made.kill()


@pytest.fixture
def settings(toy: Path, server: StandIn) -> Callable[..., dict[str, Any]]:
    """Keyword arguments of a run on the toy, with others in their place."""

    def make(url: str | None = None, **others: Any) -> dict[str, Any]:
        options = {"device.url": url or server.url, "tune.targets": "q_proj|v_proj|o_proj|up_proj|down_proj"}
        given = {"device": "served", "model": str(toy / "model"), "task": str(toy / "toy.toml"), "tune": "lora"}
        given |= {"data": str(toy / "data"), "estimator": "zo-adam", "lr": 3e-2, "eps": 1e-2, "batch_size": 8}
        given |= {"queries": 4, "steps": 100, "seed": 0}
        return {**given, **others, "options": {**options, **others.get("options", {})}}

    return make

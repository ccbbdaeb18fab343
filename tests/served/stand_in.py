"""A stand-in for an inference server, in a process of its own: those endpoints of vLLM that zoplat uses.

    python stand_in.py MODEL PORT

It computes true log-probabilities with transformers and peft. A first part of the path, as in /stale/v1/completions, is
a fault: the server is wrong in one way then, for tests.
"""

import json
import math
import sys
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 60
NAME = "toy"
Answer = tuple[int, Any]


class Engine:
    """A model with adapters by fault and name; it does one thing at a time.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        self.folder, self.lock = folder, threading.Lock()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tuned: dict[frozenset[str], Any] = {}
        self.adapters: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.asked: Counter[str] = Counter()

    def answer(self, fault: str, path: str, body: dict[str, Any]) -> Answer:
        with self.lock, torch.inference_mode():
            self.asked[fault] += 1
            if fault == "busy" and self.asked[fault] % 4 == 0:
                return 503, {"message": "busy"}
            if fault == "locked":
                return 401, {"message": "Unauthorized"}
            if path == "/v1/load_lora_adapter" and fault != "no-loading":
                return self.load(fault, body["lora_name"], Path(body["lora_path"]))
            if path == "/v1/unload_lora_adapter":
                return (200 if self.adapters[fault].pop(body["lora_name"], None) else 404), {}
            if path == "/v1/completions" and (body["model"] == NAME or body["model"] in self.adapters[fault]):
                return 200, self.complete(fault, body)
            return 404, {"message": f"{path} {body.get('model')}: Not Found"}

    def load(self, fault: str, name: str, folder: Path) -> Answer:
        if not (folder / "adapter_config.json").is_file():
            return 404, {"message": f"No adapter found for {folder}"}
        if name in self.adapters[fault]:
            return 400, {"message": f"The lora adapter '{name}' has already been loaded."}
        weights = load_file(folder / "adapter_model.safetensors")
        kind = frozenset(weights)
        if kind not in self.tuned:
            twin = AutoModelForCausalLM.from_pretrained(self.folder)
            self.tuned[kind] = PeftModel.from_pretrained(twin, folder).eval()
            assert kind == get_peft_model_state_dict(self.tuned[kind]).keys()
        if fault == "stale":  # values are those of the first adapter ever
            weights = self.stale = getattr(self, "stale", weights)
        if fault == "no-values":
            weights = {key: tensor * ("v_proj" not in key) for key, tensor in weights.items()}
        if fault == "one-factor":
            weights = {key: tensor.sign() if "lora_A" in key else tensor for key, tensor in weights.items()}
        self.adapters[fault][name] = weights
        return 200, {}

    def complete(self, fault: str, body: dict[str, Any]) -> dict[str, Any]:
        model, prompts = self.model(fault, body["model"]), body["prompt"]
        first = {}
        for length in {len(ids) for ids in prompts}:
            same = [index for index, ids in enumerate(prompts) if len(ids) == length]
            logits = model(torch.tensor([prompts[index] for index in same])).logits.double()
            first |= dict(zip(same, logits.log_softmax(-1), strict=True))
        choices = [self.choice(fault, model, index, first[index], body) for index in range(len(prompts))]
        tokens = sum(map(len, prompts)) + (fault == "begins")
        return {"choices": choices[::-1], "usage": {"prompt_tokens": tokens}}

    def model(self, fault: str, name: str) -> Any:
        if name == NAME or fault == "no-adapters":
            return self.plain
        weights = self.adapters[fault][name]
        tuned = self.tuned[frozenset(weights)]
        set_peft_model_state_dict(tuned, weights)
        return tuned

    def choice(self, fault: str, model: Any, index: int, first: Any, body: dict[str, Any]) -> dict[str, Any]:
        ids, stops, new = body["prompt"][index], body.get("stop", []), []
        logs: list[float | None] = [None, *(float(line[token]) for line, token in zip(first, ids[1:], strict=False))]
        last = first[-1]
        while True:
            new.append(int(last.argmax()))
            logs.append(float(last.max()))
            text = self.tokenizer.decode(new)
            if len(new) == body["max_tokens"] or any(stop in text for stop in stops):
                break
            last = model(torch.tensor([ids + new])).logits[0, -1].double().log_softmax(-1)
        for stop in stops:
            text = text.partition(stop)[0]
        if fault == "missing":
            logs[2] = None
        if fault == "nan" and body["model"] != NAME and self.asked[fault] > 60:
            logs = [math.nan] * len(logs)
        if not body.get("echo") or fault == "no-echo":
            logs = logs[len(ids) :]
        return {"index": index, "text": text, "logprobs": {"token_logprobs": logs}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer is one packet, sent at once
    engine: Engine

    def do_GET(self) -> None:
        models = [{"id": NAME, "parent": None, "max_model_len": LIMIT}]
        models += [{"id": name, "parent": NAME} for name in self.engine.adapters[self.fault]]
        self.send(200, {"data": models} if self.fault != "other" else ["hello"])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send(*self.engine.answer(self.fault, f"/v1/{self.path.partition('v1/')[2]}", body))

    @property
    def fault(self) -> str:
        return self.path[1:].partition("v1/")[0].strip("/")

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    Handler.engine = Engine(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()

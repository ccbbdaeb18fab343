"""An inference server of the OpenAI kind: published adapters, log-probabilities and texts, also when it is restarted.

The calls are those of vLLM's server: /v1/models, /v1/load_lora_adapter, /v1/unload_lora_adapter, and /v1/completions
with token ids as prompts. With `echo` and `logprobs` that has the log-probability of every token of a prompt.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

from zoplat.core.errors import RunFailed, ZoplatError
from zoplat_devices.served.answers import choices_of, lists, logs_of
from zoplat_devices.served.settings import ServedSettings

KEY = "ZOPLAT_SERVER_KEY"
"""The variable of the environment that has the server's API key; it is sent and never stored."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries; doubled after each."""
BUSY = (408, 425, 429)
"""Statuses of a server that may answer later, beside those from 500 on."""
SAME = 0.02
"""Largest difference of a mean log-probability, relative to it, that the same model may have in 16 bits."""
Arrays = Mapping[str, Any]


class Forgotten(Exception):
    """The server does not know the name that it was asked for."""


class Server:
    """A server, asked by several threads at a time.

    Args:
        settings: where it is and how it is asked.
        write: writes an adapter with some values into a folder.

    Attributes:
        model: name of the model there, without an adapter.
        limit: tokens that it reads; None where it does not say.
    """

    def __init__(self, settings: ServedSettings, write: Callable[[Path, Arrays], None]) -> None:
        self._settings, self._write = settings, write
        key = os.environ.get(KEY)
        self._http = httpx.Client(
            base_url=settings.url.rstrip("/"),
            timeout=settings.seconds,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=settings.requests),
            trust_env=False,
        )
        self._pool = ThreadPoolExecutor(settings.requests, "zoplat-server")
        self._here = Path(settings.folder or tempfile.mkdtemp(prefix="zoplat-", dir=_memory()))
        self._is_temporary = not settings.folder
        self._names, self._run = itertools.count(), secrets.token_hex(4)
        self._was_away = False
        self._sign: tuple[Sequence[int], float] | None = None
        self.model, self.limit = self._described()

    def log_probs(self, points: Sequence[Arrays | None], texts: Sequence[Sequence[int]]) -> list[list[list[float]]]:
        """For each point and text the log-probability of every token after the first, float.

        Args:
            points: values of the adapter by block name; None for the model without one.
            texts: token ids.

        Raises:
            RunFailed: the server is away for too long, refuses, or leaves log-probabilities out.
        """
        size = self._settings.rows
        parts = [texts[i : i + size] for i in range(0, len(texts), size)]
        ask = {"echo": True, "logprobs": 1, "max_tokens": 1}
        found = self._for_points(points, [{"prompt": part, **ask} for part in map(lists, parts)])
        return [
            [logs for part, answer in zip(parts, answers, strict=True) for logs in logs_of(part, answer)]
            for answers in found
        ]

    def texts(self, point: Arrays, prompts: Sequence[Sequence[int]], tokens: int, stop: str) -> list[str]:
        """What the model writes after each prompt, the most probable token each time, up to the first `stop`."""
        size, ask = self._settings.rows, {"max_tokens": tokens, "temperature": 0.0, "stop": [stop]}
        parts = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        [answers] = self._for_points([point], [{"prompt": part, **ask} for part in map(lists, parts)])
        return [
            str(choice["text"])
            for part, answer in zip(parts, answers, strict=True)
            for choice in choices_of(part, answer)
        ]

    def remember(self, text: Sequence[int], mean: float) -> None:
        """Note what the model without an adapter says of a text, by which it is known again.

        Args:
            text: token ids.
            mean: of their log-probabilities.
        """
        self._sign = (text, mean)

    def close(self) -> None:
        """End the connections, and remove the folder where it was a temporary one."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._http.close()
        if self._is_temporary:
            shutil.rmtree(self._here, ignore_errors=True)

    def _for_points(self, points: Sequence[Arrays | None], bodies: Sequence[dict[str, Any]]) -> list[list[Any]]:
        """The answers to some requests at each point, several points at a time."""
        size, found = self._settings.adapters, []
        for some in (points[i : i + size] for i in range(0, len(points), size)):
            published: list[Published] = []
            try:
                published.extend(self._pool.map(lambda point: Published(self, point), some))
                asked = [[self._pool.submit(one.complete, body) for body in bodies] for one in published]
                found += [[future.result() for future in futures] for futures in asked]
            finally:
                for one in published:
                    one.withdraw()
        self._check_model()
        return found

    def _check_model(self) -> None:
        """Raise RunFailed where a server that was away has come back with another model."""
        if not self._was_away or self._sign is None:
            return
        self._was_away, (text, before) = False, self._sign
        [[logs]] = self.log_probs([None], [text])
        now = fmean(logs)
        if not abs(now - before) <= SAME * max(1.0, abs(before)):
            raise RunFailed(
                f"The server at {self._settings.url} was away and has come back as another model: of the text that it "
                f"is known by it said {before:.6g} a token, and says {now:.6g}. Start it as before, and go on with "
                "--resume."
            )

    def load(self, arrays: Arrays) -> tuple[str, Path]:
        """Publish an adapter under a new name; returns the name, and the folder that it is in."""
        name = f"zoplat-{self._run}-{next(self._names)}"
        folder = self._here / name
        self._write(folder, arrays)
        there = f"{self._settings.folder_there.rstrip('/')}/{name}" if self._settings.folder_there else str(folder)
        try:
            self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": there})
        except Forgotten as problem:
            raise RunFailed(
                f"{self._settings.url} does not load the adapter in {there}: {problem}. It must see that folder "
                "(-o device.folder=… and device.folder_there=…) and be started with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
            ) from None
        return name, folder

    def unload(self, name: str, folder: Path) -> None:
        """Take an adapter back; a server that is away has none anyway."""
        with suppress(httpx.TransportError):
            self._http.post("/v1/unload_lora_adapter", json={"lora_name": name})
        shutil.rmtree(folder, ignore_errors=True)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The answer to a request, asked again while the server is away or busy.

        Raises:
            Forgotten: it does not know the model or the adapter.
            RunFailed: it is away for longer than the settings allow, or refuses the request.
        """
        return self._sent("POST", path, body)

    def _sent(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        end, pause, problem = time.monotonic() + self._settings.patience, SHORTEST_PAUSE, ""
        while True:
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                self._was_away = True
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code < 500 and answer.status_code not in BUSY:
                    return self._accepted(path, answer)
                problem = f"status {answer.status_code}: {answer.text[:200]}"
            if time.monotonic() + pause > end:
                raise RunFailed(
                    f"The server at {self._settings.url} has not answered {path} for {self._settings.patience:g} s "
                    f"({problem}). Start it, and go on with --resume; -o device.patience=… waits longer."
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _accepted(self, path: str, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == httpx.codes.NOT_FOUND:
            self._was_away = True
            raise Forgotten(answer.text[:300])
        if answer.status_code >= 400:
            hint = f" Set {KEY} to its API key." if answer.status_code in (401, 403) else ""
            raise RunFailed(
                f"The server at {self._settings.url} refuses {path} with status {answer.status_code}: "
                f"{answer.text[:300]}.{hint}"
            )
        return answer

    def _described(self) -> tuple[str, int | None]:
        """(name of the model, tokens that it reads)."""
        try:
            listed = self._sent("GET", "/v1/models").json()["data"]
        except (Forgotten, ValueError, KeyError, TypeError):
            raise RunFailed(
                f"{self._settings.url}/v1/models does not list models, so it is no OpenAI-compatible server."
            ) from None
        wanted = self._settings.model_there
        for model in listed:
            if model.get("id") == wanted or (not wanted and not model.get("parent")):
                limit = model.get("max_model_len")
                return str(model["id"]), int(limit) if limit else None
        names = ", ".join(str(model.get("id")) for model in listed) or "none"
        raise ZoplatError(f"The server at {self._settings.url} has no model '{wanted}'; it has {names}.")


class Published:
    """One point on a server: an adapter under a name, which is published again when the server has forgotten it.

    Args:
        server: that has it.
        arrays: values of the adapter; None for the model without one.
    """

    def __init__(self, server: Server, arrays: Arrays | None) -> None:
        self._server, self._arrays, self._lock = server, arrays, threading.Lock()
        self._name = server.model
        self._folder: Path | None = None
        if arrays is not None:
            self._name, self._folder = server.load(arrays)

    def complete(self, body: dict[str, Any]) -> Any:
        """The answer of /v1/completions to a request at this point, as JSON."""
        while True:
            name = self._name
            try:
                answer = self._server.post("/v1/completions", {"model": name, **body})
            except Forgotten as problem:
                self._renew(name, str(problem))
                continue
            try:
                return answer.json()
            except ValueError:
                raise RunFailed(f"The server's answer is no JSON: {answer.text[:200]!r}.") from None

    def withdraw(self) -> None:
        """Take the adapter back."""
        if self._folder:
            self._server.unload(self._name, self._folder)

    def _renew(self, name: str, problem: str) -> None:
        """Publish the adapter again, once for all threads that found it gone."""
        with self._lock:
            if self._name != name:
                return
            if self._arrays is None or not self._folder:
                raise RunFailed(f"The server no longer has the model '{name}': {problem}")
            shutil.rmtree(self._folder, ignore_errors=True)
            self._name, self._folder = self._server.load(self._arrays)


def _memory() -> str | None:
    """A folder in memory for small files, None where the system has none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

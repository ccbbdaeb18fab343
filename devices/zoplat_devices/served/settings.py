"""The settings of the served device: which server, how it is asked, and how long it is waited for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError
from zoplat.core.fields import Checked, number
from zoplat.core.permissions import SERVERS, VARIABLE, is_granted


@dataclass(frozen=True)
class ServedSettings(Checked, Device):
    """How an inference server is asked.

    Attributes:
        url: of the server, without /v1.
        model_there: what the server calls the model; empty for the first one that it lists.
        folder: where adapters are written for the server to read; empty for a temporary folder, in memory where the
            system has one.
        folder_there: the same folder as the server sees it; empty where both see it in one place.
        strategy: how several losses are evaluated: "sequential", one point after the other; "batched", with adapters of
            several points published at a time; "auto" is batched.
        adapters: the most that are published at a time.
        requests: the most that are in flight at a time.
        rows: texts in one request, at most.
        seconds: the longest that one request may take.
        patience: seconds after which a server that refuses connections or fails is given up.
        max_tokens: most tokens of a row, which loses its beginning beyond that; 0 for as many as model and server read.
    """

    url: str = "http://127.0.0.1:8000"
    model_there: str = ""
    folder: str = ""
    folder_there: str = ""
    strategy: Literal["auto", "sequential", "batched"] = "auto"
    adapters: int = number(8, at_least=1)
    requests: int = number(16, at_least=1)
    rows: int = number(8, at_least=1)
    seconds: float = number(120.0, above=0)
    patience: float = number(300.0, at_least=0)
    max_tokens: int = number(0, at_least=0)

    def check_url(self) -> None:
        """Raise ZoplatError where the URL is none, or is another machine's and the user did not say that it may be."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ZoplatError(f"device.url must be like http://127.0.0.1:8000, got '{self.url}'  (-o device.url=…)")
        if not (_is_here(parts.hostname) or is_granted(SERVERS)):
            raise ZoplatError(
                f"device.url is on another machine, {parts.hostname}, which would be sent your rows. If it is one that "
                f"you trust, set {VARIABLE}={SERVERS}."
            )


def _is_here(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

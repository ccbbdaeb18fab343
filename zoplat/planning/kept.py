"""Seconds a step that `zoplat profile` measured on this machine, kept in the cache and found again by the settings."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from zoplat.config.run_config import RunConfig
from zoplat.paths import cache_folder, in_cache, replace_text

OF_NO_WEIGHT = (
    "seed",
    "steps",
    "max_passes",
    "max_seconds",
    "max_tokens",
    "max_joules",
    "evaluate_every",
    "sync_every",
    "memory",
)
"""Settings on which the time of a step does not depend."""


def keep_seconds(config: RunConfig, seconds: float) -> None:
    """Keep the seconds of a step for later plans, where there is room for them."""
    folder = cache_folder() / "profiles"
    text = json.dumps({"seconds_a_step": seconds, "estimator": config.estimator_name})
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / _name(config), text)


def seconds_a_step(config: RunConfig) -> float | None:
    """Seconds of a step with these settings; None where it was not measured here."""
    path: Path = in_cache("profiles", _name(config))
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds_a_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _name(config: RunConfig) -> str:
    """A file for these settings on this machine."""
    table = {name: value for name, value in config.table().items() if name not in OF_NO_WEIGHT}
    key = json.dumps([platform.node(), platform.machine(), table], sort_keys=True, default=str)
    return f"{sha256(key.encode()).hexdigest()[:32]}.json"

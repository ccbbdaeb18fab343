"""A run written as a bundle."""

from __future__ import annotations

from pathlib import Path

from zoplat.bundle import bundle
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.registry import catalogue
from zoplat.training.setup import check, rows_of, spec_of


def pack(config: RunConfig, to: Path) -> bundle.Bundle:
    """Write a run as a bundle, which trains where neither torch nor the model is.

    Raises:
        ZoplatError: the run, or the place, is not fit for it.
    """
    check(config)
    bundle.check_free(to)
    if not config.device.makes_bundles:
        able = [entry.name for entry in catalogue() if entry.kind == "device" and entry.value.makes_bundles]
        raise ZoplatError(f"'{config.device_name}' makes no bundles. Use --device {' or '.join(able)}.")
    splits = rows_of(config)
    session = config.device.open(spec_of(config))
    for rows in splits.values():
        PromptEncoder(config, session).rows(rows)
    return bundle.write(config, splits, session, to)

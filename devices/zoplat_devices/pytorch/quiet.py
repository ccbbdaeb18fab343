"""Libraries that say much while they open a model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, advice and warnings of libraries; errors still come through."""
    from transformers.utils import logging as bars

    shown, level = bars.is_progress_bar_enabled(), logging.root.manager.disable
    bars.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.disable(level)
        if shown:
            bars.enable_progress_bar()

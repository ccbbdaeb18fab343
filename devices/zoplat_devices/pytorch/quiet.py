"""What is printed while a model opens: notices of zoplat on stderr, and nothing of the libraries'."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from zoplat_devices.pytorch.hiding import import_transformers


def notice(text: str) -> None:
    """Print what the user should know to stderr."""
    print(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars, advice and warnings of libraries; errors still come through."""
    import_transformers()
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


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """Draw the bar of transformers' reader of GGUF files on terminals only: in a log it is one line without an end.

    That bar does not follow transformers' own switch.
    """
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=None)
    try:
        yield
    finally:
        reader.tqdm = bar

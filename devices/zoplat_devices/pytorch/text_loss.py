"""The loss of plain texts, and how far predictions have moved from those that were kept in a file.

The file has float32 log-probabilities of the whole vocabulary at evenly spaced places, row after row, and nothing else.
It is written and read a text at a time, so that no memory is held between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from zoplat.core.device import TextLoss
from zoplat.core.errors import ZoplatError
from zoplat_devices.pytorch import virtual
from zoplat_devices.pytorch.scoring import Scorer
from zoplat_devices.text.encoding import Encoder


def text_loss(
    scorer: Scorer, encoder: Encoder, texts: Sequence[str], places: int, keep: Path | None, against: Path | None
) -> TextLoss:
    """As `Session.text_loss`; the caller has brought the weights to θ."""
    if scorer.head != "causal":
        raise ZoplatError(f"A {scorer.head} model does not predict each next token of a text; only a causal one does.")
    ids = [encoder.text(text) for text in texts]
    tokens = sum(len(some) - 1 for some in ids)
    if not tokens:
        raise ZoplatError("No text has two tokens, so there is none to predict.")
    chosen = [i * tokens // places for i in range(places)] if places < tokens else list(range(tokens))
    loss, divergence, before = 0.0, 0.0, 0
    with ExitStack() as files, scorer.torch.inference_mode():
        written = files.enter_context(keep.open("wb")) if keep else None
        read = files.enter_context(against.open("rb")) if against else None
        for some in ids:
            count = len(some) - 1
            own = [place - before for place in chosen if before <= place < before + count]
            before += count
            if count:
                logs = _log_probabilities(scorer, some)
                loss -= float(logs.gather(1, _next(scorer, some)).sum(dtype=scorer.torch.float64))
                divergence += _kept(scorer, logs[own].cpu(), written, read)
    return TextLoss(loss / tokens, tokens, divergence / len(chosen) if against else None, len(chosen))


def _log_probabilities(scorer: Scorer, ids: list[int]) -> Any:
    """(tokens − 1, vocabulary) float32: log-probabilities after each token but the last."""
    logits = virtual.run(scorer.model, scorer.builder.padded([ids])).logits[0, -len(ids) : -1]
    return scorer.torch.log_softmax(logits.float(), dim=-1)


def _next(scorer: Scorer, ids: list[int]) -> Any:
    """(tokens − 1, 1): the token that follows each."""
    return scorer.torch.tensor(ids[1:], device=scorer.device)[:, None]


def _kept(scorer: Scorer, logs: Any, written: BinaryIO | None, read: BinaryIO | None) -> float:
    """Write some rows, or sum their divergences Σ p (log p − log q) from those of the file, p, in float64.

    Args:
        scorer: knows torch.
        logs: (places, vocabulary) float32 on the host, q.
        written: a file to be written, if there is one.
        read: the file with p, if there is one.
    """
    if written:
        written.write(logs.contiguous().numpy().tobytes())
    if read is None or not len(logs):
        return 0.0
    torch, size = scorer.torch, logs.numel() * logs.element_size()
    content = bytearray(read.read(size))
    if len(content) != size:
        raise ZoplatError(f"{read.name} is damaged: it ends before the text does. Start the run afresh.")
    kept = torch.frombuffer(content, dtype=torch.float32).view(logs.shape)
    start, now = (torch.log_softmax(each.double(), dim=-1) for each in (kept, logs))  # sums to 1, so no sum is below 0
    return float(torch.where(start == float("-inf"), 0.0, start.exp() * (start - now)).sum())

"""The memory section of a report: peaks by phase, and what training needs beyond inference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from zoplat.report.account import Account
from zoplat.report.figures import draw_memory, readable
from zoplat.report.pages import Picture
from zoplat.training.attribution import LIBRARIES
from zoplat.training.profiler import INFERENCE

WEIGHTS = {"weights", "trainable weights", "frozen weights"}
WEIGHTS |= {"trainable weights, in files", "frozen weights, in files"}
"""Owners that inference has as well."""
WINDOW = "window of the streaming"
"""One more of them: weights that are read ahead. The last word of its name differs between versions."""
UNBOOKED = "forward pass and allocator"


def memory_picture(account: Account, place: str) -> Picture:
    """The figure: the peak of each phase, and the owners that the highest peak of training consists of."""
    at, peak = account.training(place)
    phases = [
        (row["phase"], row[f"{place}_peak"], "rust" if row["phase"] in INFERENCE else "blue")
        for row in account.phases
        if row[f"{place}_peak"]
    ]
    owners = [(owner, size, "blue") for owner, size in account.owners(place)]
    rest = peak - sum(size for _, size, _ in owners)
    if rest > 0:
        owners.append((UNBOOKED, rest, "pale"))
    inference = account.inference(place)
    return Picture(
        "memory" if place == account.places[0] else f"memory-{place}",
        partial(draw_memory, place, phases, at, owners, inference),
        "The broken line is the peak of inference. Owners are what the ledger has booked, read when the run "
        f"ended; '{UNBOOKED}' is that peak less their sum.",
        f"Bars of {place} memory. Inference peaks at {readable(inference)}, training at {readable(peak)} in the phase "
        f"'{at}'.",
    )


def training_beyond_inference(account: Account, place: str) -> str:
    """The paragraph: the peak of training minus that of inference, owner by owner."""
    (at, peak), inference = account.training(place), account.inference(place)
    excess = peak - inference
    text = (
        f"Once the model was open, inference peaked at {readable(inference)} of {place} memory and "
        f"training at {readable(peak)} (phase `{at}`): "
    )
    if excess <= 0:
        text += "training needed no more than inference."
    else:
        state = [(owner, size) for owner, size in account.owners(place) if not _is_inference(owner)]
        text += f"{readable(excess)} more, or {excess / inference:.1%}. Of these, {_attributed(state, excess)}"
    opening = next((row[f"{place}_peak"] for row in account.phases if row["phase"] == "open"), None) or 0
    if opening > peak:
        text += (
            f" Opening the model took {readable(opening)} for a moment, more than anything after it; `peak_bytes` and "
            "`inference_peak_bytes` in summary.json include that moment."
        )
    if account.environment.get("memory_counter") == "sampled" and place == "host":
        text += " The system let no peak be reset, so peaks were sampled every 10 ms and may miss short ones."
    return text


def _is_inference(owner: str) -> bool:
    """Whether inference needs what an owner holds."""
    return owner in LIBRARIES | WEIGHTS or owner.startswith(WINDOW)


def _attributed(state: Sequence[tuple[str, int]], excess: int) -> str:
    """How much of the excess the ledger explains by (owner, bytes) of state, and what the rest may be."""
    booked = ", ".join(f"{readable(size)} of {owner}" for owner, size in state) or "nothing"
    rest = excess - sum(size for _, size in state)
    if rest < 0:
        return f"the ledger books {booked}; that is more than the difference, so part of it took over free memory."
    return (
        f"the ledger books {booked}; {readable(rest)} is what a run does not follow: working memory of passes, some "
        "of it kept for batches of other shapes, and spare pages of the allocator. `zoplat profile` with the same "
        "settings names its owners."
    )

"""A run as two pages: report.html, which needs nothing beside it, and report.md with its figures as files.

Everything on them is read from the run directory, so a report can be made again at any time and anywhere. Here is
what a report says; `figures` draws, and `pages` lays out.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.paths import check_writable, replace_text
from zoplat.report.figures import draw_learning, draw_memory, readable
from zoplat.report.pages import Listing, Part, Picture, Rows, Scores, Section, markdown, page
from zoplat.training.directory import RunDirectory, read_lines
from zoplat.training.journal import Journal
from zoplat.training.profiler import INFERENCE
from zoplat.training.summary import Summary

MEANING = {
    "open": "loading libraries and the model",
    "inference": "forward passes on the longest rows, before training: the memory yardstick",
    "baseline": "scoring both splits before training, pure inference",
    "forward": "forward passes that training asked for",
    "gradient": "backpropagation, its forward pass included",
    "move": "perturbing weights, taking probes back, applying updates",
    "rule": "kernels of step rules that visit every weight",
    "yardstick": "bare forward passes, timed for the overhead ratio",
    "evaluate": "scoring the dev and test splits",
    "checkpoint": "writing checkpoints and digests",
    "other": "between phases: data, journal, bookkeeping",
}
LIBRARIES = {"python, torch and transformers", "noise kernels"}
"""Owners of host memory, wherever the weights are."""
WEIGHTS = {"weights", "trainable weights", "frozen weights", "window of the streaming strategy"}
WEIGHTS |= {"trainable weights, in files", "frozen weights, in files"}
"""Owners that inference has as well."""
REST = "forward pass and allocator"
POINTS = 1000  # losses drawn one by one; more are thinned


@dataclass(frozen=True)
class Account:
    """What the files of a finished run say."""

    directory: RunDirectory
    summary: Summary
    environment: dict[str, Any]
    settings: str
    metrics: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    losses: list[tuple[int, float]]

    @classmethod
    def read(cls, directory: RunDirectory) -> Account:
        """Read the run; raises ZoplatError when it is not finished or its journal is damaged."""
        summary = directory.read_summary()
        if not summary:
            raise ZoplatError(
                f"{directory.path} is not finished: it has no summary.json. "
                f"`zoplat run --resume --out {shlex.quote(str(directory.path))}` goes on to the end."
            )
        steps = Journal.read(directory.journal).steps
        return cls(
            directory,
            summary,
            json.loads(directory.environment.read_text(encoding="utf-8")),
            directory.config.read_text(encoding="utf-8"),
            directory.read_metrics(),
            read_lines(directory.memory),
            [(record.step, record.loss) for record in steps if record.loss is not None],
        )

    @property
    def title(self) -> str:
        """Method, task, model, seed and the day it ended."""
        s, day = self.summary, datetime.fromtimestamp(self.directory.summary.stat().st_mtime)
        return f"{s.estimator} on {s.task} · {s.model} · seed {s.seed} · {day:%Y-%m-%d}"

    @property
    def places(self) -> list[str]:
        """Where memory was counted: the device first, if it has its own."""
        return ["device", "host"] if self.summary.peak_bytes.device else ["host"]

    @property
    def phases(self) -> list[dict[str, Any]]:
        """Rows of phases, in the order of MEANING."""
        order = list(MEANING)
        rows = [row for row in self.memory if row["kind"] == "phase"]
        return sorted(rows, key=lambda row: order.index(row["phase"]) if row["phase"] in order else len(order))

    def inference(self, place: str) -> int:
        """The highest peak of the phases that only infer."""
        return max(row[f"{place}_peak"] or 0 for row in self.phases if row["phase"] in INFERENCE)

    def training(self, place: str) -> tuple[str, int]:
        """The phase with the highest peak of those that neither open the model nor only infer, and that peak."""
        later = [row for row in self.phases if row["phase"] not in {"open", *INFERENCE}]
        row = max(later, key=lambda row: row[f"{place}_peak"] or 0)
        return row["phase"], row[f"{place}_peak"] or 0

    def owners(self, place: str) -> list[tuple[str, int]]:
        """(owner, bytes) of what is held in a place, nothing left out but zeros."""
        rows = [(row["owner"], row["bytes"]) for row in self.memory if row["kind"] == "owner" and row["bytes"]]
        if len(self.places) == 1:
            return rows
        return [row for row in rows if (row[0] in LIBRARIES) == (place == "host")]


def write(directory: RunDirectory, to: Path) -> list[Path]:
    """Write report.html, report.md and the figures of the latter to a folder; returns the files.

    Raises:
        ZoplatError: the run is not finished, matplotlib is missing, or `to` can't be written.
    """
    account = Account.read(directory)
    check_writable(to, "--to")
    sections = _sections(account)
    pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
    files = {"report.html": page(account.title, sections), "report.md": markdown(account.title, sections)}
    files |= {picture.file: picture.svg for picture in pictures}
    to.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(to / name, text)
    return [to / name for name in files]


def _sections(account: Account) -> list[Section]:
    return [
        Section("Score", [_scores(account), _certainty(account)]),
        Section("Learning", [_learning(account)]),
        Section("Memory", [make(account, place) for place in account.places for make in (_memory, _difference)]),
        Section("Cost", [_cost(account), _overhead(account), _by_phase(account)]),
        Section("Doing it again", _again(account)),
        Section("Settings", [Listing(account.settings.strip(), "toml")]),
        Section("Environment", [_environment(account)]),
    ]


def _scores(account: Account) -> Scores:
    s, rows = account.summary, {record["split"]: record["rows"] for record in account.metrics}
    return Scores(s.metric, [(split, *s.scores[split], rows.get(split, 0)) for split in ("test", "dev")])


def _certainty(account: Account) -> str:
    text = "The settings were chosen without the test split; it was scored before and after, never in between."
    _, _, after, rows = _scores(account).splits[0]
    if account.summary.metric == "accuracy" and rows:
        error = math.sqrt(after * (1 - after) / rows)
        text = (
            f"On {rows} test rows, the last score has a standard error of {100 * error:.1f} points. This is one seed."
        )
    if any(record["kept"] for record in account.metrics):
        text += " The first scores were kept from an earlier run that began from the same weights and data."
    return text


def _difference(account: Account, place: str) -> str:
    """The peak of training less that of inference, owner by owner."""
    (at, peak), inference = account.training(place), account.inference(place)
    more = peak - inference
    text = (
        f"Once the model was open, inference peaked at {readable(inference)} of {place} memory and "
        f"training at {readable(peak)} (phase `{at}`): "
    )
    if more <= 0:
        text += "training needed no more than inference."
    else:
        named = [(owner, size) for owner, size in account.owners(place) if owner not in LIBRARIES | WEIGHTS]
        text += f"{readable(more)} more, or {more / inference:.1%}. Of these, {_attributed(named, more)}"
    opening = next((row[f"{place}_peak"] for row in account.phases if row["phase"] == "open"), None) or 0
    if opening > peak:
        text += (
            f" Opening the model took {readable(opening)} for a moment, more than anything after it; `peak_bytes` and "
            "`inference_peak_bytes` in summary.json include that moment."
        )
    if account.environment.get("memory_counter") == "sampled" and place == "host":
        text += " The system let no peak be reset, so peaks were sampled every 10 ms and may miss short ones."
    return text


def _attributed(named: Sequence[tuple[str, int]], more: int) -> str:
    booked = ", ".join(f"{readable(size)} of {owner}" for owner, size in named) or "nothing"
    rest = more - sum(size for _, size in named)
    if rest < 0:
        return f"the ledger books {booked}; that is more than the difference, so part of it took over free memory."
    return (
        f"the ledger books {booked}; {readable(rest)} has no owner in it: working memory that the runtime keeps for "
        "batches of other shapes, short-lived copies, spare pages of the allocator."
    )


def _cost(account: Account) -> Rows:
    s = account.summary
    rows = [
        ("steps", f"{s.steps:,}"),
        ("steps skipped, the loss not being finite", f"{s.skipped_steps:,}"),
        ("forward passes of training", f"{s.forward_passes:,}"),
        ("forward passes of evaluation", f"{s.evaluation_passes:,}"),
        ("seconds in all", f"{s.seconds:,.1f}"),
        ("seconds of training", f"{s.seconds_training:,.1f}"),
        ("overhead ratio", f"{s.overhead_ratio:.2f}" if s.overhead_ratio else "–"),
        ("passes over the trainable weights", f"{s.passes_over_weights:,}"),
        ("drift of the weights, ‖W − θ‖ / ‖θ‖", f"{s.drift:.1e}"),
        ("trainable weights", f"{s.trainable_parameters:,}"),
        ("all weights of the model", readable(s.model_bytes) if s.model_bytes else "–"),
        ("the loss, last fifth against first", s.loss_trend),
    ]
    return Rows(("", ""), rows)


def _overhead(account: Account) -> str:
    return (
        "The overhead ratio is the time of sampled steps over (their forward passes × the time of a bare forward pass "
        "on the same batch): what perturbing and updating cost on top, 1 being nothing. Drift is how far rounding has "
        "carried the stored weights from the exact sum of their updates, on a sample of rows."
    )


def _by_phase(account: Account) -> Rows:
    total = sum(row["seconds"] for row in account.phases) or 1.0
    places = account.places
    body = []
    for row in account.phases:
        peaks = [row[f"{place}_peak"] for place in places]
        body.append(
            [
                row["phase"],
                MEANING.get(row["phase"], ""),
                f"{row['calls']:,}" if row["calls"] else "",
                f"{row['seconds']:,.1f}",
                f"{row['seconds'] / total:.0%}",
                *(readable(peak) if peak else "–" for peak in peaks),
            ]
        )
    peak_heads = [f"peak, {place}" for place in places]
    return Rows(("phase", "what happens in it", "calls", "seconds", "share", *peak_heads), body, words=2)


def _again(account: Account) -> list[Part]:
    run = str(account.directory.path)
    config, fresh = shlex.quote(f"{run}/config.toml"), shlex.quote(f"{run}-again")
    return [
        Listing(f"zoplat run --config {config} --out {fresh}", "sh"),
        "repeats the run, and on the same versions, device and number of threads ends with these trainable weights:",
        Listing(account.summary.weights_digest, "text"),
        "The journal rebuilds them without a forward pass:",
        Listing(f"zoplat replay {shlex.quote(run)} --to {shlex.quote(run + '-weights')}", "sh"),
    ]


def _environment(account: Account) -> Rows:
    facts: list[tuple[str, str]] = []
    for name, value in account.environment.items():
        if isinstance(value, dict):
            facts.append((name, ", ".join(f"{key} {part}" for key, part in value.items())))
        elif value is not None:
            facts.append((name, str(value)))
    return Rows(("", ""), facts, words=2)


def _learning(account: Account) -> Picture:
    losses, metric = account.losses, account.summary.metric
    width = max(5, len(losses) // 12)
    stride = -(-len(losses) // POINTS) or 1
    scores = [(record["step"], record["score"]) for record in account.metrics if record["split"] == "dev"]
    thinned = f", one in {stride} of them drawn" if stride > 1 else ""
    return Picture(
        "learning",
        draw_learning(losses, stride, width, scores, metric),
        f"Above: the mean of the losses that each step saw, on its own batch of training rows{thinned}; the line is "
        f"a running mean over {width} steps. Below: {metric} on the dev split.",
    )


def _memory(account: Account, place: str) -> Picture:
    """Peaks by phase, and what the highest of training is made of."""
    at, peak = account.training(place)
    phases = [
        (row["phase"], row[f"{place}_peak"], "rust" if row["phase"] in INFERENCE else "blue")
        for row in account.phases
        if row[f"{place}_peak"]
    ]
    owners = [(owner, size, "blue") for owner, size in account.owners(place)]
    rest = peak - sum(size for _, size, _ in owners)
    if rest > 0:
        owners.append((REST, rest, "pale"))
    return Picture(
        "memory" if place == account.places[0] else f"memory-{place}",
        draw_memory(place, phases, at, owners, account.inference(place)),
        "The broken line is the peak of inference. Owners are what the ledger has booked, read when the run "
        f"ended; '{REST}' is that peak less their sum.",
    )

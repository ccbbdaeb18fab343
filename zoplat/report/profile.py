"""The memory report: modes of a run side by side, and the phases and the timeline of the one that was asked for.

It is made from what `zoplat profile --to` has measured: dictionaries, which stand in profile.json beside it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoplat.paths import check_writable, replace_bytes
from zoplat.report.figures import WIDE, readable
from zoplat.report.pages import Listing, Part, Picture, Rows, Section, markdown, page
from zoplat.report.profile_figures import draw_stacks, draw_timeline, grouped
from zoplat.training.attribution import NOBODY
from zoplat.training.profiler import INFERENCE, TRAINING

SMALL = 0.01
"""Share of a peak below which an owner is not named by itself."""
BAR = 1.05
"""Most that stateless training may take, as a multiple of inference."""


def write_profile(cases: Sequence[dict[str, Any]], command: str, to: Path) -> list[Path]:
    """Write report.html, report.md with its figures, profile.json, and timeline.csv of the mode that was asked for.

    Args:
        cases: as `plan.measured.measured` yields them; the second one is the mode that was asked for.
        command: that made them.
        to: the folder.

    Returns:
        The files.

    Raises:
        ZoplatError: the folder can't be written.
    """
    check_writable(to, "--to")
    title, sections = memory_report(cases, command)
    files = {
        "report.html": page(title, sections),
        "report.md": markdown(title, sections),
        "profile.json": json.dumps({"command": command, "cases": cases}, ensure_ascii=False) + "\n",
        **{picture.file: picture.draw(WIDE) for section in sections for picture in section.pictures},
    }
    if profile := cases[1]["profile"]:
        files["timeline.csv"] = _as_csv(profile["timeline"])
    to.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_bytes(to / name, text.encode())
    return [to / name for name in files]


def memory_report(cases: Sequence[dict[str, Any]], command: str) -> tuple[str, list[Section]]:
    """The title and the sections."""
    inference, asked = cases[0]["profile"], cases[1]
    profile = asked["profile"]
    first = profile or inference or {}
    title = f"Memory of {asked['name']} · {first.get('model')} · {first.get('tune')} · {first.get('dtype')}"
    beside: list[Part] = [*_side_by_side(cases), *_reasons(cases)]
    sections = [Section("Side by side", beside)]
    if profile:
        sections += [
            Section("Owners by phase", [_phases_picture(asked["name"], profile), _owners_table(profile)]),
            Section("What dominates, and what to do", [*_advice(cases)]),
            Section("Timeline", [_timeline_picture(profile)]),
            Section("The machine", _machine(profile)),
        ]
    return title, [*sections, Section("How it was measured", [_method(first), Listing(command, "sh")])]


def place_of(profile: dict[str, Any]) -> str:
    """Where the model is: "device" or "host"."""
    return "device" if any(row["device_peak"] for row in profile["phases"]) else "host"


def highest(profile: dict[str, Any]) -> dict[str, Any]:
    """The phase of the steps with the highest peak; of inference alone, that of its passes.

    What opening the model and encoding the rows take for a moment is the same for all modes, and not in it.
    """
    name = f"{place_of(profile)}_peak"
    steps = [row for row in profile["phases"] if row["phase"] in TRAINING]
    passes = [row for row in profile["phases"] if row["phase"] in INFERENCE]
    found: dict[str, Any] = max(steps or passes, key=lambda row: row[name] or 0)
    return found


def peak_of(profile: dict[str, Any]) -> int:
    """Its bytes."""
    return int(highest(profile)[f"{place_of(profile)}_peak"])


def _side_by_side(cases: Sequence[dict[str, Any]]) -> list[Part]:
    there = [case for case in cases if case["profile"]]
    if not there:
        return []
    inference = peak_of(cases[0]["profile"]) if cases[0]["profile"] else None
    bars = [(case["name"], grouped(highest(case["profile"])["owners"]), case["planned"]) for case in there]
    place = place_of(there[0]["profile"])
    body = []
    for case in there:
        peak, planned = peak_of(case["profile"]), case["planned"]
        times = f"{peak / inference:.3f}" if inference else "–"
        span = f"{readable(planned['low'])} – {readable(planned['high'])}" if planned else "–"
        error = f"{planned['expected'] / peak - 1:+.1%}" if planned else "–"
        expected = readable(planned["expected"]) if planned else "–"
        nobody = highest(case["profile"])["owners"].get(NOBODY, 0) / peak
        body.append([case["name"], readable(peak), times, expected, span, error, f"{nobody:.1%}"])
    head = ("", "peak", "÷ inference", "planned", "low – high", "planned − peak", "no owner")
    caption = (
        f"The highest peak of {place} memory in its steps or passes, by owner. The broken line is inference alone; "
        "the black marks are what the plan expects, from low to high."
    )
    alt = "; ".join(f"{case['name']} {readable(peak_of(case['profile']))}" for case in there)
    return [
        Picture("memory", partial(draw_stacks, bars, inference or 0), caption, f"Stacked bars: {alt}."),
        Rows(head, body),
    ]


def _reasons(cases: Sequence[dict[str, Any]]) -> list[Part]:
    return [f"{case['name']} was not measured: {case['reason']}." for case in cases if not case["profile"]]


def _phases_picture(name: str, profile: dict[str, Any]) -> Picture:
    bars = [(row["phase"], grouped(row["owners"]), None) for row in profile["phases"]]
    return Picture(
        "phases",
        partial(draw_stacks, bars, 0),
        "The peak of each phase by owner; opening the model has what loading takes for a moment.",
        f"Stacked bars of the phases of {name}.",
    )


def _owners_table(profile: dict[str, Any]) -> Rows:
    """Owners × phases; those that are nowhere above a hundredth of the peak are added up."""
    phases, limit = profile["phases"], SMALL * peak_of(profile)
    owners = dict.fromkeys(owner for row in phases for owner in row["owners"])
    large = [o for o in owners if max(row["owners"].get(o, 0) for row in phases) >= limit]
    body = [[owner, *(_size(row["owners"].get(owner, 0)) for row in phases)] for owner in large]
    rest = [sum(size for o, size in row["owners"].items() if o not in large) for row in phases]
    body.append(["smaller ones", *map(_size, rest)])
    body.append(["all", *(_size(sum(row["owners"].values())) for row in phases)])
    return Rows(("owner, MiB", *(row["phase"] for row in phases)), body)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f}" if count else "–"


def _advice(cases: Sequence[dict[str, Any]]) -> list[Part]:
    """What the peak is made of, what it is beside inference, and the changes that reach the largest owners."""
    asked = cases[1]
    row, peak = highest(asked["profile"]), peak_of(asked["profile"])
    owners = sorted(row["owners"].items(), key=lambda pair: -pair[1])
    parts: list[Part] = [
        f"The peak, {readable(peak)}, is in the phase `{row['phase']}`. The largest owners: "
        + ", ".join(f"{owner} {readable(size)} ({size / peak:.0%})" for owner, size in owners[:4])
        + "."
    ]
    if cases[0]["profile"]:
        times = peak / peak_of(cases[0]["profile"])
        verdict = "within" if times <= BAR else "above"
        parts.append(f"That is {times:.3f} × inference, {verdict} the {BAR} that stateless training may take.")
    sizes = grouped(row["owners"])
    for group, text in ADVICE.items():
        if sizes.get(group, 0) > 0.1 * peak:
            parts.append(f"{group}, {sizes[group] / peak:.0%}: {text}")
    if sizes.get(NOBODY, 0) > SMALL * peak:
        parts.append(f"{readable(sizes[NOBODY])} have no owner: that is a defect of the ledger, please report it.")
    return parts


ADVICE = {
    "weights": "`--dtype bfloat16` halves float32 weights, `--base int8` with `--tune lora` takes a quarter of them, "
    "and `-o device.strategy=streaming` leaves them on disk.",
    "state of the method": "a method without state (`zoplat list estimators` has bytes a weight), or "
    "`-o device.state=disk`.",
    "activations and logits": "a smaller `--micro-batch-size` gives the same results up to rounding.",
    "gradients": "forward passes only have none: `--estimator lozo`; or `--tune lora` has few.",
    "libraries": "they are the same for every mode; `zoplat pack` makes a bundle for a runner without torch.",
    "kept free by allocators": "the environment variable MALLOC_TRIM_THRESHOLD_ makes glibc give back more, for time.",
}
"""Group of owners → what makes it smaller."""


def _timeline_picture(profile: dict[str, Any]) -> Picture:
    return Picture(
        "timeline",
        partial(draw_timeline, profile["timeline"], place_of(profile)),
        "Memory in use over the measured steps, sampled, with the exact peak of every phase as a line above it and "
        "the phases in colour. timeline.csv and profile.json have the numbers.",
        f"Memory over {profile['steps']} steps.",
    )


def _machine(profile: dict[str, Any]) -> list[Part]:
    """What probes have read, and why others have not."""
    body = [_reading(row) for row in profile["probes"]]
    parts: list[Part] = [Rows(("probe", "quantity", "mean", "most", "in all", "last"), body, words=2)] if body else []
    if profile["reserved"] is not None:
        parts.append(f"The allocator of the device had reserved {readable(profile['reserved'])} at the end.")
        parts += _context(profile)
    parts += [f"`{name}` has nothing to read here: {reason}." for name, reason in profile["probes_missing"].items()]
    return parts


def _context(profile: dict[str, Any]) -> list[Part]:
    """What the driver counts and the allocator has not reserved."""
    counted = [row["last"] for row in profile["probes"] if row["probe"] == "nvml" and row["unit"] == "B"]
    rest = sum(counted) - profile["reserved"]
    return (
        [f"The driver counts {readable(sum(counted))}: {readable(rest)} are context and kernels."] if rest > 0 else []
    )


def _reading(row: dict[str, Any]) -> list[str]:
    values = (row[name] for name in ("mean", "most", "total", "last"))
    shown = ["–" if v is None else readable(v) if row["unit"] == "B" else f"{v:,.1f} {row['unit']}" for v in values]
    return [row["probe"], row["quantity"], *shown]


def _method(profile: dict[str, Any]) -> str:
    counter = profile.get("memory_counter")
    return (
        f"Each mode ran {profile.get('steps')} steps after a first one, in a process of its own, on the same batches; "
        "then one more step on the longest of them, in which every array of a pass was followed while it lived: those "
        "are activations, logits and gradients. Weights, state and scratch are booked when they are made. What "
        "allocators keep free was found by asking them to give it back at the end, so of that, and of code, at most as "
        "much is shown as is left of a peak. "
        + ("Peaks are the kernel's own. " if counter == "kernel" else "Peaks were sampled every 10 ms. ")
        + f"{profile.get('threads')} threads."
    )


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["kind", "phase", "began", "ended", "host", "device"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

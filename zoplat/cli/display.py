"""What commands print of a run that is over: its summary, its memory, and what `zoplat profile` measured."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table
from rich.text import Text

from zoplat.calls.progress import plain_console
from zoplat.core.notices import counted
from zoplat.training.directory import RunDirectory
from zoplat.training.profiling import Suggestion
from zoplat.training.result import Result


def print_summary(result: Result) -> None:
    """Print the scores of a run, its cost, and its memory by phase."""
    console, summary = plain_console(), result.summary
    scores = Table("", "before", "after", box=None, pad_edge=False)
    for split, (before, after) in summary.scores.items():
        scores.add_row(f"{split} {summary.metric}", f"{before:.1%}", Text(f"{after:.1%}", "bold"))
    ratio = summary.overhead_ratio
    cost = f"; a step costs {ratio} × its forward passes" if ratio else ""
    console.print()
    console.print(scores)
    console.print(
        f"\n{counted(summary.steps, 'step')}, {counted(summary.forward_passes, 'forward pass')}, "
        f"{summary.seconds_training:.0f} s of training, {summary.seconds:.0f} s in all; "
        f"the loss was {summary.loss_trend}{cost}"
    )
    if summary.stopped:
        console.print(f"ended before its budget was used up: {summary.stopped}")
    if summary.skipped_steps:
        why = "the losses all being the same, or not finite" if summary.step_rule == "normalized" else ""
        console.print(
            f"{summary.skipped_steps} of {counted(summary.steps, 'step')} skipped, {why or 'the loss not being finite'}"
        )
    if (summary.outlook and summary.outlook != "learning") or summary.advice:
        console.print(f"{summary.outlook}".capitalize() + (f". {summary.advice}" if summary.advice else ""))
    if summary.general_kl is not None:
        console.print(
            f"general text: loss {summary.general_loss_before:.4f} → {summary.general_loss_after:.4f} nats a token, "
            f"KL(before ‖ after) {summary.general_kl:.2g}"
        )
    console.print()
    console.print(memory_table(result))
    console.print(f"\n{memory_line(result)}")
    console.print(f"\nrun directory: {result.directory}\npicture: zoplat report {result.directory}")


def memory_line(result: Result) -> str:
    """Peak memory of the whole run and of inference alone, opening the model included in both."""
    whole, before = result.summary.peak_bytes, result.summary.inference_peak_bytes
    place = "device" if whole.device else "host"
    peak, inference = (whole.device, before.device) if whole.device else (whole.host, before.host)
    if not inference:
        return f"peak {place} memory {mebibytes(peak)}"
    return (
        f"peak {place} memory {mebibytes(peak)}, {peak / inference:.2f} × the {mebibytes(inference)} that opening the "
        "model and inference alone need"
    )


def memory_table(result: Result) -> Table:
    """Seconds and peak memory by phase, and the ratio to the peak of inference."""
    table = Table("phase", "seconds", "peak memory", "of inference", box=None, pad_edge=False)
    phases = [row for row in RunDirectory(result.directory).read_memory() if row["kind"] == "phase"]
    peaks = {row["phase"]: row["device_peak"] or row["host_peak"] for row in phases}
    inference = max(peaks.get(phase, 0) for phase in ("inference", "baseline"))
    for row in phases:
        peak = peaks[row["phase"]]
        table.add_row(
            row["phase"], f"{row['seconds']:.1f}", mebibytes(peak), f"{peak / inference:.2f}" if inference else "–"
        )
    return table


def mebibytes(count: int) -> str:
    """A number of bytes in MiB, as text."""
    return f"{count / 2**20:,.0f} MiB"


def print_profile(measured: dict[str, Any]) -> None:
    """Print phases and owners, as `training.profiling.profile` measured them."""
    console = plain_console()
    console.print(
        f"{measured['estimator']} on {measured['model']} "
        f"({', '.join(filter(None, (measured['device'], measured['dtype'], measured['strategy'])))}, "
        f"restore {measured['restore']}): "
        f"{measured['seconds_a_step']:.3f} s and {measured['forward_passes_a_step']:g} forward passes a step"
    )
    table = Table("phase", "seconds", "of", "peak, host", "device", box=None)
    for row in measured["phases"]:
        device = "–" if row["device_peak"] is None else mebibytes(row["device_peak"])
        table.add_row(row["phase"], f"{row['seconds']:.3f}", row["of"], mebibytes(row["host_peak"]), device)
    console.print(table)
    shown = [row for row in measured["phases"] if row["owners"]]
    owners = Table("owner", *(row["phase"] for row in shown), box=None)
    for name in dict.fromkeys(name for row in shown for name in row["owners"]):
        owners.add_row(name, *(mebibytes(row["owners"][name]) if name in row["owners"] else "–" for row in shown))
    console.print(owners)
    probes = Table("probe", "quantity", "mean", "most", "in all", box=None)
    for row in measured["probes"]:
        values = (row["mean"], row["most"], row["total"])
        probes.add_row(row["probe"], row["quantity"], *(_in_unit(value, row["unit"]) for value in values))
    if probes.row_count:
        console.print(probes)


def _in_unit(value: float | None, unit: str) -> str:
    """A reading of a machine probe, as text."""
    if value is None:
        return "–"
    return mebibytes(int(value)) if unit == "B" else f"{value:,.1f} {unit}"


def print_radii(found: Suggestion) -> None:
    """Print the radii that were tried, and the suggested one."""
    console = plain_console()
    table = Table("ε", "slopes differ from those at the next ε by", box=None)
    for eps, error in found.error.items():
        mark = "  ← suggested" if eps == found.eps else ""
        table.add_row(f"{eps:.1e}", f"{100 * error:.1f} %{mark}" if math.isfinite(error) else "not finite")
    console.print(table)
    console.print(f"--eps {found.eps:.1e}   noise of a loss {found.noise:.1e}, {counted(found.passes, 'forward pass')}")


def print_agreement(found: dict[str, Any]) -> None:
    """Print the cosines of estimates with the gradient, as `training.agreement.agreement` measured them."""
    console, cosines = plain_console(), found["cosines"]
    alone = 1 / math.sqrt(found["weights"])
    console.print(
        f"{found['estimator']}, {len(cosines)} estimates in {found['steps']} steps: cosine with the gradient of their "
        f"batch {found['mean']:.4f} on average, {min(cosines):.4f} to {max(cosines):.4f}; one random direction among "
        f"{found['weights']:,} weights has {alone:.4f}"
    )
    table = Table("block", "mean cosine", box=None)
    for name, cosine in found["blocks"].items():
        table.add_row(name, f"{cosine:.4f}")
    console.print(table)

"""zoplat check: whether a plugin keeps the promises of its kind."""

from collections import Counter
from typing import Any

import click

from zoplat.cli.options import OUTPUT, PLUGIN, echo_json
from zoplat.cli.terminal import columns, is_quiet
from zoplat.registry import Entry


@click.command()
@click.argument("target")
@click.option("--only", metavar="NAME", help="This part alone.")
@click.option("--model", metavar="ID|DIR", help="A small model on which devices are tried that open models.")
@PLUGIN
@OUTPUT
def check(target: str, only: str | None, model: str | None, as_json: bool) -> None:
    """Test what TARGET registers: has each estimator, sampler, rule, device and task the properties of its kind?

    TARGET is an installed distribution such as zoplat, a registered name such as lozo, a module, a .py file, or a
    folder with a package or a project in it. Exit status 1 if a property fails.
    """
    from zoplat.calls.check import chosen
    from zoplat.testing.target import opened

    with opened(target) as found:
        entries = chosen(found, only)
        report = Report(as_json, model)
        for number, entry in enumerate(entries, 1):
            report.add(entry, f"{number} of {len(entries)}")
        failures = [] if only else found.failures
        report.end(target, failures)
    if report.counts["failed"] or failures:
        click.get_current_context().exit(1)


class Report:
    """What is printed: results on standard output, progress beside it.

    Args:
        as_json: one object at the end in place of lines.
        model: for devices that open models.
    """

    def __init__(self, as_json: bool, model: str | None = None) -> None:
        from rich.console import Console

        self.as_json, self.model = as_json, model
        self.counts: Counter[str] = Counter()
        self.parts: list[dict[str, Any]] = []
        self.out = Console(highlight=False, soft_wrap=not columns())
        self.progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def add(self, entry: Entry, number: str) -> None:
        """Check one part and say how it turned out."""
        from zoplat.calls.check import CheckedPart

        self.progress.quiet = is_quiet()
        if not self.progress.is_terminal:
            self.progress.print(f"checking {entry.kind} {entry.name} ({number})", markup=False)
        with self.progress.status(f"{entry.kind} {entry.name} ({number})"):
            part = CheckedPart.of(entry, self.model)
        rows = [{"property": one.name, "outcome": one.outcome, "message": one.message} for one in part.findings]
        counts = part.counts
        self.counts += counts
        self.parts.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": entry.distribution,
                "version": entry.version,
                **_words(counts),
                "properties": rows,
            }
        )
        if self.as_json:
            return
        self.out.print(f"{entry.kind} {entry.name}: {_sentence(counts)}", style="red" if counts["failed"] else "green")
        for row in rows:
            if row["outcome"] == "failed":
                self.out.print(f"  ✗ {row['property']}", style="bold", markup=False)
                self.out.print(f"    {row['message']}", markup=False)

    def end(self, target: str, failures: list[str]) -> None:
        """Say how it all turned out."""
        if self.as_json:
            found = {"target": target, **_words(self.counts), "failures": failures, "parts": self.parts}
            echo_json(found)
            return
        for failure in failures:
            self.out.print(f"! {failure}", style="red", markup=False)
        if len(self.parts) > 1:
            self.out.print(f"{len(self.parts)} parts: {_sentence(self.counts)}", style="bold")


def _words(counts: Counter[str]) -> dict[str, int]:
    return {"held": counts["held"], "not_applicable": counts["not applicable"], "failed": counts["failed"]}


def _sentence(counts: Counter[str]) -> str:
    held, beside, failed = counts["held"], counts["not applicable"], counts["failed"]
    more = f", {beside} {'does' if beside == 1 else 'do'} not apply" if beside else ""
    less = f", {failed} {'fails' if failed == 1 else 'fail'}" if failed else ""
    return f"{held} {'property holds' if held == 1 else 'properties hold'}{more}{less}"

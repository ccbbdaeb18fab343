"""`zoplat.plan`: memory and time of a run before it, as a function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Unpack

from zoplat.calls.frames import frame
from zoplat.calls.plugins import Files, registered
from zoplat.calls.progress import duration
from zoplat.config.keywords import PlanSettings, spelled_out
from zoplat.planning.fixed import MIB, Share
from zoplat.planning.memory import Planned
from zoplat.planning.plan import Outcome, Plan, Verdict
from zoplat.planning.plan import plan as planned
from zoplat.planning.profiles import byte_count, find
from zoplat.report.pages import Folded, Part, Rows, piece

AT_LEAST = "≥: what compute and bandwidth of the profile allow; a real step takes longer."
UNKNOWN = "unknown: `zoplat profile` with the same flags measures a step here, and is remembered."


@dataclass(frozen=True)
class PlanResult:
    """What a run would take, and whether it fits.

    Attributes:
        plan: the asked mode and others, in full.
    """

    plan: Plan

    @property
    def verdict(self) -> Verdict:
        """Whether the asked mode fits: "fits", "too large" or "can't say"."""
        return self.plan.outcomes[0].verdict

    @property
    def bytes(self) -> Share:
        """What the asked mode takes: `.low`, `.expected` and `.high` bytes."""
        return self.asked.total

    @property
    def asked(self) -> Planned:
        """The asked mode: memory by owner, forward passes and passes over the weights of a step, facts."""
        asked = self.plan.outcomes[0].planned
        assert asked is not None  # `planning.plan` raises where it can't be planned
        return asked

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change, as flags, where the asked mode does not fit."""
        return self.plan.advice

    def table(self) -> Any:
        """One row a mode, as a pandas frame: bytes, seconds a step, and whether it fits.

        Raises:
            ZoplatError: pandas is not installed.
        """
        return frame(map(_row, self.plan.outcomes), "table()").set_index("mode")

    def owners(self) -> Any:
        """One row an owner of memory in the asked mode, as a pandas frame of bytes.

        Raises:
            ZoplatError: pandas is not installed.
        """
        return frame(map(vars, self.asked.shares), "owners()").set_index("owner")

    @property
    def heading(self) -> str:
        """The asked mode in one line."""
        facts, (rows, tokens) = self.asked.facts, self.asked.rows
        return (
            f"{facts['model']} in {facts['dtype']} · device {facts['device']} · {facts['strategy']}, restore "
            f"{facts['restore']} · longest batch {rows} × {tokens} tokens"
        )

    @property
    def limit(self) -> str:
        """The machine, and what a run may take of it."""
        size = self.plan.limit
        limit = f"a limit of {size_text(size)}" if size else "no --memory given, so what fits can't be said"
        return f"modes on {self.plan.where}, {limit}"

    def owner_rows(self) -> Rows:
        """The owners of memory in the asked mode for people; those below a MiB are added up."""
        shares = self.asked.shares
        small = [share for share in shares if share.high < MIB]
        rest = Share("smaller ones", *(sum(getattr(share, name) for share in small) for name in BOUNDS))
        shown = (*(share for share in shares if share.high >= MIB), rest, self.asked.total)
        body = [(share.owner, *(size_text(getattr(share, name)) for name in BOUNDS), share.note) for share in shown]
        return Rows(("as asked, by owner", *BOUNDS, ""), body)

    def mode_rows(self) -> Rows:
        """The modes beside each other for people; the last column is the verdict."""
        return Rows(("", *BOUNDS, "÷ inference", "a step", "the run", ""), [*map(_texts, self.plan.outcomes)])

    def notes(self) -> Iterator[str]:
        """What to change, and what marks in the table mean."""
        yield from self.plan.advice
        if cards := self.asked.facts.get("cards"):
            sizes = ", ".join(f"{card} has {size_text(size)}" for card, size in cards.items())
            yield f"sizes are those of the fullest of {len(cards)} cards; of the weights {sizes}"
        known = [(outcome.seconds, outcome.at_least) for outcome in self.plan.outcomes]
        if any(at_least is not None for _, at_least in known):
            yield AT_LEAST
        if any(seconds is None and at_least is None for seconds, at_least in known):
            yield UNKNOWN

    def _repr_html_(self) -> str:
        """The tables, for notebooks."""
        parts: list[Part] = [self.limit, self.mode_rows(), *self.notes(), Folded("By owner", [self.owner_rows()])]
        return piece(f"{self.verdict.capitalize()} · {self.heading}", parts)


BOUNDS = ("low", "expected", "high")


@spelled_out(PlanSettings)
def plan(
    *,
    memory: str | None = None,
    profile: str | None = None,
    tokens: int | None = None,
    alone: bool = False,
    plugin: Files = (),
    **settings: Unpack[PlanSettings],
) -> PlanResult:
    """Say what memory and time a run takes and which modes fit, as `zoplat plan` does; no weights are read.

    Args:
        memory: what the run may take, such as "8GiB"; that of the profile when None.
        profile: the machine that is meant, such as "rtx-3060", or a TOML file; this one when None.
        tokens: of every row; those of the task's rows when None.
        alone: whether only the asked mode is planned, beside no other.
        plugin: Python files whose parts are used too.
        settings: those of the run, as for `zoplat.run`.

    Returns:
        The plan, with `.verdict`, `.bytes`, `.advice`, `.table()` and `.owners()`; a notebook shows it as tables.

    Raises:
        ZoplatError: where the command would exit with 2, other than for a verdict that can't be said.
    """
    registered(plugin)
    limit = byte_count(memory, "--memory") if memory else None
    return PlanResult(planned(settings, limit, find(profile) if profile else None, tokens, not alone))


def _row(outcome: Outcome) -> dict[str, Any]:
    """A mode as plain values."""
    total = outcome.planned.total if outcome.planned else None
    return {
        "mode": outcome.mode.name,
        **{name: getattr(total, name, None) for name in BOUNDS},
        "seconds a step": outcome.seconds,
        "seconds a step, at least": outcome.at_least,
        "steps": outcome.steps,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "flags": outcome.mode.command,
    }


def _texts(outcome: Outcome) -> list[str]:
    """A mode for people."""
    if outcome.planned is None:
        return [outcome.mode.name, "", "", "", "", "", "", f"{outcome.verdict}: {outcome.reason}"]
    total = outcome.planned.total
    ratio = outcome.planned.training / outcome.planned.inference
    known = outcome.seconds if outcome.seconds is not None else outcome.at_least
    sign = "" if outcome.seconds is not None else "≥ "
    step = f"{sign}{known:.2g} s" if known is not None else "unknown"
    whole = f"{sign}{duration(known * outcome.steps)}" if known is not None and outcome.steps else "unknown"
    sizes = [size_text(getattr(total, name)) for name in BOUNDS]
    return [outcome.mode.name, *sizes, f"{ratio:.2f}", step, whole, outcome.verdict]


def size_text(count: int) -> str:
    """Bytes in the unit in which they are read.

    >>> size_text(3 << 20), size_text(27 << 30)
    ('3 MiB', '27.00 GiB')
    """
    return f"{count / 2**30:.2f} GiB" if count >= 1 << 30 else f"{count / MIB:.0f} MiB"

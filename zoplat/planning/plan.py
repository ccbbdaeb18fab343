"""The plan of a run: its memory and time beside those of other modes, what fits, and what to change if it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.planning.fixed import LIBRARIES
from zoplat.planning.kept import seconds_a_step
from zoplat.planning.memory import Planned, Rehearsals
from zoplat.planning.modes import ASKED, CHECKPOINTED, COMPARED, Mode, configured
from zoplat.planning.profiles import Profile, limit_of
from zoplat.planning.qlora import QLORA, as_qlora

Verdict = Literal["fits", "too large", "can't say"]


@dataclass(frozen=True)
class Outcome:
    """A mode, and what it would take.

    Attributes:
        mode: the mode.
        planned: its memory; None where it can't be planned.
        reason: why it can't.
        verdict: whether it fits: if its highest estimate does; not if the expected one does not.
        seconds: of a step, as `zoplat profile` measured it here for the same settings; None where it did not.
        at_least: seconds of a step that the compute and the bandwidth of a profile allow; None without a profile.
        steps: of the run; None where they are not known.
    """

    mode: Mode
    planned: Planned | None
    reason: str
    verdict: Verdict
    seconds: float | None = None
    at_least: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Plan:
    """The asked mode, first, and others.

    Attributes:
        outcomes: one for each mode.
        limit: bytes that a run may take; None where none is known.
        where: what the limit is of.
        advice: what to change, when the asked mode does not fit.
    """

    outcomes: tuple[Outcome, ...]
    limit: int | None
    where: str
    advice: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 if the asked mode fits, 1 if it does not, 2 if that can't be said."""
        return {"fits": 0, "too large": 1}.get(self.outcomes[0].verdict, 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `zoplat plan --json` prints them."""
        return {
            "status": "done",
            "verdict": self.outcomes[0].verdict,
            "limit": self.limit,
            "where": self.where,
            "advice": [*self.advice],
            "modes": [_described(outcome) for outcome in self.outcomes],
        }


def plan(
    settings: Mapping[str, Any],
    limit: int | None = None,
    profile: Profile | None = None,
    tokens: int | None = None,
    compares: bool = True,
) -> Plan:
    """Plan a run without opening its model.

    Args:
        settings: of the run, as `resolve` takes them.
        limit: bytes that it may take; those of the profile, or else of the settings, when None.
        profile: the machine that is meant; this one when None.
        tokens: of every row; those of the task's rows when None.
        compares: whether other modes are planned too.

    Raises:
        ZoplatError: the asked mode can't be planned.
    """
    given = {**settings}
    if profile:
        given["device"] = given.get("device") or profile.device
    named = configured(given, ASKED).memory
    limit = limit or (profile.usable if profile else limit_of(named) if named else None)
    where = profile.title if profile else "this machine"
    rehearsals = Rehearsals(profile, tokens)
    outcomes = [*_outcomes(given, limit, profile, rehearsals, compares)]
    advice = [*_advice(given, limit, rehearsals, outcomes)] if outcomes[0].verdict == "too large" else []
    return Plan(tuple(outcomes), limit, where, tuple(advice))


def _outcomes(
    given: Mapping[str, Any], limit: int | None, profile: Profile | None, rehearsals: Rehearsals, compares: bool
) -> Iterator[Outcome]:
    asked = configured(given, ASKED)
    yield _outcome(asked, ASKED, limit, profile, rehearsals)
    seen = [_same(asked)]
    for mode in COMPARED if compares else ():
        try:
            config = configured(given, mode)
            if _same(config) not in seen:
                seen.append(_same(config))
                found = _outcome(config, mode, limit, profile, rehearsals)
                yield found
                if mode is CHECKPOINTED and found.planned and (packed := as_qlora(found.planned)):
                    yield Outcome(QLORA, packed, "", verdict(packed, limit), steps=found.steps)
        except ZoplatError as problem:
            yield Outcome(mode, None, str(problem).partition("\n")[0], "can't say")


def _same(config: RunConfig) -> tuple[Any, ...]:
    """What two modes that take the same have in common."""
    recompute = getattr(config.estimator, "recompute", False)
    return config.estimator_name, config.tune, config.dtype, config.base, recompute


def _outcome(
    config: RunConfig, mode: Mode, limit: int | None, profile: Profile | None, rehearsals: Rehearsals
) -> Outcome:
    planned = rehearsals.planned(config, 2 if mode is ASKED else 1, limit is not None)
    steps = config.steps
    if steps is None and config.max_passes and planned.forward_passes:
        steps = int(config.max_passes / planned.forward_passes)
    seconds = None if profile else seconds_a_step(config)
    at_least = planned.seconds_at_least(profile) if profile else None
    return Outcome(mode, planned, "", verdict(planned, limit), seconds, at_least, steps)


def verdict(planned: Planned, limit: int | None) -> Verdict:
    """Whether a mode fits into so many bytes."""
    if limit is None or planned.total.expected <= limit < planned.total.high:
        return "can't say"
    return "fits" if planned.total.high <= limit else "too large"


def _advice(
    given: Mapping[str, Any], limit: int | None, rehearsals: Rehearsals, outcomes: list[Outcome]
) -> Iterator[str]:
    """What would fit: the same run with fewer rows at a time, or another mode."""
    config, asked = configured(given, ASKED), outcomes[0].planned
    assert asked is not None
    size = config.read_at_once // 2
    while size and asked.kept <= (limit or 0) and config.estimator_name:
        planned = rehearsals.planned(replace(config, micro_batch_size=size), is_limited=True)
        if verdict(planned, limit) == "fits":
            yield f"--micro-batch-size {size}: the same results up to rounding, {_gib(planned.total.high)} at most"
            break
        size //= 2
    for outcome in outcomes[1:]:
        if outcome.verdict == "fits" and outcome.planned and outcome.mode is not QLORA:
            yield f"{outcome.mode.command}: {_gib(outcome.planned.total.high)} at most"
    libraries = next((share.expected for share in asked.shares if share.owner == LIBRARIES), 0)
    if libraries > (limit or 0):
        yield (
            f"{LIBRARIES} alone take {_gib(libraries)}, whatever the model: `zoplat pack` makes a bundle that a runner "
            "without torch trains, zoplat-edge"
        )
    elif not any(outcome.verdict == "fits" for outcome in outcomes) and asked.kept > (limit or 0):
        yield (
            f"what is kept throughout takes {_gib(asked.kept)} already: a smaller model, --dtype bfloat16, or "
            "--device cpu -o device.strategy=streaming, which leaves the weights on disk"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _described(outcome: Outcome) -> dict[str, Any]:
    planned = outcome.planned
    found = {
        "mode": outcome.mode.name,
        "flags": outcome.mode.command,
        "needs": outcome.mode.needs,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
    }
    if planned is None:
        return found
    names = ("model", "device", "dtype", "base", "restore", "rounding", "strategy", "trainable_parameters")
    return {
        **found,
        **{name: planned.facts.get(name) for name in names},
        "bytes": {name: getattr(planned.total, name) for name in ("low", "expected", "high")},
        "owners": [asdict(share) for share in planned.shares],
        "inference_bytes": planned.inference,
        "training_bytes": planned.training,
        "rows": planned.rows[0],
        "tokens": planned.rows[1],
        **({"cards": planned.facts["cards"]} if "cards" in planned.facts else {}),
        "forward_passes": planned.forward_passes,
        "passes_over_weights": planned.passes_over_weights,
        "seconds_a_step": outcome.seconds,
        "seconds_a_step_at_least": outcome.at_least,
        "steps": outcome.steps,
    }

"""A run within a limit of memory: what is left open is chosen by the plan, and what can't fit is not begun."""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoplat.config.layers import resolve
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import OutOfMemory, RunFailed, ZoplatError, is_out_of_memory
from zoplat.planning.fixed import MIB
from zoplat.planning.memory import Planned, Rehearsals
from zoplat.planning.plan import plan, verdict
from zoplat.planning.profiles import limit_of
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.limit import SCORING, Limit, in_gib
from zoplat.training.result import Result
from zoplat.training.setup import check, spec_of
from zoplat.training.train import RANK_TIMEOUT, train

BESIDE = ("CUDA context", "workspace of cuBLAS", "context of the accelerator")
"""Owners that an accelerator's memory has beside what torch's allocator counts."""
ROUNDED = 64 * MIB
"""Limits that are suggested are multiples of this."""


def train_within(
    settings: Mapping[str, Any],
    out: Path | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    report_to: str | Sequence[str] | None = None,
    rank_timeout: float = RANK_TIMEOUT,
) -> Result:
    """Train as `training.train` does, within the limit that the settings have, if they have one.

    Args:
        settings: as `resolve` takes them.
        out: as for `train`.
        resume: as for `train`.
        callback: as for `train`.
        report_to: as for `train`.
        rank_timeout: as for `train`.

    Raises:
        RunFailed: it can't fit, which is said before the model is opened; or memory was not enough.
        ZoplatError: as `train`.
    """
    config, limit = resolve(settings), None
    if config.memory:
        size = limit_of(config.memory)
        check(config, out, resume)
        config.device.convert(spec_of(config))
        is_begun = bool(resume and out and RunDirectory(out).config.exists())
        try:
            config, limit = chosen(config, size, is_begun, settings)
        except (MemoryError, OSError, RuntimeError) as problem:
            if not is_out_of_memory(problem):
                raise
            raise RunFailed(_unplanned(config)) from None
    try:
        return train(config, out, resume, callback, report_to, limit, rank_timeout)
    except OutOfMemory as failure:
        failed = failure
    gc.collect()
    raise RunFailed(f"{failed}\n{_remedies(config, failed, limit)}")


def chosen(config: RunConfig, size: int, is_begun: bool, settings: Mapping[str, Any]) -> tuple[RunConfig, Limit]:
    """The settings with what is left open chosen so that the run fits, and its limit.

    Args:
        config: the settings.
        size: bytes that the run may take.
        is_begun: whether it is gone on with, so that only what changes no bit may be chosen.
        settings: that `config` was made of, for the plan's suggestions.

    Raises:
        RunFailed: nothing that may be chosen makes it fit.
    """
    found, flags, rehearsals = config, list[str](), Rehearsals(goes_on=True)
    planned = rehearsals.planned(found, is_limited=True)
    while verdict(planned, size) != "fits" and (step := _smaller(config, found, planned, is_begun)):
        found, flag = step
        flags = [known for known in flags if known.split()[0] != flag.split()[0] or flag.startswith("-o")] + [flag]
        planned = rehearsals.planned(found, is_limited=True)
    if verdict(planned, size) == "too large":
        raise RunFailed(_refusal(config, planned, size, is_begun, settings))
    beside = sum(share.expected for share in planned.shares if share.owner in BESIDE)
    total, title = planned.total, str(config.memory)
    return found, Limit(title, size, max(1, size - beside), total.expected, total.high, " ".join(flags))


def _smaller(asked: RunConfig, now: RunConfig, planned: Planned, is_begun: bool) -> tuple[RunConfig, str] | None:
    """(settings that take less, the flag for it): what costs least time and takes off the peak; None at the end."""
    device = now.device
    is_scoring, rows = planned.scoring > planned.training, now.scored_at_once
    if is_scoring and rows > 1 and asked.eval_batch_size is None:
        return replace(now, eval_batch_size=rows // 2), f"--eval-batch-size {rows // 2}"
    may_round = not is_begun
    if may_round and "batched" in str(planned.facts["strategy"]) and getattr(device, "strategy", "") == "auto":
        single = replace(device, strategy="sequential")  # type: ignore[type-var]  # devices are dataclasses
        return replace(now, device=single), "-o device.strategy=sequential"
    bytes_of = {share.owner: share.expected for share in planned.shares}
    of_passes = bytes_of.get("activations", 0) + bytes_of.get("logits", 0)
    if may_round and bytes_of.get("factors", 0) > of_passes and getattr(device, "side_terms", False):
        moved = replace(device, side_terms=False)  # type: ignore[type-var]  # devices are dataclasses
        return replace(now, device=moved), "-o device.side_terms=false"
    rows = now.read_at_once
    if may_round and rows > 1 and asked.micro_batch_size is None:
        return replace(now, micro_batch_size=rows // 2), f"--micro-batch-size {rows // 2}"
    return _elsewhere(now, planned)


def _elsewhere(now: RunConfig, planned: Planned) -> tuple[RunConfig, str] | None:
    """The settings with the state of the method outside of this memory, where there is any and the device can."""
    place = {"cpu": "disk", "cuda": "host"}.get(str(planned.facts["device"]))
    if place is None or getattr(now.device, "state", "") != "memory" or not _has_state(planned):
        return None
    stored = replace(now.device, state=place)  # type: ignore[type-var]  # devices are dataclasses
    return replace(now, device=stored), f"-o device.state={place}"


def _has_state(planned: Planned) -> bool:
    """Whether a method keeps something for its weights, by an owner that is none of the usual ones."""
    usual = ("weights", "factors", "scratch", "activations", "logits", "python", "allocator", "window")
    return any(not any(word in share.owner for word in usual) for share in planned.shares)


def _refusal(config: RunConfig, planned: Planned, size: int, is_begun: bool, settings: Mapping[str, Any]) -> str:
    total, largest = planned.total, sorted(planned.shares, key=lambda share: -share.expected)[:3]
    owners = ", ".join(f"{share.owner} {in_gib(share.expected)}" for share in largest)
    text = (
        f"--memory {config.memory} is {in_gib(size)}, and the run takes {in_gib(total.expected)}, "
        f"{in_gib(total.high)} at most, with all that it may choose chosen to take less: {owners}."
    )
    enough = f"--memory {_rounded(total.high)}"
    if is_begun:
        return f"{text} It was begun, and goes on to the same bits with --resume {enough}."
    others = plan(settings, size).advice
    return "\n".join([text, "What would fit:", f"  {enough}", *(f"  {line}" for line in others)])


def _unplanned(config: RunConfig) -> str:
    """What to say where there is not even enough memory to plan the run."""
    held = _private_limit()
    text = "Out of memory in the phase 'plan': libraries and the model's configuration asked for more than there was"
    allowed = f", {in_gib(held)} of private memory that the system allows this process (ulimit -d)" if held else ""
    return f"{text}{allowed}. The limit is --memory {config.memory}. No step was made. Give the process more."


def _remedies(config: RunConfig, failed: OutOfMemory, limit: Limit | None) -> str:
    """What would help, by the plan: first what goes on with the same run, then what needs a new one."""
    same, held = [*_same_bits(config, failed)], _private_limit()
    if held and (limit is None or held < limit.size):
        same.append(f"more than the {in_gib(held)} of private memory that the system allows this process (ulimit -d)")
    elif limit:
        same.append(f"--memory {_rounded(max(limit.highest, limit.size + failed.asked))}")
    else:
        same.append("more memory for the process")
    if not RunDirectory(failed.run).config.exists():
        fewer = [f"--micro-batch-size {config.read_at_once // 2}"] * (config.read_at_once > 1)
        return f"What takes less, or allows more: {' or '.join([*same, *fewer])}."
    where = shlex.quote(str(failed.run))
    lines = [f"To go on with it, to the same bits: --resume --out {where} and {' or '.join(same)}."]
    if config.read_at_once > 1:
        lines.append(
            f"--micro-batch-size {config.read_at_once // 2} takes less too, but sums then round differently: that "
            "needs a new run with another --out."
        )
    return "\n".join(lines)


def _private_limit() -> int:
    """Bytes of private memory that whoever began this process lets it have; 0 where that is not limited."""
    if sys.platform == "win32":
        return 0
    import resource

    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return 0 if soft == resource.RLIM_INFINITY else soft


def _same_bits(config: RunConfig, failed: OutOfMemory) -> Iterator[str]:
    """Flags that change no bit of a run and save what it lacked, as far as the plan can say."""
    rows, rehearsals = config.scored_at_once, Rehearsals(goes_on=True)
    try:
        planned = rehearsals.planned(config, is_limited=True)
        if failed.phase in SCORING and rows > 1:
            yield f"--eval-batch-size {rows // 2}"
        if step := _elsewhere(config, planned):
            saved = planned.total.expected - rehearsals.planned(step[0], is_limited=True).total.expected
            if saved >= failed.asked:
                yield step[1]
    except ZoplatError:
        return
    except (MemoryError, OSError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise


def _rounded(size: int) -> str:
    """A limit that is no smaller, as a flag takes it."""
    return f"{-(-size // ROUNDED) * ROUNDED // MIB}MiB"

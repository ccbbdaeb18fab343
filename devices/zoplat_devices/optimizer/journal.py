"""The journal of an optimizer: the answers of every step as in a run's journal, and the settings of the groups.

The header has the key "optimizer" with what the answers depend on; a step has the key "groups" where settings of
parameter groups are others than at the step before, for example by a scheduler.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoplat.config.layers import changed_settings
from zoplat.config.local import check_sources
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.training.binding import plugin_versions
from zoplat.training.journal import Journal, JournalWriter, StepRecord
from zoplat_devices.optimizer.engine import Engine
from zoplat_devices.optimizer.settings import OWN
from zoplat_devices.pytorch import about
from zoplat_devices.pytorch.parameters import weights_digest

Group = Mapping[str, Any]
FULL = "The parameters have one step more. Put that right, and go on from what was saved last or by replay()."
"""What to do where a line can't be written."""


class StepJournal:
    """The journal of one optimizer, opened when its first step is made.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: JournalWriter | None = None
        self._engine: Engine | None = None
        self._bound: dict[str, Any] = {}
        self._groups: list[dict[str, Any]] = []
        self._failure = ""

    def begin(self, engine: Engine, step: int) -> None:
        """Before a step: open the file, a new one or behind the steps that the optimizer has made.

        Raises:
            ZoplatError: the file has other steps, or is about something else; or other parameters are trained now.
            RunFailed: a step was interrupted or could not be written, so that the file would have a gap.
        """
        if self._failure:
            raise RunFailed(self._failure)
        if self._engine is engine:
            return
        now = bound(engine)
        if self._writer is not None:
            check_bound(self._bound, now, f"{self.path} was begun by this optimizer, and it has changed since")
        else:
            self._writer = self._opened(engine, now, step)
            weakref.finalize(self, self._writer.close)
        self._engine, self._bound = engine, now

    def append(self, record: StepRecord, groups: Sequence[Group]) -> None:
        """Write a step, and the settings with which it was made where these are new."""
        assert self._writer is not None  # `begin` comes first
        now = settings_of(groups)
        try:
            self._writer.append(replace(record, groups=None if now == self._groups else now))
        except RunFailed as problem:
            self._failure = str(problem)
            raise
        self._groups = now

    @contextmanager
    def whole(self, engine: Engine, step: int) -> Iterator[None]:
        """A step is made and written inside; if it ends halfway and weights were moved, no other one can follow it."""
        before = engine.space.passes_over_weights
        try:
            yield
        except BaseException as problem:
            if engine.space.passes_over_weights > before and not self._failure:
                self._failure = (
                    f"Step {step} was ended by {type(problem).__name__} when it had moved the weights, so {self.path}, "
                    "which has the steps before it, no longer leads to these weights bit for bit. Make a new "
                    "ZerothOrder: with another journal it goes on from these weights, and replay() of this journal "
                    "makes those of before the step from the weights that it began with."
                )
            raise

    def _opened(self, engine: Engine, now: dict[str, Any], step: int) -> JournalWriter:
        if not self.path.exists():
            if step:
                raise ZoplatError(
                    f"journal={str(self.path)!r}: there is no such file, and the optimizer has made {step} steps that "
                    "it would lack. Give the journal of these steps, or begin anew."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return JournalWriter(self.path, header(engine, now), advice=FULL)
        journal = Journal.read(self.path)
        check_header(journal, now, self.path)
        if step == 0 or len(journal.steps) < step:
            raise ZoplatError(
                f"journal={str(self.path)!r} has {len(journal.steps)} steps already, the optimizer has made {step}. "
                "optimizer.replay() makes those of the journal again, from the weights that it began with; or choose "
                "another file."
            )
        for record in journal.steps[:step]:
            self._groups = record.groups or self._groups
        return JournalWriter(self.path, {}, journal.until(step), advice=FULL)


def header(engine: Engine, now: dict[str, Any]) -> dict[str, Any]:
    """The first line of a journal that begins with these weights."""
    config, space = engine.method.config, engine.space
    return {
        "optimizer": now,
        "is_grouped": engine.is_grouped,
        "strategy": engine.strategy,
        "noise": space.noise.name,
        "start_digest": weights_digest(space),
        "versions": about.versions(),
        "plugins": plugin_versions(config),
    }


def bound(engine: Engine) -> dict[str, Any]:
    """What the answers of a journal depend on: method, seed, parameters, and how they are moved."""
    config, space = engine.method.config, engine.space
    return {
        "method": engine.method.table(),
        "seed": config.seed,
        "steps": config.steps,
        "restore": space.restore,
        "rounding": space.rounding,
        "device": engine.device.type,
        "groups": [sorted(part.names) for part in engine.parts if part.names],
        "parameters": {block.name: f"{block.dtype} {list(block.shape)}" for block in space.blocks},
    }


def check_header(journal: Journal, now: dict[str, Any], path: Path) -> None:
    """Raise ZoplatError, which names what differs, where a journal is of something else than this optimizer."""
    if not isinstance(journal.header.get("optimizer"), dict):
        raise ZoplatError(f"{path} is the journal of a run, not of an optimizer: `zoplat replay` replays it.")
    check_sources(journal.header.get("plugins") or {}, str(path))
    check_bound(journal.header["optimizer"], now, f"{path} was begun by an optimizer with something else")


def check_start(journal: Journal, engine: Engine, path: Path) -> None:
    """Raise ZoplatError where a journal is of something else than this optimizer, or began with other weights."""
    check_header(journal, bound(engine), path)
    noise, start = journal.header["noise"], journal.header["start_digest"]
    if noise != engine.space.noise.name:
        raise ZoplatError(
            f"{path} was made with noise '{noise}'; this version makes '{engine.space.noise.name}'. Use the "
            "version of zoplat that is in its header."
        )
    if start != (here := weights_digest(engine.space)):
        raise ZoplatError(
            f"{path} began with other weights than the model has: {start} then, {here} here. Give the model those with "
            "which the optimizer began."
        )


def check_bound(before: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise ZoplatError, which names what differs."""
    if lines := [*_differing(before, now)]:
        raise ZoplatError("\n  ".join([f"{what} (then → now):", *lines]))


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    plain = ("seed", "steps", "restore", "rounding", "device")
    yield from changed_settings(before["method"], now["method"])
    yield from changed_settings({name: before.get(name) for name in plain}, {name: now[name] for name in plain})
    then, here = before["parameters"], now["parameters"]
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    for name in names[:3]:
        yield f"parameter {name}: {then.get(name, 'not trained')} → {here.get(name, 'not trained')}"
    if len(names) > 3:
        yield f"and {len(names) - 3} more parameters"
    if not names and before["groups"] != now["groups"]:
        yield "the parameters are in other groups"


def settings_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The settings of all groups, as plain values."""
    return [{name: group[name] if name == "sampler" else _number(group[name]) for name in OWN} for group in groups]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)

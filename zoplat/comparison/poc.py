"""A proof of concept: two small studies of one model on one task, and what is to be decided by them.

POC/
├── methods/           a study: zero-shot, solved examples in the prompt, and the methods
├── backpropagation/   a study: LoRA by backpropagation with checkpointed activations, on the same rows and passes
├── poc.json           the decision
└── poc.html, poc.md   the same on one page
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoplat.comparison.cell import Cell
from zoplat.comparison.decision import ALPHA, GAIN, HOPELESS, Decision, Kind, Tried, decide
from zoplat.comparison.forecast import Paces, forecast, passes_of_a_step
from zoplat.comparison.matrix import Matrix, protocol_of
from zoplat.comparison.outcome import Outcome
from zoplat.comparison.plugins import shown
from zoplat.comparison.statistics import PairedTest, paired_test
from zoplat.comparison.study import Study
from zoplat.config.defaults import TRIED
from zoplat.config.parts import setting_fields
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import ZoplatError
from zoplat.training.directory import RunDirectory
from zoplat.training.predicted import read_predictions
from zoplat.training.summary import Peak, Summary

SHOTS = 8
"""Solved examples in the prompt."""
PASSES = 600
"""Forward passes of the short runs, for each method."""
FULL_PASSES = 40_000
"""Forward passes of a full run: 20,000 steps of MeZO, as in its paper, arXiv:2305.17333."""
OF_A_METHOD = ("estimator", "sampler", "step_rule", "lr", "eps", "queries")
"""Flags that are meant for the methods, and not for backpropagation."""
MEASURED = "that of the machine's processors and GPUs in steps, other work on them included"
NOT_MEASURED = "not measured: no counter of this machine could be read"


@dataclass(frozen=True)
class Plan:
    """What a full run would be, and what it may take.

    Attributes:
        full_passes: of a full run.
        full_steps: in place of passes, for each method.
        price: of an hour of the machine; in whatever currency.
        max_hours: that a full run may take.
    """

    full_passes: int = FULL_PASSES
    full_steps: int | None = None
    price: float | None = None
    max_hours: float | None = None

    def passes(self, config: RunConfig) -> int:
        """Forward passes of a full run of one method."""
        return round(self.full_steps * passes_of_a_step(config)) if self.full_steps else self.full_passes


@dataclass(frozen=True)
class Poc:
    """A decision and what it is made from.

    Attributes:
        folder: of the two studies.
        plan: the full run.
        facts: model, task, device and machine, by name.
        tried: what was tried.
        decision: on it.
        commands: what to go on with: (what it does, command).
    """

    folder: Path
    plan: Plan
    facts: dict[str, str]
    tried: tuple[Tried, ...]
    decision: Decision
    commands: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, folder: Path, plan: Plan, studies: Mapping[Kind, Study], skipped: Sequence[Tried]) -> Poc:
        """What the studies found, all of whose runs are over.

        Args:
            folder: of both.
            plan: the full run.
            studies: by what they try.
            skipped: what could not be tried, with reasons.
        """
        tried = [one for kind, study in studies.items() for one in tried_in(study, kind, plan)] + [*skipped]
        decision = decide(tried, plan.max_hours)
        facts = next(_facts(study) for study in studies.values())
        return cls(folder, plan, facts, tuple(tried), decision, tuple(_commands(folder, decision, tried, studies)))

    @property
    def energy(self) -> str:
        """Where the joules come from, or why there are none."""
        return MEASURED if any(one.full_joules is not None for one in self.tried) else NOT_MEASURED

    def to_json(self) -> dict[str, Any]:
        """Plain values by key."""
        return {
            "verdict": self.decision.verdict,
            "best": self.decision.best or None,
            "reasons": list(self.decision.reasons),
            "commands": [{"does": does, "command": command} for does, command in self.commands],
            "facts": self.facts,
            "tried": [asdict(one) for one in self.tried],
            "plan": asdict(self.plan),
            "thresholds": {"p": ALPHA, "gain": GAIN},
            "energy": self.energy,
            "directory": str(self.folder),
        }


def methods_study(
    folder: Path, settings: Mapping[str, Any], given: Mapping[str, Any], shots: int, plugins: tuple[Path, ...] = ()
) -> Study:
    """The study of prompts and methods.

    Args:
        folder: of the proof of concept.
        settings: flags as `resolve` takes them, a settings file among them.
        given: "estimators", "seeds" and "tune_trials"; None where they were not given.
        shots: solved examples in the prompt; none for zero-shot alone.
        plugins: files whose parts take part, registered already.

    Raises:
        ZoplatError: more than one task, model, tuning or seed, or a protocol in place of a method.
    """
    named = tuple(given.get("estimators") or TRIED)
    if unfit := [name for name in named if name == "all" or protocol_of(name)]:
        raise ZoplatError(f"--estimators takes methods to try, such as lozo,mezo, and not '{unfit[0]}'.")
    prompts = ("zero-shot", *([f"icl-{shots}"] if shots else []))
    matrix = Matrix.of(settings, {**given, "estimators": (*prompts, *named)})
    if several := [axis for axis in ("tasks", "models", "tunes", "seeds") if len(getattr(matrix, axis)) > 1]:
        raise ZoplatError(f"{several[0]}: a proof of concept has one of them. `zoplat compare` takes several.")
    if "max_passes" not in {*matrix.settings, *matrix.file}:
        matrix = replace(matrix, settings={**matrix.settings, "max_passes": PASSES})
    return Study(folder / "methods", matrix, plugins=plugins)


def backpropagation_study(folder: Path, methods: Study) -> Study:
    """LoRA by backpropagation beside the methods: the same rows, passes, seed and search, with checkpointing."""
    matrix = methods.matrix
    names = {field.name for field in setting_fields(RunConfig)} - {"estimator"}
    settings = {name: value for name, value in matrix.settings.items() if name not in OF_A_METHOD}
    options = {p: value for p, value in settings.pop("options", {}).items() if p.split(".")[0] in names}
    file = {name: value for name, value in matrix.file.items() if name not in OF_A_METHOD}
    tunes = matrix.tunes
    if next(cell for cell in methods.cells if not cell.protocol).config(matrix.seeds[0]).tune.name != "lora":
        settings["tune"], tunes = "lora", ()
        file.pop("tune", None)
        options = {path: value for path, value in options.items() if not path.startswith("tune.")}
    if options:
        settings["options"] = options
    changed = replace(
        matrix,
        settings=settings,
        file=file,
        estimators=("adamw",),
        samplers=(),
        step_rules=(),
        tunes=tunes,
        own={**matrix.own, "estimators": {"adamw": {"recompute": True}}},
    )
    return Study(folder / "backpropagation", changed, plugins=methods.plugins)


def tried_in(study: Study, kind: Kind, plan: Plan) -> Iterator[Tried]:
    """What a study tried, in its order; all of its runs are over."""
    outcome, paces = Outcome.of(study), Paces([study.folder])
    failures = {one.estimator: one.reason for one in outcome.failed if one.trial is None}
    failures |= {one.estimator: one.reason for one in outcome.violations}
    ended = {run["label"]: study.folder / run["directory"] for run in outcome.runs}
    for cell in study.cells:
        own: Kind = "prompt" if cell.protocol else kind
        if cell.label in ended:
            yield _tried(study, cell, own, RunDirectory(ended[cell.label]), plan, paces)
        else:
            trials = len(study.trials_of(cell))
            yield Tried(cell.label, own, failures.get(cell.label, "it has no result"), trials=trials)


def _tried(study: Study, cell: Cell, kind: Kind, directory: RunDirectory, plan: Plan, paces: Paces) -> Tried:
    """What a run directory says, and what a full run like it takes."""
    summary, seed = directory.read_summary(), study.matrix.seeds[0]
    if summary is None:
        raise ZoplatError(f"{directory.path} has no summary; delete it, and the same command makes the run again.")
    place = str(directory.path)
    if kind == "prompt":
        return Tried(cell.label, kind, score=summary.test_after, directory=place)
    planned = study.run_of(cell, seed)
    config = planned.config if planned else cell.config(seed)
    ahead = forecast([replace(config, max_passes=plan.passes(config))], paces)
    hours = None if ahead.seconds is None else ahead.seconds / 3600
    return Tried(
        cell.label,
        kind,
        score=summary.test_after,
        before=summary.test_before,
        test=_against_start(directory),
        outlook=summary.outlook or "",
        advice=summary.advice or "",
        passes=summary.forward_passes,
        seconds=summary.seconds_training,
        peak=_bytes(summary.step_peak_bytes),
        inference=_bytes(summary.forward_peak_bytes),
        full_passes=ahead.passes,
        full_hours=hours,
        full_cost=None if hours is None or plan.price is None else hours * plan.price,
        full_joules=full_joules(summary, ahead.passes),
        trials=len(study.trials_of(cell)),
        directory=place,
    )


def full_joules(summary: Summary, passes: int | None) -> float | None:
    """Energy of so many passes, each at that of a pass of a run."""
    if summary.joules is None or passes is None or not summary.forward_passes:
        return None
    return summary.joules / summary.forward_passes * passes


def _bytes(peak: Peak | None) -> int | None:
    """Of the accelerator where it has memory of its own; None where nothing was measured."""
    return (peak.device or peak.host) if peak else None


def _against_start(directory: RunDirectory) -> PairedTest | None:
    """The test rows after training against the same before; None where one of them was not kept."""
    kept = read_predictions(directory.predictions)
    if 0 not in kept or len(kept) < 2:
        return None
    after, before = ([[float(right) for right in kept[step].right]] for step in (max(kept), 0))
    return paired_test(after, before)


def _facts(study: Study) -> dict[str, str]:
    """What was tried where."""
    cell = next(cell for cell in study.cells if not cell.protocol)
    config = cell.config(study.matrix.seeds[0])
    planned = study.run_of(cell, study.matrix.seeds[0])
    summary = planned and RunDirectory(planned.directory).read_summary()
    facts = {"model": str(summary.model if summary else config.model or "the device's own"), "task": config.task}
    facts |= {"trained weights": config.tune.name, "device": config.device_name}
    return facts | {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"}


def _commands(
    folder: Path, decision: Decision, tried: Sequence[Tried], studies: Mapping[Kind, Study]
) -> Iterator[tuple[str, str]]:
    """What to go on with: what each command does, and the command."""
    own = shown(studies["method"].plugins)
    best = next((one for one in tried if one.label == decision.best), None)
    if best:
        config = shlex.quote(f"{best.directory}/config.toml")
        out = shlex.quote(f"{folder}-full-{best.label}")
        yield (
            f"The full run with {best.label}:",
            f"zoplat run --config {config} --max-passes {best.full_passes} --out {out} --resume{own}",
        )
    matrix = studies["method"].matrix
    names = ",".join(one.label for one in tried if one.kind == "method")
    again = f"zoplat poc --config {shlex.quote(str(studies['method'].folder / 'study.toml'))} --estimators {names}{own}"
    is_promising = any(one.kind == "method" and not one.reason and one.outlook not in HOPELESS for one in tried)
    if decision.verdict == "can't tell" and is_promising:
        passes = 4 * (matrix.settings.get("max_passes") or matrix.file["max_passes"])
        out = shlex.quote(f"{folder}-longer")
        yield "The same with four times the passes:", f"{again} --max-passes {passes} --out {out}"
    if decision.verdict != "go" and not matrix.tune_trials:
        out = shlex.quote(f"{folder}-tuned")
        yield "The same with a search for each method's settings:", f"{again} --tune-trials 5 --out {out}"
    ended = {Path(one.directory).parent for one in tried if not one.reason}
    if ended:
        places = " ".join(shlex.quote(str(place)) for place in sorted(ended))
        yield "All details of these runs:", f"zoplat report {places} --to {shlex.quote(str(folder / 'details'))}"


def poc(folder: Path, methods: Study, backpropagation: Study | None, plan: Plan, make: Callable[[Study], Any]) -> Poc:
    """Make what is left of the runs, and decide.

    Args:
        folder: of both studies.
        methods: the study of prompts and methods.
        backpropagation: its study; None to leave it out.
        plan: the full run.
        make: brings a study to its end.
    """
    paired_test([[1.0]], [[0.0]])  # to know now, and not after hours, whether what it needs is installed
    make(methods)
    studies: dict[Kind, Study] = {"method": methods}
    skipped = []
    if backpropagation:
        try:
            make(backpropagation)
            studies["backpropagation"] = backpropagation
        except ZoplatError as problem:
            skipped.append(Tried("adamw", "backpropagation", str(problem)))
    return Poc.of(folder, plan, studies, skipped)

"""The summary of a run that has just ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoplat.config.parts import law_of
from zoplat.core.memory import MemoryReading
from zoplat.registry import catalogue
from zoplat.tasks import data
from zoplat.training.costs import Costs
from zoplat.training.directory import RunDirectory
from zoplat.training.forgetting import Forgetting
from zoplat.training.opening import OpenedRun
from zoplat.training.outlook import Outlook
from zoplat.training.profiler import INFERENCE, TRAINING
from zoplat.training.progress import Progress
from zoplat.training.summary import Peak, Summary, verdict


def summarise(
    run: OpenedRun,
    directory: RunDirectory,
    progress: Progress,
    losses: Sequence[float],
    before: dict[str, float],
    after: dict[str, float],
    overhead: float | None,
    costs: Costs,
    outlook: Outlook,
    general: Forgetting,
    joules: float | None,
    stopped: str = "",
) -> Summary:
    """The summary of a run, read from its model and its files.

    Args:
        run: its model, with θ settled.
        directory: has its evaluations.
        progress: at the end.
        losses: of all steps that had one.
        before: scores by split before training.
        after: scores by split after training.
        overhead: the overhead ratio; None if it was not sampled.
        costs: of the run, in all of its processes.
        outlook: whether it learned.
        general: what became of general text.
        joules: that its steps used; None where the machine does not tell.
        stopped: why a callback ended it early; empty where its budget did.
    """
    config, profiler, space = run.config, costs.profiler(run.profiler), run.session.space
    facts = run.session.facts
    name_of, law = catalogue().name_of, law_of(config.estimator)
    evaluated = [record["rows"] for record in directory.read_metrics() if not record.get("kept")]
    return Summary(
        status="done",
        estimator=config.estimator_name,
        sampler=name_of("sampler", law) if law else None,
        step_rule=name_of("step-rule", config.estimator.rule),
        device=facts["device"],
        model=facts["model"],
        dtype=facts["dtype"],
        restore=facts.get("restore"),
        rounding=facts.get("rounding"),
        task=config.task,
        tune=config.tune.name,
        seed=config.seed,
        steps=progress.step,
        forward_passes=progress.passes,
        evaluation_passes=sum(math.ceil(rows / config.batch_size) for rows in evaluated),
        skipped_steps=progress.skipped,
        seconds=round(costs.seconds, 3),
        seconds_training=round(progress.seconds, 3),
        metric=data.find(config.task).metric,
        dev_before=before["dev"],
        test_before=before["test"],
        dev_after=after["dev"],
        test_after=after["test"],
        verdict=verdict(losses),
        outlook=outlook.word,
        advice=outlook.advice,
        trainable_parameters=space.size,
        model_bytes=facts.get("model_bytes"),
        peak_bytes=_peak(profiler.peak),
        inference_peak_bytes=_peak(profiler.peak_of("open", *INFERENCE)),
        step_peak_bytes=_peak(profiler.peak_of(*TRAINING)),
        forward_peak_bytes=_peak(profiler.peak_of(*INFERENCE)),
        overhead_ratio=overhead,
        passes_over_weights=round(costs.passes_over_weights, 3),
        drift=space.drift,
        start_digest=run.start_digest,
        weights_digest=run.session.digest(),
        run_dir=str(directory.path),
        passes_outside=costs.outside,
        foreign_rows=costs.foreign,
        tokens=progress.tokens,
        joules=joules,
        stopped=stopped or None,
        **general.fields(),
    )


def _peak(reading: MemoryReading) -> Peak:
    return Peak(reading.host_peak, reading.device_peak)

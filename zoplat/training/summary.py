"""What a run came to: summary.json as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Peak:
    """The most bytes in use.

    Attributes:
        host: resident set of the process.
        device: of the accelerator's allocator; None without one.
    """

    host: int
    device: int | None = None


@dataclass(frozen=True)
class Summary:
    """A finished run. The fields are the keys of summary.json, which `zoplat run --json` prints.

    Attributes:
        status: "done".
        estimator, sampler, step_rule: registered names of the parts; no sampler where none is drawn from.
        device, model, dtype, restore, rounding: what the session says of itself.
        task, tune, seed: as they were asked for.
        steps: steps made.
        forward_passes: evaluations of a batch loss that training asked for; a batched one of n points counts n.
        evaluation_passes: forward passes of the evaluations of this run, in batches of the batch size.
        skipped_steps: steps that could not be made, such as those whose loss was not finite.
        seconds, seconds_training: in all, and of steps alone.
        metric: of the scores.
        dev_before, test_before: scores before training.
        dev_after, test_after: scores after it.
        verdict: "falling", "flat" or "rising"; what the losses did.
        trainable_parameters: number of trained scalars.
        model_bytes: bytes of all weights.
        peak_bytes: of the whole run.
        inference_peak_bytes: of opening the model and of inference alone.
        step_peak_bytes: of training steps.
        forward_peak_bytes: of inference, opening the model left out.
        overhead_ratio: seconds of a step over its forward passes × the seconds of a bare one; None if not sampled.
        passes_over_weights: how often all trained weights were written.
        drift: ‖W − θ‖/‖θ‖ at the end, on a sample.
        start_digest, weights_digest: of the trained weights before and after, as stored.
        run_dir: the run directory.
    """

    status: str
    estimator: str
    sampler: str | None
    step_rule: str
    device: str
    model: str
    dtype: str
    restore: str | None
    rounding: str | None
    task: str
    tune: str
    seed: int
    steps: int
    forward_passes: int
    evaluation_passes: int
    skipped_steps: int
    seconds: float
    seconds_training: float
    metric: str
    dev_before: float
    test_before: float
    dev_after: float
    test_after: float
    verdict: str
    trainable_parameters: int
    model_bytes: int | None
    peak_bytes: Peak
    inference_peak_bytes: Peak
    step_peak_bytes: Peak
    forward_peak_bytes: Peak
    overhead_ratio: float | None
    passes_over_weights: float
    drift: float
    start_digest: str
    weights_digest: str
    run_dir: str

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Summary:
        """The summary that `to_json` wrote; keys that an earlier version did not write are None."""
        values = {field.name: table.get(field.name) for field in fields(cls)}
        peaks = {name: Peak(**value) for name, value in values.items() if name.endswith("peak_bytes") and value}
        return cls(**{**values, **peaks})  # type: ignore[arg-type]  # as they were written

    def to_json(self) -> dict[str, Any]:
        """Plain values by key."""
        return asdict(self)

"""The summary of a finished run: summary.json as a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args, get_type_hints

UNDECIDED = "too short to say"  # an old name that summaries on disk have
"""The verdict on a run with too few losses, as summary.json has it."""
GROUP = 4
"""Losses that a fifth of the run must have before there is a verdict."""

LARGEST = 1 << 63
"""Above all whole numbers in a summary."""


@dataclass(frozen=True)
class Peak:
    """The most bytes in use at a time.

    Attributes:
        host: resident set size of the process.
        device: of the accelerator's allocator; None without one.
    """

    host: int
    device: int | None = None


@dataclass(frozen=True)
class Summary:
    """A finished run. The fields are the keys of summary.json, which `zoplat run --json` prints.

    Attributes:
        status: "done".
        estimator, sampler, step_rule: registered names of the parts; no sampler where no directions are drawn.
        device, model, dtype, restore, rounding: facts about the session.
        task, tune, seed: settings of the run.
        steps: steps made, skipped ones included.
        forward_passes: evaluations of a batch loss in training; a batched one of n points counts n.
        passes_outside: forward passes of steps that the model made and the oracle did not count, or the other way
            round; 0 for every method that keeps to the oracle. None in summaries of earlier versions.
        foreign_rows: rows that the model read in steps and that are no training rows; None in earlier summaries.
        evaluation_passes: forward passes of the evaluations of this run, in batches of the batch size.
        skipped_steps: steps of which no estimate was applied, for example because a loss was not finite.
        seconds, seconds_training: of the whole run, and of its steps alone.
        metric: what the scores are.
        dev_before, test_before: scores before training.
        dev_after, test_after: scores after it.
        verdict: "falling", "flat" or "rising", see `verdict`; `UNDECIDED` after a short run.
        outlook: "learning", "can't tell yet", "not learning" or "diverging", see `outlook.outlook`; None in those of
            earlier versions.
        advice: what to try where it is not learning; empty where nothing is to be changed.
        trainable_parameters: number of trained scalars.
        model_bytes: bytes of all weights.
        peak_bytes: of the whole run.
        inference_peak_bytes: of opening the model and of inference alone.
        step_peak_bytes: of training steps.
        forward_peak_bytes: of inference, opening the model left out.
        overhead_ratio: seconds of a step over those of its forward passes alone; None if it was not sampled.
        passes_over_weights: how many times all trained weights were written.
        drift: relative rounding error of the stored weights at the end, ‖W − θ‖ / ‖θ‖, on a sample.
        start_digest, weights_digest: sha256 of the trained weights before and after, as stored.
        run_dir: the run directory.
        tokens: of the batches of steps, once for each forward pass, of a row those of its longest sequence; None where
            an earlier version made some of the steps.
        joules: that the processors and GPUs of the machine used in steps, as far as they tell, other work on them
            included; None where none does.
        stopped: why a callback ended the run before its budget was used up; None where none did.
        general_loss_before, general_loss_after: mean loss of general text before and after training, nats a token;
            None, as what follows, without `--forgetting`.
        general_kl: mean of KL(before ‖ after) between the predictions of a next token of that text, nats a token.
        general_tokens, general_positions: tokens in the losses, and places in the divergence.
        general_text: sha256 of the text.
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
    outlook: str | None
    advice: str | None
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
    passes_outside: float | None = None
    foreign_rows: int | None = None
    general_loss_before: float | None = None
    general_loss_after: float | None = None
    general_kl: float | None = None
    general_tokens: int | None = None
    general_positions: int | None = None
    general_text: str | None = None
    tokens: int | None = None
    joules: float | None = None
    stopped: str | None = None

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Summary:
        """The summary that `to_json` made plain values of; None for keys that are not there.

        Raises:
            TypeError: a value has a type that no run writes.
        """
        return cls(**{name: _typed(hint, table.get(name)) for name, hint in get_type_hints(cls).items()})

    def to_json(self) -> dict[str, Any]:
        """Plain values by key."""
        return asdict(self)

    @property
    def is_whole(self) -> bool:
        """Whether it has all that a run of this version writes; those of earlier versions lack some keys."""
        hints = get_type_hints(type(self))
        return all(getattr(self, name) is not None or type(None) in get_args(hint) for name, hint in hints.items())

    @property
    def scores(self) -> dict[str, tuple[float, float]]:
        """By split, the score before and after training."""
        return {"dev": (self.dev_before, self.dev_after), "test": (self.test_before, self.test_after)}

    @property
    def loss_trend(self) -> str:
        """The verdict for people: "falling", "flat", "rising", or that there were too few losses."""
        return "not seen often enough to tell a trend" if self.verdict == UNDECIDED else self.verdict


def _typed(hint: Any, value: Any) -> Any:
    """A value of JSON as what a field is annotated with, or None; raises TypeError for one that it can't be."""
    if value is None:
        return None
    if hint is Peak and isinstance(value, dict):
        return Peak(**{name: _typed(inner, value.get(name, 0)) for name, inner in get_type_hints(Peak).items()})
    kinds = get_args(hint) or (hint,)
    is_number = type(value) is int and abs(value) < LARGEST and (int in kinds or float in kinds)
    if not is_number and (type(value) is int or type(value) not in kinds):
        raise TypeError(f"expected {hint}, found {value!r}")
    return value


def verdict(losses: Sequence[float]) -> str:
    """Whether a loss fell: the first fifth of the losses against the last one.

    Returns:
        "flat" if the means differ by no more than two standard errors, else "falling" or "rising"; `UNDECIDED` if a
        fifth has fewer than `GROUP` losses.
    """
    size = len(losses) // 5
    if size < GROUP:
        return UNDECIDED
    first, last = losses[:size], losses[-size:]
    means = [sum(group) / size for group in (first, last)]
    variances = [sum((x - m) ** 2 for x in g) / (size - 1) for g, m in zip((first, last), means, strict=True)]
    error = math.sqrt(sum(variances) / size)
    difference = means[1] - means[0]
    return "flat" if abs(difference) <= 2 * error else "falling" if difference < 0 else "rising"

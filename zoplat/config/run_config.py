"""The settings of a run, resolved, and written back as TOML."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoplat.config.defaults import ESTIMATOR
from zoplat.config.parts import Table, describe, setting_fields
from zoplat.core.device import Device
from zoplat.core.errors import ZoplatError, unknown
from zoplat.core.estimator import Estimator
from zoplat.core.example import LOSSES
from zoplat.core.fields import Checked, number
from zoplat.core.model_spec import PACKED, Base, Head, Tuning
from zoplat.registry import catalogue

SECTIONS = {"estimator": ESTIMATOR, "device": "auto", "tune": "full"}
"""Tables of a settings file, and the default name of each part."""


@dataclass(frozen=True)
class RunConfig(Checked):
    """All settings of a run.

    Attributes:
        estimator, device: the parts, as values.
        estimator_name, device_name: registered names of the parts.
        model: hub id, folder, .gguf file or packaged:NAME; None for the device's own default.
        task: registered name of the task, or its TOML file.
        tune: which weights are trained.
        data: folder with train, dev and test.jsonl; None for the packaged rows.
        dtype: of the model's weights; "auto" lets the device choose.
        seed: every random stream of the run is derived from it.
        base: how weights are stored: "plain" in `dtype`, or those of linear layers in "int8" or "int4".
        head: what the model predicts; "auto" for what its configuration says.
        template: how a row becomes text: "prompt", "plain" for the same without words of instruction, "chat" for a
            prompt as the turn of a user; "auto" for what suits the head.
        objective: the loss that training minimises: "options", "tokens", "auto" for the task's own of the two; or one
            minus a score: a metric, "module:function", "command:PROGRAM" of answers, "adapter:PROGRAM" of the model.
        steps, max_passes, max_seconds: budgets; the first that is used up ends the run.
        max_tokens: budget of tokens: for each forward pass those of its batch, of a row those of its longest sequence.
        max_joules: budget of energy that the machine's processors and GPUs use in steps, other work on them included.
        batch_size: rows of a training batch.
        micro_batch_size: rows in one forward pass; the whole batch when None.
        eval_batch_size: rows in one forward pass where rows are scored; as many as in training when None.
        evaluate_every: steps between evaluations on dev, each with a checkpoint.
        sync_every: steps between flushes of the journal to the disk, each a few milliseconds; a power cut loses no more
            than these. None for at checkpoints only; a killed process loses nothing either way.
        limit: at most this many rows of each split.
        per_class: of train and dev, this many rows of every class, drawn with the seed; all when None.
        memory: what the run may take, such as "6GiB", or the name of a machine that `zoplat plan --profile` knows; no
            limit when None.
        forgetting: whether the loss of general text is measured before and after, and the divergence between the two.
        parallel: what several processes share: "data", the rows of each batch; "queries", the points of each question,
            so that the number of processes changes no bit; "none" for one process, and for "data" under a launcher.
        origins: where "lr" and "eps" come from; no setting itself.
    """

    estimator: Estimator[Any]
    estimator_name: str
    device: Device
    device_name: str
    tune: Tuning
    model: str | None = None
    task: str = "sentiment"
    data: str | None = None
    dtype: str = "auto"
    base: Base = "plain"
    head: Head = "auto"
    template: Literal["auto", "prompt", "plain", "chat"] = "auto"
    objective: str = "auto"
    seed: int = 0
    steps: int | None = number(None, above=0)
    max_passes: int | None = number(None, above=0)
    max_seconds: float | None = number(None, above=0)
    max_tokens: int | None = number(None, above=0)
    max_joules: float | None = number(None, above=0)
    batch_size: int = number(16, above=0)
    micro_batch_size: int | None = number(None, above=0)
    eval_batch_size: int | None = number(None, above=0)
    evaluate_every: int | None = number(None, above=0)
    sync_every: int | None = number(None, above=0)
    limit: int | None = number(None, above=0)
    per_class: int | None = number(None, above=0)
    memory: str | None = None
    forgetting: bool = False
    parallel: Literal["none", "data", "queries"] = "none"
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False, metadata={"setting": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise ZoplatError(f"seed must lie in [0, 2⁶³), got {self.seed}  (--seed)")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise unknown("dtype", self.dtype, ["auto", "float32", "bfloat16", "float16"])
        if self.tune.name in PACKED and self.base != "int4":
            raise ZoplatError(f"--tune {self.tune.name} trains weights that are packed in 4 bits. Add --base int4.")
        if self.steps is None and self.max_passes is None:
            self._check_horizon()
        self._check_answers()

    def _check_answers(self) -> None:
        """Raise ZoplatError where the estimator asks for what the device or the objective can't give."""
        if missing := self.estimator.asks - self.device.answers:
            able = [e.name for e in catalogue() if e.kind == "device" and self.estimator.asks <= e.value.answers]
            raise ZoplatError(
                f"'{self.estimator_name}' asks the device for {', '.join(sorted(missing))}; "
                f"'{self.device_name}' answers only {', '.join(sorted(self.device.answers))}."
                + (f" Use --device {' or '.join(able)}." if able else "")
            )
        derived = {"jvp": "a jvp", "gradient": "a gradient", "input directions": "input directions"}
        if self.is_judged and (asked := self.estimator.asks & derived.keys()):
            raise ZoplatError(
                f"'{self.estimator_name}' asks for {derived[min(asked)]}, and --objective {self.objective} has none."
            )

    @property
    def read_at_once(self) -> int:
        """Rows in one forward pass."""
        return self.micro_batch_size or self.batch_size

    @property
    def scored_at_once(self) -> int:
        """Rows in one forward pass where rows are scored."""
        return self.eval_batch_size or self.read_at_once

    @property
    def is_judged(self) -> bool:
        """Whether the loss is one minus a score of the model's predictions, which has no derivative."""
        return self.objective not in ("auto", *LOSSES)

    def _check_horizon(self) -> None:
        """Raise ZoplatError where a part must know how long the run is, and neither steps nor passes limit it."""
        rule = self.estimator.rule
        if not (rule.has_horizon or self.estimator.has_horizon):
            return
        name = catalogue().name_of("step-rule", rule)
        who, instead = (
            (f"Step rule '{name}'", ", or --step-rule constant")
            if rule.has_horizon
            else (f"'{self.estimator_name}' as it is set", "")
        )
        given = next(name for name in ("max_seconds", "max_tokens", "max_joules") if getattr(self, name))
        raise ZoplatError(
            f"{who} must know how long the run is, and --{given.replace('_', '-')} alone does not say. "
            f"Give --steps or --max-passes{instead}."
        )

    def table(self) -> Table:
        """The settings as nested plain values, as in config.toml.

        Files of tasks and data stand there with their whole path, so that a run goes on from any folder.
        """
        plain = {
            f.name: getattr(self, f.name)
            for f in setting_fields(self)
            if f.name not in (*SECTIONS, "estimator_name", "device_name")
        }
        table = {name: value for name, value in plain.items() if value is not None}
        if not self.forgetting:
            del table["forgetting"]  # which settings of earlier versions do not have
        if self.parallel == "none":
            del table["parallel"]
        for name in ("task", "data"):
            if name in table and (name == "data" or table[name].endswith(".toml")) and os.path.exists(table[name]):
                table[name] = os.path.abspath(table[name])
        table["tune"] = dataclasses.asdict(self.tune)
        table["device"] = describe("device", self.device, self.device_name)
        table["estimator"] = describe("estimator", self.estimator, self.estimator_name)
        return table

    def toml(self) -> str:
        """The text of config.toml; `--config` with this file repeats the run."""
        import tomli_w

        return str(tomli_w.dumps(self.table()))

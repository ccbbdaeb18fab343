"""The loop: open, evaluate, step until the budget is spent, evaluate, sum up."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat.config.parts import law_of
from zoplat.config.run_config import RunConfig
from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.example import Row
from zoplat.evaluation.predictions import by_length, predictions
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.paths import cache_folder, replace_text
from zoplat.registry import catalogue
from zoplat.tasks import data
from zoplat.tasks.metrics import metric
from zoplat.training.batches import Batches
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory, fresh
from zoplat.training.journal import JournalWriter, StepRecord
from zoplat.training.profiler import INFERENCE, TRAINING
from zoplat.training.progress import Progress
from zoplat.training.replay import replays
from zoplat.training.result import Result
from zoplat.training.setup import check, check_start, journal_of, objective_of, open_session, rows_of, spec_of
from zoplat.training.step import Learner
from zoplat.training.verdict import overhead, verdict

SKIPS = 20  # steps in a row without a finite loss before the run is given up
YARDSTICKS = 16  # steps before which a bare forward pass is timed on the same batch


def train(config: RunConfig, out: Path | None = None, resume: bool = False, observer: Callback | None = None) -> Result:
    """Run to the end of the budget.

    Args:
        config: what to do.
        out: the run directory; None for a fresh one under runs/.
        resume: continue the run in `out` if there is one.
        observer: is told what happens.

    Raises:
        ZoplatError: exit_status says whether the question was wrong (2) or the run failed (1).
        KeyboardInterrupt: after everything was written down; `resume` goes on from there.
    """
    check(config, out, resume)
    name = f"{Path(config.task).stem}-{config.estimator_name}-{config.seed}"
    directory = RunDirectory(out or fresh(Path("runs") / name))
    if directory.read_summary().get("status") == "done":
        return Result(directory.read_summary(), directory.path)
    return _Run(config, directory, observer or Callback()).to_the_end()


class _Run:
    def __init__(self, config: RunConfig, directory: RunDirectory, observer: Callback) -> None:
        self.config = config
        self.directory = directory
        self.observer = observer
        self.began = time.time()
        self.task, self.objective = data.find(config.task), objective_of(config)
        raw = rows_of(config)
        self.session, self.profiler = open_session(config.device, spec_of(config))
        self.rows = {split: PromptEncoder(config, self.session).rows(rows) for split, rows in raw.items()}
        self.batches = Batches(self.rows["train"], config.batch_size, config.seed)
        self.start_digest = self.session.digest()
        self.yardstick: list[tuple[float, float, int]] = []
        self.losses: list[float] = []

    def to_the_end(self) -> Result:
        self.observer.opened(self.config, self.session, self.directory.path)
        self._measure_inference()
        self.observer.measured(self.profiler.so_far)
        self.learner = Learner(self.config, self.session, self.objective, strategy=self._strategy())
        journal = self._resumed()
        before = {split: self._baseline(split) for split in ("dev", "test")}
        try:
            self._train(journal)
        finally:
            journal.close()
            self._write_memory()
        self.session.space.settle()
        self._save()
        after = {split: self._evaluate(split) for split in ("dev", "test")}
        self._write_memory()
        summary = self._summary(before, after)
        self.directory.write_summary(summary)
        return Result(summary, self.directory.path)

    def _strategy(self) -> str:
        """That of the journal, or else what the session thinks best for this law and these rows."""
        if journal := journal_of(self.directory):
            return str(journal.header["strategy"])
        rows = self.rows["train"]
        tokens = self.config.read_at_once * sum(row.length for row in rows) / len(rows)
        return self.session.strategy_for(law_of(self.config.estimator), tokens)

    def _resumed(self) -> JournalWriter:
        """Bring θ to where the journal ends, by checkpoint and replay; begin a journal where there is none."""
        if not self.directory.config.exists():
            self.directory.begin(self.config, {**self.session.facts, **self._identity()})
        journal = journal_of(self.directory)
        self.directory.trim_metrics(len(journal.steps) if journal else 0)
        if journal is None:
            return JournalWriter(self.directory.journal, self._identity())
        check_start(journal, self.session, self.directory)
        learner = self.learner
        saved = self.directory.load(self.session, learner.states, len(journal.steps))
        if saved:
            learner.progress = Progress(**{name: saved[name] for name in vars(learner.progress)})
        if not replays(self.config):
            journal = journal.until(learner.progress.step)
            self.directory.trim_metrics(len(journal.steps))
        for record in journal.steps:
            self._note(record)
        for record in journal.steps[learner.progress.step :]:
            learner.replay(record)
        self.observer.resumed(learner.progress.step)
        return JournalWriter(self.directory.journal, {}, after=journal)

    def _train(self, journal: JournalWriter) -> None:
        config, learner = self.config, self.learner
        every = max(1, (config.steps or 64 * YARDSTICKS) // YARDSTICKS)
        in_a_row = 0
        while not learner.progress.is_over(config):
            if learner.progress.step and learner.settles():
                self._save()
                self._evaluate("dev")
                if verdict(self.losses) == "rising":
                    self.observer.warned("the loss is rising, not falling; a lower --lr or a decaying rule may help")
            rows = self.batches.at(learner.progress.step)
            bare = self._bare_forward(rows) if learner.progress.step % every == every // 2 else None
            skipped, passes, began = learner.progress.skipped, learner.progress.passes, time.perf_counter()
            record = learner.advance(self.batches, self.profiler)
            taken = time.perf_counter() - began
            journal.append(record)
            learner.progress.seconds += taken
            if bare is not None:
                self.yardstick.append((taken, bare, learner.progress.passes - passes))
            in_a_row = in_a_row + 1 if learner.progress.skipped > skipped else 0
            if in_a_row == SKIPS:
                raise RunFailed(
                    f"{SKIPS} steps in a row, up to step {record.step}, could not be made. The last one: "
                    f"{learner.reason} Another --lr or --eps may help. The journal is kept in {self.directory.path}."
                )
            self.observer.measured(self.profiler.so_far)
            self.observer.stepped(learner.progress, self._note(record))

    def _note(self, record: StepRecord) -> float | None:
        """The loss of a step, kept for the verdict."""
        if record.loss is not None:
            self.losses.append(record.loss)
        return record.loss

    def _bare_forward(self, rows: Sequence[Row]) -> float:
        """Seconds of one forward pass as inference makes it, on the batch of the step that follows."""
        with self.profiler.phase("yardstick"):
            began = time.perf_counter()
            self.objective.loss(self.session, rows)
            return time.perf_counter() - began

    def _measure_inference(self) -> None:
        """The peak that inference alone has, on the longest rows of each split, before anything else ran."""
        with self.profiler.phase("inference"):
            for rows in self.rows.values():
                longest = by_length(rows, self.config.read_at_once)[0]
                self.session.forward([rows[i] for i in longest])

    def _baseline(self, split: str) -> float:
        """The score before training. It depends on the start alone, so it is kept for the next run."""
        known = [r for r in self.directory.read_metrics() if r["step"] == 0 and r["split"] == split]
        if known:
            return float(known[0]["score"])
        identity = self.session.facts.get("model_identity")
        examples = [vars(row.example) for row in self.rows[split]]
        key = json.dumps([identity, self._identity(), self.config.table()["tune"], examples], default=str)
        kept = cache_folder() / "baselines" / f"{sha256(key.encode()).hexdigest()[:32]}.json"
        if identity and kept.exists():
            return self._record(split, 0, float(json.loads(kept.read_text())["score"]), 0.0, kept=True)
        if self.learner.progress.step:
            raise ZoplatError(f"{self.directory.metrics} has lost its first scores; start the run afresh.")
        score = self._evaluate(split, "baseline")
        if identity:
            kept.parent.mkdir(parents=True, exist_ok=True)
            replace_text(kept, json.dumps({"score": score}))
        return score

    def _evaluate(self, split: str, phase: str = "evaluate") -> float:
        """Metric of one split at θ, written down."""
        rows, step = self.rows[split], self.learner.progress.step
        for record in self.directory.read_metrics():
            if record["step"] == step and record["split"] == split:
                return float(record["score"])
        began = time.perf_counter()
        self.session.space.settle()
        with self.profiler.phase(phase):
            predicted = predictions(self.session, rows, self.config.read_at_once)
        score = metric(self.task.metric)(predicted, [row.example.right for row in rows])
        return self._record(split, step, score, time.perf_counter() - began)

    def _record(self, split: str, step: int, score: float, seconds: float, kept: bool = False) -> float:
        record: dict[str, Any] = {"step": step, "passes": self.learner.progress.passes, "split": split}
        record |= {"metric": self.task.metric, "score": score, "rows": len(self.rows[split])}
        record |= {"seconds": round(seconds, 3), "kept": kept}
        if step:
            record |= {"changed": round(self.session.space.changed, 6), "drift": self.session.space.drift}
        if self.losses:
            recent = self.losses[-20:]
            record["loss"] = sum(recent) / len(recent)
        self.directory.add_metrics(record)
        self.observer.evaluated(record)
        return score

    def _save(self) -> None:
        with self.profiler.phase("checkpoint"):
            progress = {**vars(self.learner.progress), "weights_digest": self.session.digest()}
            self.directory.save(self.session, progress, self.learner.states)

    def _identity(self) -> dict[str, Any]:
        """What the journal's header and the first scores hang on."""
        names = ("model", "head", "base", "dtype", "restore", "rounding", "device", "versions", "threads")
        facts = {name: self.session.facts.get(name) for name in names}
        return {
            **facts,
            "noise": self.session.space.noise.name,
            "strategy": self.learner.strategy,
            "seed": self.config.seed,
            "estimator": self.config.estimator_name,
            "start_digest": self.start_digest,
        }

    def _write_memory(self) -> None:
        if self.directory.path.exists():
            owners = self.session.ledger()
            rows = [{"kind": "owner", "owner": owner, "bytes": size} for owner, size in owners.items()]
            self.directory.write_memory([*self.profiler.rows(), *rows])

    def _summary(self, before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
        config, progress, facts = self.config, self.learner.progress, self.session.facts
        peak, inference = self.profiler.peak, self.profiler.peak_of("open", *INFERENCE)
        step, infer = self.profiler.peak_of(*TRAINING), self.profiler.peak_of(*INFERENCE)
        name_of, law = catalogue().name_of, law_of(config.estimator)
        evaluations = [r for r in self.directory.read_metrics() if not r["kept"]]
        return {
            "status": "done",
            "estimator": config.estimator_name,
            "sampler": name_of("sampler", law) if law else None,
            "step_rule": name_of("step-rule", config.estimator.rule),
            **{name: facts.get(name) for name in ("device", "model", "dtype", "restore", "rounding")},
            "task": config.task,
            "tune": config.tune.name,
            "seed": config.seed,
            "steps": progress.step,
            "forward_passes": progress.passes,
            "evaluation_passes": sum(math.ceil(r["rows"] / config.batch_size) for r in evaluations),
            "skipped_steps": progress.skipped,
            "seconds": round(time.time() - self.began, 3),
            "seconds_training": round(progress.seconds, 3),
            "metric": self.task.metric,
            **{f"{split}_before": score for split, score in before.items()},
            **{f"{split}_after": score for split, score in after.items()},
            "verdict": verdict(self.losses),
            "trainable_parameters": self.session.space.size,
            "model_bytes": facts.get("model_bytes"),
            "peak_bytes": {"host": peak.host_peak, "device": peak.device_peak},
            "inference_peak_bytes": {"host": inference.host_peak, "device": inference.device_peak},
            "step_peak_bytes": {"host": step.host_peak, "device": step.device_peak},
            "forward_peak_bytes": {"host": infer.host_peak, "device": infer.device_peak},
            "overhead_ratio": overhead(self.yardstick),
            "passes_over_weights": round(self.session.space.passes_over_weights, 3),
            "drift": self.session.space.drift,
            "start_digest": self.start_digest,
            "weights_digest": self.session.digest(),
            "run_dir": str(self.directory.path),
        }

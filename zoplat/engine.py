"""The loop: open, evaluate, step until the budget is spent, evaluate, sum up."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoplat import bundle
from zoplat.batches import Batches, by_length, derived_seed
from zoplat.device import Device, MemoryReading, ModelSpec, Row, Session
from zoplat.errors import RunFailed, ZoplatError
from zoplat.evaluation import Asking, Way, answered, evaluate
from zoplat.journal import Journal, JournalWriter, StepRecord
from zoplat.learner import Learner, Progress
from zoplat.metrics import metric
from zoplat.objective import Objective
from zoplat.paths import cache_folder, check_writable, replace_text
from zoplat.plugins import catalogue
from zoplat.profiler import INFERENCE, TRAINING, Profiler
from zoplat.results import Result, RunDirectory, fresh
from zoplat.settings import RunConfig, law_of
from zoplat.tasks import data
from zoplat.verdict import overhead, verdict

SKIPS = 20  # steps in a row without a finite loss before the run is given up
YARDSTICKS = 16  # steps before which a bare forward pass is timed on the same batch


class Observer:
    """Told of what happens; the command line draws it. Every method may be left as it is."""

    def opened(self, config: RunConfig, session: Session, directory: Path) -> None:
        """The model is open and the run directory chosen."""

    def resumed(self, step: int) -> None:
        """Steps before this one come from the journal."""

    def measured(self, peak: MemoryReading) -> None:
        """The most memory so far: once before training, of opening and inference, and at the end of each step."""

    def stepped(self, state: Progress, loss: float | None) -> None:
        """A step is over; `loss` is the mean of the finite losses it saw."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """One split was scored."""

    def warned(self, text: str) -> None:
        """Something the user should know, while the run goes on."""


def train(config: RunConfig, out: Path | None = None, resume: bool = False, observer: Observer | None = None) -> Result:
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
    return _Run(config, directory, observer or Observer()).to_the_end()


def ask(config: RunConfig, way: Way, split: str = "test", session: Session | None = None) -> dict[str, Any]:
    """The score of a model as it is, or as it stands in a session; see `evaluation.evaluate`."""
    _check_device(config)
    rows = _rows(config)
    return evaluate(config, session or config.device.open(_spec(config)), rows, way, split)


def prepared(config: RunConfig) -> tuple[Session, Profiler, list[Row]]:
    """The model of a run, opened, and its training rows."""
    _check_device(config)
    raw = _rows(config)["train"]
    session, profiler = _open(config.device, _spec(config))
    return session, profiler, Asking(config, session).rows(raw)


def pack(config: RunConfig, to: Path) -> bundle.Bundle:
    """Write a run as a bundle, which trains where neither torch nor the model is.

    Raises:
        ZoplatError: the run, or the place, is not fit for it.
    """
    check(config)
    bundle.check_free(to)
    if not config.device.packs:
        able = [entry.name for entry in catalogue() if entry.kind == "device" and entry.value.packs]
        raise ZoplatError(f"'{config.device_name}' makes no bundles. Use --device {' or '.join(able)}.")
    splits = _rows(config)
    session = config.device.open(_spec(config))
    for rows in splits.values():
        Asking(config, session).rows(rows)
    return bundle.write(config, splits, session, to)


def restored(directory: RunDirectory, config: RunConfig | None = None) -> tuple[RunConfig, Session]:
    """A finished or interrupted run at its newest checkpoint.

    Args:
        directory: of the run.
        config: its settings as a bundle has them, in the place of its own.

    Raises:
        ZoplatError: it has none.
    """
    from zoplat.settings import build, read_toml

    config = config or build([read_toml(directory.config)])
    _check_device(config)
    session = config.device.open(_spec(config))
    journal = _journal(directory)
    learner = Learner(config, session)
    if journal is None or not directory.load(session, learner.states, len(journal.steps)):
        raise ZoplatError(
            f"{directory.path} has no checkpoint yet. `zoplat run --resume --out {directory.path}` goes on with it."
        )
    return config, session


def check(config: RunConfig, out: Path | None = None, resume: bool = False) -> dict[str, int]:
    """All that `train` would refuse before opening a model; returns the rows of each split."""
    if resume and out is None:
        raise ZoplatError("--resume goes on with the run in --out DIR; give that too. `zoplat list runs` shows runs.")
    if out:
        directory = RunDirectory(out)
        if directory.config.exists() and not resume:
            raise ZoplatError(f"--out {out} holds a run already. Add --resume, or choose another place.")
        if directory.config.exists():
            directory.check_unchanged(config)
            _journal(directory)
    check_writable(out or Path("runs"), "--out")
    _check_device(config)
    sizes = {split: len(rows) for split, rows in _rows(config).items()}
    if config.batch_size > sizes["train"]:
        raise ZoplatError(
            f"batch_size {config.batch_size} is more than the {sizes['train']} training rows. "
            "Use a smaller --batch-size."
        )
    return sizes


def replay(
    directory: RunDirectory, to: Path | None, device: str | None = None, config: RunConfig | None = None
) -> dict[str, Any]:
    """Rebuild the final weights from a journal, without a forward pass; write them to `to`.

    Args:
        directory: of the run.
        to: a folder for the weights.
        device: another one than the run's, in the same precision.
        config: the run's settings as a bundle has them, in the place of its own.

    Raises:
        ZoplatError: the journal is damaged, was made with other noise, or starts from other weights.
    """
    from zoplat.settings import build, read_toml

    table = read_toml(directory.config)
    journal = Journal.read(directory.journal)
    if device:
        table |= {"device": {"name": device}, "dtype": journal.header["dtype"]}
    is_elsewhere = bool(device or config)
    config = config or build([table])
    if is_elsewhere:
        _check_device(config)
    if not replays(config):
        raise ZoplatError(
            f"'{config.estimator_name}' steps along gradients, which a journal of numbers does not hold: the run in "
            f"{directory.path} can't be replayed. Its weights are in {directory.checkpoint}."
        )
    summary = directory.read_summary()
    if len(journal.steps) < summary.get("steps", 0):
        raise ZoplatError(
            f"{directory.journal} ends after {len(journal.steps)} steps; the run made {summary['steps']}. "
            "The rest of the journal is missing or damaged."
        )
    if to:
        check_writable(to, "--to")
    session = config.device.open(_spec(config))
    if is_elsewhere:
        session.road = journal.header["road"]
    _check_start(journal, session, directory)
    learner = Learner(config, session, road=journal.header["road"])
    for record in journal.steps:
        learner.replay(record)
    session.space.settle()
    digest, expected = session.digest(), summary.get("weights_digest")
    if to:
        session.export(to)
    return {
        "status": "done" if expected in (None, digest) else "different",
        "steps": learner.progress.step,
        "weights_digest": digest,
        "recorded_digest": expected,
        "to": str(to) if to else None,
    }


class _Run:
    def __init__(self, config: RunConfig, directory: RunDirectory, observer: Observer) -> None:
        self.config = config
        self.directory = directory
        self.observer = observer
        self.began = time.time()
        self.task, self.objective = data.find(config.task), objective_of(config)
        raw = _rows(config)
        self.session, self.profiler = _open(config.device, _spec(config))
        self.rows = {split: Asking(config, self.session).rows(rows) for split, rows in raw.items()}
        self.batches = Batches(self.rows["train"], config.batch_size, config.seed)
        self.start_digest = self.session.digest()
        self.yardstick: list[tuple[float, float, int]] = []
        self.losses: list[float] = []

    def to_the_end(self) -> Result:
        self.observer.opened(self.config, self.session, self.directory.path)
        self._measure_inference()
        self.observer.measured(self.profiler.so_far)
        self.learner = Learner(self.config, self.session, self.objective, road=self._road())
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

    def _road(self) -> str:
        """That of the journal, or else what the session thinks best for this law and these rows."""
        if journal := _journal(self.directory):
            return str(journal.header["road"])
        rows = self.rows["train"]
        tokens = self.config.read_at_once * sum(row.length for row in rows) / len(rows)
        return self.session.road_along(law_of(self.config.estimator), tokens)

    def _resumed(self) -> JournalWriter:
        """Bring θ to where the journal ends, by checkpoint and replay; begin a journal where there is none."""
        if not self.directory.config.exists():
            self.directory.begin(self.config, {**self.session.facts, **self._identity()})
        journal = _journal(self.directory)
        self.directory.trim_metrics(len(journal.steps) if journal else 0)
        if journal is None:
            return JournalWriter(self.directory.journal, self._identity())
        _check_start(journal, self.session, self.directory)
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
            told = answered(self.session, rows, self.config.read_at_once)
        score = metric(self.task.metric)(told, [row.example.right for row in rows])
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
            "road": self.learner.road,
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
            "passes_over_weights": round(self.session.space.passes, 3),
            "drift": self.session.space.drift,
            "start_digest": self.start_digest,
            "weights_digest": self.session.digest(),
            "run_dir": str(self.directory.path),
        }


def replays(config: RunConfig) -> bool:
    """Whether the journal of a run is enough to rebuild its weights."""
    return "gradient" not in config.estimator.asks


def _rows(config: RunConfig) -> dict[str, data.Rows]:
    """The rows of the task, each of which was made into an example once."""
    task = data.find(config.task)
    splits = data.load(task, config.task, Path(config.data) if config.data else None, config.limit)
    if config.per_class:
        few, seed = config.per_class, derived_seed(config.seed, "rows")
        splits |= {split: data.of_each_class(task, splits[split], few, seed) for split in ("train", "dev")}
    for rows in splits.values():
        for where, row in rows:
            task.example(row, where)
    return splits


def _check_device(config: RunConfig) -> None:
    if reason := config.device.missing():
        raise ZoplatError(reason)
    objective_of(config)


def objective_of(config: RunConfig) -> Objective:
    """What the run descends; raises ZoplatError where task, objective and device don't fit."""
    task = data.find(config.task)
    if config.objective == "options" and task.generates:
        raise ZoplatError(f"Task '{config.task}' has no options to choose from. Use --objective tokens, or a metric.")
    if task.generates and "generation" not in config.device.answers:
        raise ZoplatError(f"Task '{config.task}' needs text to be written, which '{config.device_name}' can't do.")
    metric(task.metric)
    return Objective(metric(config.objective) if config.is_judged else None, config.micro_batch_size)


def _spec(config: RunConfig) -> ModelSpec:
    seed, classes = derived_seed(config.seed, "init"), len(data.find(config.task).classes)
    return ModelSpec(config.model, config.tune, config.dtype, seed, config.head, classes, config.base)


def _open(device: Device, spec: ModelSpec) -> tuple[Session, Profiler]:
    began = time.perf_counter()
    session = device.open(spec)
    profiler = Profiler(session.memory, session.reset_peak)
    profiler.book("open", time.perf_counter() - began)
    session.space.watch = profiler.phase
    return session, profiler


def _journal(directory: RunDirectory) -> Journal | None:
    """The journal so far; None before its header is whole."""
    path = directory.journal
    return Journal.read(path) if path.exists() and b"\n" in path.read_bytes() else None


def _check_start(journal: Journal, session: Session, directory: RunDirectory) -> None:
    begun = journal.header
    if begun["noise"] != session.space.noise.name:
        raise ZoplatError(
            f"{directory.journal} was made with noise '{begun['noise']}'; this version makes "
            f"'{session.space.noise.name}'."
        )
    if begun["start_digest"] != session.digest():
        raise ZoplatError(
            f"{directory.path} began from other weights than the model has now: {begun['start_digest']} then, "
            f"{session.digest()} now. Versions then: {begun['versions']}."
        )

"""The memory of one mode of a run, by owner: its steps rehearsed on shapes, and what no rehearsal can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from zoplat.config.run_config import RunConfig
from zoplat.core.device import Reader, Rehearsal, Session
from zoplat.core.errors import ZoplatError
from zoplat.core.example import Row
from zoplat.evaluation.predictions import by_length
from zoplat.evaluation.prompts import PromptEncoder
from zoplat.planning.fixed import Share, fixed_costs
from zoplat.planning.profiles import Profile
from zoplat.tasks import data
from zoplat.training.batches import Batches, batches_of
from zoplat.training.dry_run import CostUnknown, measure_cost
from zoplat.training.opening import at_once
from zoplat.training.profiler import Profiler
from zoplat.training.setup import check_batch, objective_of, preferred_strategy, rows_of, spec_of
from zoplat.training.step import Learner

OF_THE_PASS = ("activations", "logits", "gradients", "recordings")
"""Owners of what a forward pass or backpropagation gives back, or keeps for the next one."""
OPENING = "file of the weights, while they are read"
MOST_ROWS = 1 << 16
"""Rows of a batch that is made for a plan where there are none of a task."""
MOST_STEPS = 2000
"""Steps whose batches are looked at for the longest one."""


@dataclass(frozen=True)
class Planned:
    """What a mode of a run would take.

    Attributes:
        shares: bytes by owner, at the highest peak of training and of scoring; on several cards, of the fullest.
        inference: bytes of the same model when it only predicts, fixed costs left out.
        training: bytes at the peak of the steps, fixed costs left out.
        scoring: bytes at the peak of scoring with what training keeps, fixed costs left out.
        forward_passes, passes_over_weights: of a step, on average; None where that can't be counted.
        facts: of the session: model, dtype, restore, rounding, strategy, trainable_parameters, …
        rows: (rows, tokens) of the longest training batch.
        products: multiplications and additions in the products of matrices of a step on it.
    """

    shares: tuple[Share, ...]
    inference: int
    training: int
    scoring: int
    forward_passes: float | None
    passes_over_weights: float | None
    facts: Mapping[str, Any]
    rows: tuple[int, int]
    products: int

    @property
    def kept(self) -> int:
        """Expected bytes of what is there throughout: everything but the forward pass."""
        return sum(share.expected for share in self.shares if share.owner not in (*OF_THE_PASS, OPENING))

    def seconds_at_least(self, profile: Profile) -> float | None:
        """Seconds of a step that a machine can't beat: its products, and the weights read and written."""
        speed = {"float32": profile.float32}.get(str(self.facts["dtype"]), profile.bfloat16 or profile.float32)
        if not (speed and profile.bandwidth and self.forward_passes is not None):
            return None
        read = self.forward_passes * float(self.facts["model_bytes"])
        trained = sum(share.expected for share in self.shares if share.owner.startswith("trainable weights"))
        moved = 2 * (self.passes_over_weights or 0) * trained
        return max(self.products / (speed * 1e12), read / (profile.bandwidth * 1e9)) + moved / (profile.bandwidth * 1e9)

    @property
    def total(self) -> Share:
        """The sum over all owners."""
        sums = (sum(getattr(share, name) for share in self.shares) for name in ("low", "expected", "high"))
        return Share("all", *sums)


class Longest(Batches):
    """The same batch at every step.

    Args:
        rows: of the batch.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows, len(rows), 0)

    def at(self, step: int) -> list[Row]:
        """All rows."""
        return [*self.rows]


class Rehearsals:
    """Rehearses runs of a model on a task; its tokenizer is read once, and its rows are encoded once.

    Args:
        profile: the machine that is meant; this one when None.
        tokens: of every row; those of the task's own rows when None.
        goes_on: whether the run is made in this process afterwards, with what rehearsals have imported.
    """

    def __init__(self, profile: Profile | None = None, tokens: int | None = None, goes_on: bool = False) -> None:
        self._profile, self._tokens, self._goes_on = profile, tokens, goes_on
        self._known: dict[Any, tuple[Reader | None, dict[str, list[Row]]]] = {}

    def planned(self, config: RunConfig, steps: int = 2, is_limited: bool = False) -> Planned:
        """What a run would take.

        Args:
            config: its settings.
            steps: that are made; the second has what the first one left.
            is_limited: whether the model is opened as under a limit, where its file does not stay resident.

        Raises:
            ZoplatError: the model, the task or the settings can't be planned.
        """
        reader, rows = self._encoded(config)
        if rows:
            check_batch(config, len(rows["train"]))
        elif config.batch_size > MOST_ROWS:
            raise ZoplatError(
                f"batch_size {config.batch_size}: of rows that are made, {MOST_ROWS} can be planned. "
                "Use a smaller --batch-size."
            )
        session = config.device.rehearse(spec_of(config), reader)
        if session is None:
            raise ZoplatError(
                f"Device '{config.device_name}' can't say what a run would take. Use --device cpu or cuda."
            )
        with session.traced():
            if (
                is_limited and config.base != "int8"
            ):  # quantising to 8 bits takes the whole model in memory, limit or not
                session.opening = 0
            splits = rows or {split: session.blank(config.batch_size, self._tokens or 1) for split in ("train", "dev")}
            batch, strategy = _longest(config, splits["train"]), preferred_strategy(config, session, splits["train"])
            peaks = _peaks(config, session, splits, batch, strategy, steps)
        try:
            space = session.space
            cost = measure_cost(config.estimator, space.blocks, strategy, space.restore, rows=config.batch_size)
        except CostUnknown:
            cost = None
        owners, off = on_fullest(peaks.owners, session.facts.get("cards", {}))
        shares = [Share.counted(owner, size) for owner, size in owners.items()]
        libraries = session.resident if self._goes_on else session.libraries
        is_backward = "gradient" in config.estimator.asks
        fixed = fixed_costs(session.facts["device"], libraries, peaks.kept, self._profile, is_backward)
        return Planned(
            (*shares, *fixed),
            peaks.inference - off,
            peaks.training - off,
            peaks.scoring - off,
            cost.forward_passes if cost else None,
            cost.passes_over_weights if cost else None,
            {**session.facts, "strategy": strategy},
            (len(batch), max(row.length for row in batch)),
            peaks.products,
        )

    def _encoded(self, config: RunConfig) -> tuple[Reader | None, dict[str, list[Row]]]:
        """The reader of a run's rows, and the rows of each split; (None, {}) where rows are made."""
        if self._tokens is not None:
            return None, {}
        name = _encoding(config)
        if name not in self._known:
            reader, raw = config.device.reader(spec_of(config), fetches=True), rows_of(config)
            encoder = PromptEncoder(config, cast(Session, reader))
            rows = {split: encoder.rows(some, split) for split, some in raw.items()} if reader else {}
            if reader and not (config.is_judged and data.find(config.task).generates):
                reader.release()
            self._known[name] = reader, rows
        return self._known[name]


def on_fullest(owners: Mapping[str, int], cards: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Bytes by owner on the card with most weights, and how many bytes less that is than on all cards.

    What belongs to weights lies as the weights do; what a forward pass holds may all be on one card.

    Args:
        owners: bytes by owner on all cards.
        cards: bytes of weights by card; empty where there is one device.

    >>> on_fullest({"trainable weights": 8, "activations": 3}, {"cuda:0": 1, "cuda:1": 3})
    ({'trainable weights': 6, 'activations': 3}, 2)
    """
    if not cards:
        return dict(owners), 0
    share = max(cards.values()) / sum(cards.values())
    found = {owner: size if owner in OF_THE_PASS else round(size * share) for owner, size in owners.items()}
    return found, sum(owners.values()) - sum(found.values())


def _encoding(config: RunConfig) -> tuple[Any, ...]:
    """All settings that the encoded rows of a run depend on."""
    most = getattr(config.device, "max_tokens", 0)
    rows = config.task, config.data, config.limit, config.per_class, config.per_class and config.seed
    return config.model, config.head, most, config.tune.virtual_tokens, config.template, config.objective, *rows


def _longest(config: RunConfig, rows: Sequence[Row]) -> list[Row]:
    """The batch with the longest row among those of the run."""
    batches = batches_of(config, rows)
    steps = min(config.steps or MOST_STEPS, MOST_STEPS, len(rows) // config.batch_size)
    return max((batches.at(step) for step in range(steps)), key=lambda batch: max(row.length for row in batch))


class _Peaks(NamedTuple):
    """What a rehearsal found.

    Attributes:
        inference, training: peaks in bytes.
        scoring: peak of inference beside what training keeps.
        products: multiplications and additions of a step.
        kept: bytes of small arrays that an allocator keeps after a step.
        owners: bytes by owner at the highest peak.
    """

    inference: int
    training: int
    scoring: int
    products: int
    kept: int
    owners: dict[str, int]


def _peaks(
    config: RunConfig,
    session: Rehearsal,
    splits: Mapping[str, list[Row]],
    batch: Sequence[Row],
    strategy: str,
    steps: int,
) -> _Peaks:
    """Rehearse inference and some steps."""
    profiler, longest = Profiler(session.memory, lambda: None), Longest(batch)
    before = _now(session)
    inference = _peak(session, lambda: _infer(config, session, splits))
    scored = session.owners_at_peak()
    learner = Learner(config, session, objective_of(config), strategy=strategy)
    training, owners = 0, dict[str, int]()
    for _ in range(steps):
        peak = _peak(session, lambda: learner.advance(longest, profiler))
        training, owners = max((training, owners), (peak, session.owners_at_peak()), key=lambda found: found[0])
    products, kept = session.products, session.kept
    session.reset_peak()
    scoring = _now(session) + inference - before  # with what training keeps
    if scoring > training:
        owners = session.owners_at_peak() | {owner: scored[owner] for owner in OF_THE_PASS if owner in scored}
    if before + session.opening > max(training, scoring):
        weights = {owner: size for owner, size in session.ledger().items() if owner.endswith(" weights")}
        owners = weights | {OPENING: session.opening}
    return _Peaks(inference, training, scoring, products, kept, owners)


def _infer(config: RunConfig, session: Rehearsal, splits: Mapping[str, list[Row]]) -> None:
    """What a run does with the longest rows of a split: their loss, and their scores or the text that is written."""
    batches = [[rows[i] for i in by_length(rows, at_once(config, split))[0]] for split, rows in splits.items()]
    longest = max(batches, key=lambda rows: rows[0].length * len(rows))
    session.forward(longest)
    example = longest[0].example
    if example.is_open:
        session.generate(longest, example.length, example.stop)
    elif example.loss != "options":
        session.scores(longest)


def _now(session: Rehearsal) -> int:
    """Bytes in use."""
    reading = session.memory()
    return reading.host if reading.device is None else reading.device


def _peak(session: Rehearsal, run: Callable[[], object]) -> int:
    """The peak of memory while something runs."""
    session.reset_peak()
    run()
    reading = session.memory()
    return reading.host_peak if reading.device_peak is None else reading.device_peak

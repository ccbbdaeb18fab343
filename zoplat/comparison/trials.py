"""The search for settings: points of a quasi-random sequence, the same for everybody, and their record in Optuna.

The first trial has the usual settings. The others are points of Halton's sequence, as in AlgoPerf's external tuning
(Dahl et al., "Benchmarking Neural Network Training Algorithms", 2023, arXiv:2306.07179): no trial depends on the scores
of others, so that any number of workers makes the same trials in any order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from zoplat.core.errors import ZoplatError
from zoplat.core.search import Between, OneOf

DIGITS = 3
"""Digits of a number in a point, so that it can be read and typed."""
SEED = 0
"""Of the scrambled sequence."""
TRIAL = "trial"
"""Attribute of a trial in the database: its number in the search, which is the same however often it was begun."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes the same SQLite file."""
MISSING = "--tune-trials needs SciPy and Optuna, which are not both installed: pip install 'zoplat[study]'"


def point(ranges: Mapping[str, Between | OneOf], usual: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The settings of a trial: those that are usual for the first, brought into the ranges, then points in them.

    Args:
        ranges: by dotted path.
        usual: the value of each setting without a search.
        index: number of the trial, from 0.

    Raises:
        ZoplatError: SciPy is not installed.
    """
    if index == 0:
        return {path: where.nearest(usual[path]) for path, where in ranges.items()}
    try:
        from scipy.stats.qmc import Halton
    except ImportError:
        raise ZoplatError(MISSING) from None
    shares = Halton(len(ranges), seed=SEED).random(index)[-1]
    values = zip(ranges.items(), shares, strict=True)
    return {path: _readable(where, where.value(float(share)), usual[path]) for (path, where), share in values}


def _readable(where: Between | OneOf, value: Any, usual: Any) -> Any:
    """A value with few digits, a whole number where the usual one is."""
    if isinstance(where, OneOf):
        return value
    if type(usual) is int:
        return where.nearest(round(value))
    digits = DIGITS - 1 - math.floor(math.log10(abs(value))) if value else 0
    return where.nearest(round(value, digits))


@dataclass
class Record:
    """The trials of a comparison in a database of Optuna: one study a cell, whose values are scores on dev.

    What was done is in the run directories. This is how it is shared with Optuna's own tools; whoever has the claim on
    a trial, and nobody else, writes it.

    Attributes:
        url: of the database, as SQLAlchemy takes it.
        name: of the comparison, before the names of its studies.
    """

    url: str
    name: str
    _storage: Any = field(default=None, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    @classmethod
    def beside(cls, folder: Path, name: str) -> Record:
        """In a file of SQLite in the folder of a comparison."""
        return cls(f"sqlite:///{(folder / 'study.db').absolute()}", name)

    def prepare(self) -> None:
        """Make the tables; by one process at a time.

        Raises:
            ZoplatError: Optuna is not installed, or the database can't be reached.
        """
        with self._lock:
            self._open()

    def began(self, cell: str, index: int, ranges: Mapping[str, Between | OneOf], settings: Mapping[str, Any]) -> None:
        """Note that a trial runs, unless that is noted already."""
        import optuna

        with self._lock:
            study = self._study(cell)
            last = self._last(study, index)
            if last is None or last.state.is_finished():
                study.add_trial(
                    optuna.trial.create_trial(
                        state=optuna.trial.TrialState.RUNNING,
                        params=dict(settings),
                        distributions={path: _distribution(where, settings[path]) for path, where in ranges.items()},
                        user_attrs={TRIAL: index},
                    )
                )

    def ended(self, cell: str, index: int, score: float | None, notes: Mapping[str, Any]) -> None:
        """Note how a trial that began has ended, unless that is noted already.

        Args:
            cell: its cell.
            index: its number.
            score: on dev; None where it failed.
            notes: plain values by name.
        """
        import optuna

        with self._lock:
            study, storage = self._study(cell), self._open()
            last = self._last(study, index)
            if last is None or last.state.is_finished():
                return
            known = storage.get_study_id_from_name(study.study_name)
            for name, value in notes.items():
                trial = storage.get_trial_id_from_study_id_trial_number(known, last.number)
                storage.set_trial_user_attr(trial, name, value)
            state = optuna.trial.TrialState.FAIL if score is None else None
            study.tell(last.number, score, state=state)

    def has_ended(self, cell: str, index: int) -> bool:
        """Whether the end of a trial is noted."""
        with self._lock:
            last = self._last(self._study(cell), index)
        return last is not None and bool(last.state.is_finished())

    def scores(self, cell: str) -> dict[int, float]:
        """By number of the trial, the score on record of those that ended well."""
        with self._lock:
            trials = self._study(cell).get_trials(deepcopy=False)
        return {trial.user_attrs[TRIAL]: trial.value for trial in trials if trial.value is not None}

    def _open(self) -> Any:
        if self._storage is None:
            try:
                import optuna
            except ImportError:
                raise ZoplatError(MISSING) from None
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            arguments = {"connect_args": {"timeout": PATIENCE}} if self.url.startswith("sqlite") else {}
            try:
                self._storage = optuna.storages.RDBStorage(self.url, engine_kwargs=arguments)
            except Exception as problem:  # of SQLAlchemy or of any driver
                reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
                raise ZoplatError(f"--storage: the database can't be used: {reason}") from None
        return self._storage

    def _study(self, cell: str) -> Any:
        import optuna

        name = f"{self.name}/{cell}"
        return optuna.create_study(storage=self._open(), study_name=name, direction="maximize", load_if_exists=True)

    @staticmethod
    def _last(study: Any, index: int) -> Any:
        """The newest record of a trial; None where there is none."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(TRIAL) == index]
        return trials[-1] if trials else None


def _distribution(where: Between | OneOf, value: Any) -> Any:
    """A range as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(where, OneOf):
        return CategoricalDistribution(where.values)
    if type(value) is int:
        return IntDistribution(math.ceil(where.low), math.floor(where.high), log=where.log)
    return FloatDistribution(where.low, where.high, log=where.log)

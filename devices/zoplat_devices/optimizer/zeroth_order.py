"""`ZerothOrder`: any forward-only method as a `torch.optim.Optimizer`, in a training loop that is not zoplat's."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from zoplat.core.errors import RunFailed, ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.rule import StepRule
from zoplat.core.sampler import Sampler
from zoplat.training.journal import Journal
from zoplat.training.progress import Progress
from zoplat.training.step import MAX_SKIPPED
from zoplat_devices.optimizer.engine import Engine, Precision, Saved, keeps_state
from zoplat_devices.optimizer.journal import StepJournal, check_start
from zoplat_devices.optimizer.losses import Auxiliary, Closure, ClosureLosses, RandomState, number_of, without_gradients
from zoplat_devices.optimizer.settings import Method, sampler_table
from zoplat_devices.optimizer.weights import groups_of, mark

OURS = "zoplat"
"""Key of a state_dict that has what torch's own keys do not."""


class ZerothOrder(torch.optim.Optimizer):  # type: ignore[misc]  # torch has no types here
    """Steps by losses alone: `loss = optimizer.step(closure)`, in the manner of `torch.optim.LBFGS`.

    The closure computes the loss of one batch and returns it; it calls no backward(). A step calls it as often as the
    method asks for losses, at other weights each time, and leaves θ in the parameters when it returns.

    Args:
        params: a module, all of whose parameters with requires_grad are trained; or what optimizers of torch take:
            parameters, (name, parameter) pairs, or groups. A group may have lr, eps, weight_decay and sampler of its
            own.
        estimator: the method: its name, a table with "name", or a value.
        lr: step size η; None for the method's own.
        eps: smoothing radius ε, in the units of the parameters; None for the method's own.
        sampler: law of the random directions: a name, a table or a value; None for the method's own.
        step_rule: how estimates become steps; None for the method's own.
        queries: directions of a step; None for the method's own.
        weight_decay: λ, on matrices only; None for the method's own.
        options: any other field by its path: {"sampler.rank": 4}, as `-o` on the command line.
        steps: of the whole run, for methods and rules that follow a curve of their own over it.
        seed: of the random directions.
        model: the module that has the parameters, where `params` is none; needed for 16-bit weights.
        restore: "in-place", "exact" or "auto": as -o device.restore.
        rounding: of updates to 16-bit weights: "nearest", "stochastic", "master" or "auto".
        journal: a file for the losses of every step, from which `replay` makes the steps again; none when None. It
            is written from the first step on, or behind the steps that a loaded state has made.

    Attributes:
        progress: steps, forward passes, skipped steps and seconds in steps so far.

    Raises:
        ZoplatError: the method needs more than losses, a setting is wrong, or parameters can't be trained in place.
    """

    def __init__(
        self,
        params: Any,
        estimator: str | Mapping[str, Any] | Estimator[Any] = "lozo",
        *,
        lr: float | None = None,
        eps: float | None = None,
        sampler: str | Mapping[str, Any] | Sampler | None = None,
        step_rule: str | Mapping[str, Any] | StepRule[Any] | None = None,
        queries: int | None = None,
        weight_decay: float | None = None,
        options: Mapping[str, Any] | None = None,
        steps: int | None = None,
        seed: int = 0,
        model: torch.nn.Module | None = None,
        restore: Literal["auto", "in-place", "exact"] = "auto",
        rounding: Literal["auto", "nearest", "stochastic", "master"] = "auto",
        journal: str | Path | None = None,
    ) -> None:
        given = {"estimator": estimator, "lr": lr, "eps": eps, "sampler": sampler, "step_rule": step_rule}
        chosen = dict(options or {}) if weight_decay is None else {**(options or {}), "rule.decay": float(weight_decay)}
        self._method = Method.of({**given, "queries": queries, "options": chosen, "seed": seed}, steps)
        self._precision = Precision(restore, rounding)
        self._engine: Engine | None = None
        self._loaded: Saved | None = None
        self._journal = None if journal is None else StepJournal(Path(journal))
        self._skipped_in_a_row, self._skips_call = 0, False
        self._last = torch.tensor(math.nan, dtype=torch.float64)
        self.progress = Progress()
        groups, self._model = groups_of(params, model)
        super().__init__(groups, self._method.defaults())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, at any time; those of a method that keeps something for each weight before its first step."""
        param_group["sampler"] = sampler_table(param_group.get("sampler"))
        super().add_param_group(param_group)
        self._method.values(self.param_groups[-1])

    def step(self, closure: Closure | None = None, *, auxiliary: Auxiliary | None = None) -> torch.Tensor:
        """Make one step.

        Args:
            closure: returns the loss of the batch: a float, or a tensor of one number, differentiable or not. Batch
                and everything random must be the same in all calls of one step; random numbers of torch, such as
                dropout's, are.
            auxiliary: auxiliary(i) returns the loss of another batch; for methods that ask for some.

        Returns:
            Mean of the losses of the step, a float64 tensor of no dimensions; NaN where none was finite.

        Raises:
            ZoplatError: there is no closure, it returns no number, or it calls backward().
            RunFailed: 20 steps in a row could not be made, or the journal lacks a step that moved the weights.
        """
        if closure is None and self._skips_call:
            self._skips_call = False
            return self._last
        if closure is None:
            raise ZoplatError(
                f"'{self._method.name}' computes losses itself: call optimizer.step(closure), where closure() returns "
                "the loss of the batch. For Trainer and SFTTrainer there is zoplat.torch.TrainerForwardOnly."
            )
        engine = self._current_engine()
        if self._journal is not None:
            self._journal.begin(engine, self.progress.step)
        start = RandomState(engine.device)
        skipped, began = self.progress.skipped, time.perf_counter()
        losses = ClosureLosses(closure, engine.forming, start, auxiliary, self._method.name)
        with self._journal.whole(engine, self.progress.step) if self._journal is not None else nullcontext():
            record = engine.step(losses)
            if self._journal is not None:
                self._journal.append(record, self.param_groups)
        self.progress.seconds += time.perf_counter() - began
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if self.progress.skipped > skipped else 0
        if self._skipped_in_a_row == MAX_SKIPPED:
            raise RunFailed(
                f"{MAX_SKIPPED} steps in a row, up to step {record.step}, could not be made. The last one: "
                f"{engine.learner.skip_reason} Another lr or eps may help."
            )
        self._last = torch.tensor(math.nan if record.loss is None else record.loss, dtype=torch.float64)
        return self._last

    def replay(self, journal: str | Path | None = None) -> int:
        """Make the steps of a journal again, without a closure: the weights and all states come out with the same bits.

        The model has the weights with which the journal began, and this optimizer the same settings and has made no
        step. Afterwards it goes on behind the journal; settings of groups are those of its last step.

        Args:
            journal: the file; that of this optimizer when None.

        Returns:
            How many steps there were.

        Raises:
            ZoplatError: the journal is damaged, began with other weights, or is that of another model, method or
                setting; the message names what differs.
        """
        path = Path(journal) if journal is not None else self._journal.path if self._journal is not None else None
        if path is None:
            raise ZoplatError(
                "replay() needs a journal, and none was given: replay('FILE'), or ZerothOrder(…, journal='FILE')."
            )
        if self.progress.step:
            raise ZoplatError(
                f"The optimizer has made {self.progress.step} steps, and replay() begins with the first. Make a new "
                "one for a model that has the weights with which the journal began."
            )
        recorded = Journal.read(path)
        self._take_settings(recorded.steps[0].groups if recorded.steps else None)
        engine = self._current_engine(bool(recorded.header.get("is_grouped")))
        check_start(recorded, engine, path)
        for record in recorded.steps:
            self._take_settings(record.groups)
            self._current_engine().replay(record)
        return len(recorded.steps)

    def _take_settings(self, groups: list[dict[str, Any]] | None) -> None:
        """Give the parameter groups the settings that a journal has for them; nothing where these are as before."""
        for group, settings in zip(self.param_groups, groups or [], strict=False):
            group.update(settings)

    def skip_next_call(self) -> None:
        """Have the next `step()` without a closure do nothing: it is a trainer's own call for a step already made."""
        self._skips_call = True

    def check_closure(self, closure: Closure) -> None:
        """Call a closure twice at the same weights; raise ZoplatError where the two losses differ.

        They do where it takes a new batch at every call, or draws random numbers that are not torch's.
        """
        start, losses = RandomState(self._current_engine().device), []
        for _ in range(2):
            start.restore()
            with without_gradients():
                losses.append(float(number_of(closure())))
        one, other = losses
        if abs(one - other) > 1e-6 * max(abs(one), abs(other)):
            raise ZoplatError(
                f"The closure returned {one} and then {other} at the same weights. All calls of one step must have the "
                "same batch: take it outside of the closure. Random numbers that are not torch's must be the same too."
            )

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, of tensors and plain values; the weights are in the state_dict of the model."""
        progress, own = vars(self.progress).copy(), self._loaded
        if self._engine is not None:
            own = self._engine.saved()
        seed = self._method.config.seed
        return {**super().state_dict(), OURS: {"method": self._method.table(), "seed": seed, **progress, "own": own}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved optimizer was, once the model has its weights.

        Raises:
            ZoplatError: it was saved by another kind of optimizer, by another method, or for other parameters.
        """
        saved = state_dict.get(OURS)
        if saved is None:
            raise ZoplatError(
                "This state_dict was not saved by zoplat.torch.ZerothOrder. Load the one of its own state_dict()."
            )
        self._method.check_saved(saved["method"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != OURS})
        self._method = self._method.seeded(int(saved["seed"]))
        self.progress = Progress(*(saved[name] for name in ("step", "passes", "skipped", "seconds")))
        self._drop_engine()
        self._loaded = saved["own"]

    def __getstate__(self) -> dict[str, Any]:
        raise ZoplatError(
            "ZerothOrder can't be copied or pickled. Save its state_dict(), and load that into a new one."
        )

    def _current_engine(self, is_grouped: bool = False) -> Engine:
        """The engine on the parameters as they are now; made anew where some were added, frozen or moved.

        Args:
            is_grouped: whether a new one has a rule for each group although all are alike.
        """
        if self._engine is not None and self._engine.mark == mark(self.param_groups):
            self._engine.configure(self.param_groups)
            return self._engine
        before = self._engine
        if before is not None:
            self._loaded = before.saved()
            self._drop_engine()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            check_alone(torch.distributed.get_world_size())
        is_grouped |= self._loaded is not None and self._loaded["is_grouped"]
        engine = Engine(self._method, self.param_groups, self._precision, self._model, self.progress, is_grouped)
        if before is not None and keeps_state(engine.learner) and engine.names - before.names:
            raise ZoplatError(
                f"'{self._method.name}' keeps something for each weight from its first step on, and "
                f"{min(engine.names - before.names)} was added. Make a new optimizer."
            )
        if self._loaded is not None:
            engine.restore(self._loaded)
            self._loaded = None
        self._engine = engine
        return engine

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def check_alone(processes: int) -> None:
    """Raise ZoplatError where several processes train together: each would go its own way."""
    if processes > 1:
        raise ZoplatError(
            f"ZerothOrder runs in one of {processes} processes of torch.distributed. It exchanges no losses with the "
            "others, so that their weights would differ after the first step. Use one process."
        )

"""The engine of one optimizer: its space, its method and their states, on the parameters as they lie now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoplat.config.parts import law_of
from zoplat.config.seeds import derived_seed
from zoplat.core.blocks import Part
from zoplat.core.errors import ZoplatError
from zoplat.core.losses import LossBackend
from zoplat.space.part_of_space import GroupedSpace
from zoplat.training.journal import StepRecord
from zoplat.training.progress import Progress
from zoplat.training.states import state_from_json, state_to_json
from zoplat.training.step import Learner
from zoplat_devices.optimizer.groups import States
from zoplat_devices.optimizer.settings import Method, Values
from zoplat_devices.optimizer.weights import blocks_of, kind_of, mark
from zoplat_devices.pytorch.backends import backend_for
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.pytorch.precision import choose_restore, choose_rounding
from zoplat_devices.pytorch.strategies.sequential import ExactRestore

Saved = dict[str, Any]
"""Plain values and tensors."""


@dataclass(frozen=True)
class Precision:
    """How probes and updates meet 16-bit weights; as the settings of a device.

    Attributes:
        restore: "auto", "in-place" or "exact".
        rounding: "auto", "nearest", "stochastic" or "master".
    """

    restore: Any = "auto"
    rounding: Any = "auto"


class Engine:
    """Steps on the parameters of an optimizer's groups.

    Args:
        method: the method and its settings.
        groups: of the optimizer.
        precision: of probes and updates.
        model: the module that has the parameters; None where it is not known.
        progress: of the run; continued.
        is_grouped: whether each group has a rule of its own although all have the same settings now.

    Attributes:
        names: of the trained blocks.
        space: θ.
        strategy: of evaluation.
        device: of the weights.
        learner: makes the steps.
        mark: of the parameters when the engine was made.
        parts: the blocks of each group.
        is_grouped: whether each group has a rule of its own.

    Raises:
        ZoplatError: the parameters can't be trained, or exact restore needs the module.
    """

    def __init__(
        self,
        method: Method,
        groups: Sequence[Mapping[str, Any]],
        precision: Precision,
        model: Any,
        progress: Progress,
        is_grouped: bool = False,
    ) -> None:
        self.method, self.mark = method, mark(groups)  # type: ignore[arg-type]
        listed = [one for group in groups for one in group["params"]]
        self._parameters = listed if model is None else [*model.parameters(), *listed]
        blocks, names, self.device = blocks_of(groups)  # type: ignore[arg-type]
        self.names = frozenset(block.name for block in blocks)
        self.parts = [Part(frozenset(some)) for some in names]
        self._used = [number for number, some in enumerate(names) if some]
        kind = kind_of(self.device, blocks[0].name)
        settings = PyTorch(kind, restore=precision.restore, rounding=precision.rounding)
        restore = choose_restore(settings, blocks)
        if restore == "exact" and model is None:
            raise ZoplatError(
                f"{blocks[0].dtype} weights are probed without writing to them, for which the module is needed: "
                "ZerothOrder(model, …) or ZerothOrder(params, model=model, …). With restore='in-place' probes are "
                "rounded into the weights."
            )
        with self.on_device():
            seed = derived_seed(method.config.seed, "init")
            rounding = choose_rounding(settings, blocks, restore)
            self.space = GroupedSpace(blocks, backend_for(blocks, kind), restore, rounding, seed)
            self.exact = ExactRestore(model, self.space) if restore == "exact" else None
            self.strategy = "sequential"
            self._known: list[Values] = []
            self.is_grouped = is_grouped or self._differ(groups)
            estimator = self._estimator(self._values(groups))
            self.learner = Learner(replace(method.config, estimator=estimator), self, progress=progress)

    def on_device(self) -> AbstractContextManager[Any]:
        """What is inside runs on the accelerator of the weights."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def configure(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Take the settings of the groups as they are now, such as a scheduler's.

        Raises:
            ZoplatError: groups that were alike from the start no longer are, and the rule keeps one state for all.
        """
        values = self._values(groups)
        if values == self._known:
            return
        if not self.is_grouped and len({*map(repr, values)}) > 1:
            self._require_stateless(self.learner.states["rule"] is None)
            self.is_grouped = True
            self.learner.states["rule"] = States([None for _ in values])
        self.learner.config = replace(self.learner.config, estimator=self._estimator(values))

    def step(self, losses: LossBackend) -> StepRecord:
        """Make one step; θ is in the arrays afterwards, also where it fails."""
        with self._stepping():
            return self.learner.make(losses)

    def replay(self, record: StepRecord) -> None:
        """Make the step of a journal again, without a loss being computed."""
        with self._stepping():
            self.learner.replay(record)

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """One step is made inside."""
        with self.on_device():
            if self.space.rounding == "master":
                self.space.reset()
            with frozen(self._parameters):
                try:
                    yield
                finally:
                    self.space.settle()

    @contextmanager
    def forming(self) -> Iterator[None]:
        """While a closure is called: layers see the perturbed weights, where those are not written."""
        if self.exact is None or not self.space.perturbation:
            yield
            return
        try:
            with self.exact.active():
                yield
        except ZoplatError as problem:
            raise ZoplatError(f"{problem} Of ZerothOrder these are restore='in-place' and requires_grad.") from problem

    def saved(self) -> Saved:
        """All that the next step depends on, weights and groups aside."""
        states = {name: state_to_json(state, self.space) for name, state in self.learner.states.items()}
        return {
            "is_grouped": self.is_grouped,
            "states": states,
            "buffers": [dict(buffer.arrays) for buffer in self.space.buffers],
        }

    def restore(self, saved: Saved) -> None:
        """Take over what `saved` returned, of this engine or of one on some of its parameters.

        Raises:
            ZoplatError: it belongs to other parameters, or a method keeps something for each weight from its first
                step on and parameters were added.
        """
        with self.on_device():
            self._restore(saved)

    def _restore(self, saved: Saved) -> None:
        own = self.space.buffers
        if len(saved["buffers"]) > len(own):
            raise ZoplatError(
                "The state was saved by an optimizer with other parameter groups. Make this one with the same groups."
            )
        fresh = self.learner.states["rule"]
        each = [*fresh.each] if self.is_grouped else []
        for buffer, arrays in zip(own, saved["buffers"], strict=False):
            for name, array in arrays.items():
                if name not in buffer.arrays or buffer.arrays[name].shape != array.shape:
                    raise ZoplatError(
                        f"The state has {buffer.owner} of {name} with shape {tuple(array.shape)}, and that parameter "
                        "is not trained here with this shape. Make the optimizer for the same parameters."
                    )
                buffer.arrays[name][:] = array
        states = self.learner.states
        for name, state in states.items():
            states[name] = state_from_json(state, saved["states"][name], self.space)
        if self.is_grouped and not saved["is_grouped"]:
            self._require_stateless(states["rule"] is None)
            states["rule"] = fresh
        elif self.is_grouped:
            states["rule"].each += each[len(states["rule"].each) :]
        self.space.reset()

    def close(self) -> None:
        """Take the hooks off the module."""
        if self.exact is not None:
            self.exact.remove()

    def _require_stateless(self, is_stateless: bool) -> None:
        """Raise ZoplatError where groups that were alike now differ, and the rule keeps one state for all of them."""
        if not is_stateless:
            raise ZoplatError(
                f"The groups of '{self.method.name}' began alike, so that its rule keeps one state for all, and now "
                "they differ. Let them differ from the first step on."
            )

    def _differ(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether groups have different settings; a scheduler that begins at 0 leaves their lr in initial_lr."""
        begun = [{**group, "lr": group.get("initial_lr", group["lr"])} for group in groups]
        return len({*map(repr, self._values(begun))}) > 1

    def _values(self, groups: Sequence[Mapping[str, Any]]) -> list[Values]:
        """The settings of the groups that have trained parameters."""
        return [self.method.values(groups[number]) for number in self._used]

    def _estimator(self, values: list[Values]) -> Any:
        self._known = values
        if not self.is_grouped:
            return self.method.estimator(values[0])
        estimator, drawn = self.method.by_group(values, [self.parts[number] for number in self._used])
        self.space.groups, self.space.law = drawn, law_of(estimator)
        return estimator


@contextmanager
def frozen(parameters: Sequence[Any]) -> Iterator[None]:
    """No parameter requires a gradient, so that no graph is kept even where a closure switches gradients on again."""
    needing = [one for one in parameters if one.requires_grad]
    for one in needing:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in needing:
            one.requires_grad_(True)


def keeps_state(learner: Learner) -> bool:
    """Whether the method itself, its rule aside, keeps anything from step to step."""
    return learner.states["estimator"] is not None

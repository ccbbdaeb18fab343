"""A LOZO that steps with the old V on the step that has probed with a new one.

Both were probed at some time, so that no name gives it away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoplat import Estimate, Estimator, Key, Noise, Oracle, ParameterSpace, Sampler, StepRule, Tile, hookimpl
from zoplat_plugins.constant import Constant


@dataclass(frozen=True)
class Basis(Sampler):
    """U Vᵀ of rank 1, with the V of a given step; plain Gaussian on vectors.

    Attributes:
        epoch: the step that V is of.
    """

    epoch: int = 0

    def fill(self, out: Any, tile: Tile, key: Key, noise: Noise) -> None:
        out[:] = noise.normal((tile.shape[0], 1) if tile.is_matrix else tile.shape, key, tile, "U")
        if tile.is_matrix:
            out *= noise.normal((1, tile.shape[1]), key.at(self.epoch), tile.block.name, "V")


@dataclass
class State:
    """The step that V is of."""

    epoch: int = 0


@dataclass(frozen=True)
class StaleBasis(Estimator):
    """Central difference along U Vᵀ, V new every ν steps.

    Attributes:
        eps: smoothing radius ε; positive.
        interval: ν, steps that share V; at least 1.
        rule: how the estimate becomes a step.
    """

    eps: float = 1e-3
    interval: int = 50
    rule: StepRule = Constant(lr=1e-6)

    def init(self, space: ParameterSpace) -> State:
        return State()

    def estimate(self, oracle: Oracle, state: State) -> Iterator[Estimate]:
        now = oracle.step - oracle.step % self.interval
        [z] = oracle.draw(Basis(now), 1)
        up, down = oracle.losses(+self.eps * z, -self.eps * z)
        [(draw, _)] = z
        if state.epoch != now:
            z = oracle.space.draw(Basis(state.epoch), draw.key)
            state.epoch = now
        yield Estimate((up - down) / (2 * self.eps) * z, [up, down], self.eps)


@hookimpl
def zoplat_samplers() -> dict[str, Sampler]:
    return {"basis": Basis()}


@hookimpl
def zoplat_estimators() -> dict[str, Estimator]:
    return {"stale-basis": StaleBasis()}

"""Losses that a closure computes: the answers of an oracle inside somebody else's training loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from zoplat.core.errors import ZoplatError
from zoplat.core.losses import LossBackend, Number

Closure: TypeAlias = Callable[[], Any]
"""Computes the loss of the batch of a step at the weights of the moment: a float, or a tensor of one number."""
Auxiliary: TypeAlias = Callable[[int], Any]
"""Computes the loss of auxiliary batch number i of a step."""

BACKWARD = (
    "The closure calls backward(), and a zeroth-order step has no gradients. Leave it out: a closure only returns the "
    "loss. In Lightning put zoplat.torch.LightningForwardOnly before LightningModule; for Trainer and SFTTrainer there "
    "is zoplat.torch.TrainerForwardOnly."
)


@dataclass
class ClosureLosses(LossBackend):
    """The losses of one step.

    Attributes:
        closure: called once for every loss.
        forming: is entered around every call; forms perturbed weights where restore is exact.
        start: state of torch's random numbers that every call begins with, so that dropout is the same in all.
        auxiliary: for methods that ask for other batches of the step.
        method: its name, for messages.
    """

    closure: Closure
    forming: Callable[[], AbstractContextManager[None]]
    start: RandomState
    auxiliary: Auxiliary | None
    method: str

    def forward(self) -> Number:
        self.start.restore()
        with self.forming(), without_gradients():
            return number_of(self.closure())

    def on_batch(self, index: int) -> LossBackend:
        if self.auxiliary is None:
            warnings.warn(
                f"'{self.method}' asks for another batch of the same step, and has the batch of the closure in its "
                "place. Give step(closure, auxiliary=f), where f(i) computes the loss of other batch number i.",
                stacklevel=2,
            )
            return self
        auxiliary = self.auxiliary
        return replace(self, closure=lambda: auxiliary(index))


class RandomState:
    """The state of torch's random numbers, of the processor and of one accelerator.

    Args:
        device: of the weights.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = torch.get_rng_state()
        self._cuda = device if device.type == "cuda" else None
        self._device = torch.cuda.get_rng_state(device) if self._cuda is not None else None

    def restore(self) -> None:
        """Put it back."""
        torch.set_rng_state(self._host)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._device, self._cuda)


@contextmanager
def without_gradients() -> Iterator[None]:
    """No graph is recorded; a closure that calls backward() is refused.

    Raises:
        ZoplatError: it does.
    """
    try:
        with torch.no_grad():
            yield
    except RuntimeError as problem:
        if "does not require grad" in str(problem):
            raise ZoplatError(BACKWARD) from problem
        raise


def number_of(loss: Any) -> Number:
    """The loss that a closure returned, not waited for.

    Raises:
        ZoplatError: it is no number.
    """
    if isinstance(loss, torch.Tensor):
        if loss.numel() == 1 and not loss.is_complex():
            return _wide(loss.detach().reshape(()))
        raise ZoplatError(f"The closure must return one number, and returned a tensor of shape {tuple(loss.shape)}.")
    try:
        return float(loss)
    except (TypeError, ValueError):
        what = "nothing: it has no `return loss`" if loss is None else f"a {type(loss).__name__}"
        raise ZoplatError(f"The closure must return one number, the loss, and returned {what}.") from None


def _wide(loss: torch.Tensor) -> torch.Tensor:
    if loss.dtype in (torch.bfloat16, torch.float16):
        warnings.warn(
            f"the closure returns the loss in {str(loss.dtype).removeprefix('torch.')}, in which the losses of two "
            "close points are often equal. Compute it in float32: loss_function(logits.float(), labels).",
            stacklevel=2,
        )
    return loss

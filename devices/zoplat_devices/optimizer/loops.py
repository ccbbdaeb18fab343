"""Mixins for loops that call backward() by themselves: transformers' Trainer, TRL's SFTTrainer, Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from zoplat.core.errors import ZoplatError
from zoplat_devices.optimizer.zeroth_order import ZerothOrder


class LightningForwardOnly:
    """Put before LightningModule: its automatic optimization then calls no backward().

    >>> class Model(LightningForwardOnly, LightningModule): ...  # doctest: +SKIP
    """

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Nothing: the optimizer has the loss already."""


class TrainerForwardOnly:
    """Put before Trainer, SFTTrainer or another class derived from Trainer, and give it a ZerothOrder as optimizer.

    Either one that is made already, or, where the trainer makes an adapter first, the class and its keywords.

    Every optimizer step is made where the trainer would call backward() for the last time before it: the trainer's own
    `training_step` is the closure, on all the batches that it accumulates. What is logged as loss is the mean of the
    losses of the step; gradients are none, so clipping them does nothing.

    >>> class ForwardOnlyTrainer(TrainerForwardOnly, Trainer): ...  # doctest: +SKIP
    >>> ForwardOnlyTrainer(model, args, optimizers=(ZerothOrder(model, "mezo"), None), …)  # doctest: +SKIP
    >>> ForwardOnlyTrainer(model, args, optimizer_cls_and_kwargs=(ZerothOrder, {"lr": 1e-6}), …)  # doctest: +SKIP
    """

    accelerator: Any
    optimizer: Any
    optimizer_cls_and_kwargs: Any
    model: Any
    args: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting: list[Callable[[], torch.Tensor]] = []
        super().__init__(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the trainer makes it, a ZerothOrder with the module that has the parameters."""
        kind, keywords = self.optimizer_cls_and_kwargs or (None, {})
        if kind is ZerothOrder:
            self.optimizer_cls_and_kwargs = kind, {"model": args[0] if args else self.model, **keywords}
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]  # of the class that this is put before

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make the optimizer step if this is the last batch of it; else keep the batch for it.

        Returns:
            What the trainer adds to its loss: that of the step, and 0 for the batches before.

        Raises:
            ZoplatError: the optimizer is no ZerothOrder, or fp16 is on, whose scaler waits for gradients.
        """
        optimizer = self._zeroth_order()
        own = super().training_step  # type: ignore[misc]  # of the class that this is put before
        self._waiting.append(lambda: own(model, dict(inputs), *args, **kwargs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        closures, self._waiting = self._waiting, []
        with self._without_backward():
            loss = optimizer.step(partial(_sum, closures))
        optimizer.skip_next_call()
        return loss.to(self.args.device, torch.float32)

    def _zeroth_order(self) -> ZerothOrder:
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(optimizer, ZerothOrder):
            found = type(optimizer).__name__
            raise ZoplatError(f"TrainerForwardOnly needs optimizers=(ZerothOrder(model, …), None), and has {found}.")
        if self.accelerator.scaler is not None:
            raise ZoplatError("TrainerForwardOnly: fp16=True scales gradients, and there are none. Use bf16=True.")
        return optimizer

    @contextmanager
    def _without_backward(self) -> Iterator[None]:
        """The trainer's calls of backward() do nothing."""
        self.accelerator.backward = lambda loss, **kwargs: None
        try:
            yield
        finally:
            del self.accelerator.backward


def _sum(closures: list[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """The loss of all batches of a step; the trainer has divided each by their number."""
    return torch.stack([closure().double() for closure in closures]).sum()

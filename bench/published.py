"""The published steps, transcribed: each perturbation is a loop over the weights that allocates new tensors.

Each regenerates its vector from a seed for every perturbation, one weight at a time, and gives the weight new storage,
as the released trainers do; their training loops are left out. Mistakes of the releases that don't affect cost are not
repeated. Learning rates are tiny, so that the model hardly changes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoplat_devices.pytorch.quiet import quiet

LR, EPS, DECAY = 1e-9, 1e-3, 0.0


class Problem:
    """A model on a batch.

    Args:
        model: of transformers.
        loss: computes the mean loss of the batch, in the gradient mode that the caller has set.
        weights: those that are trained; None for all parameters of the model.

    Attributes:
        weights: those that are trained.
        forwards: forward passes so far.
    """

    def __init__(self, model: Any, loss: Callable[[], Tensor], weights: Sequence[Tensor] | None = None) -> None:
        self.model = model
        self.loss = loss
        self.weights = list(model.parameters()) if weights is None else weights
        self.forwards = 0

    def value(self) -> float:
        """The loss as a number."""
        with torch.inference_mode():
            return float(self.tensor())

    def tensor(self) -> Tensor:
        """The loss as a tensor."""
        self.forwards += 1
        return self.loss()


class MeZO:
    """Central difference along one normal vector, in place, and the update. Malladi et al., arXiv:2305.17333."""

    passes: ClassVar[int] = 2

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.weights: Sequence[Tensor] = problem.weights
        self.prepare()

    def prepare(self) -> None:
        """Allocate state."""

    def step(self) -> None:
        """One step."""
        seed = int(torch.randint(10**9, (1,)))
        self.update(seed, self.slope(seed))

    def slope(self, seed: int) -> float:
        """The central difference; restores the weights up to rounding."""
        self.move(seed, 1)
        up = self.problem.value()
        self.move(seed, -2)
        down = self.problem.value()
        self.move(seed, 1)
        return (up - down) / (2 * EPS)

    def move(self, seed: int, scale: float) -> None:
        """θ ← θ + scale·ε·z."""
        torch.manual_seed(seed)
        for i, w in enumerate(self.weights):
            w.data = w.data + scale * self.z(i, w) * EPS

    def update(self, seed: int, g: float) -> None:
        """θ ← θ − η(g·z + λθ), weight decay λ on matrices."""
        torch.manual_seed(seed)
        for i, w in enumerate(self.weights):
            g_z = g * self.z(i, w)
            w.data = w.data - LR * (g_z + DECAY * w.data if w.dim() > 1 else g_z)

    def z(self, i: int, w: Tensor) -> Tensor:
        """The entries of z for weight number i, drawn in the order of the weights."""
        return torch.normal(mean=0.0, std=1.0, size=w.shape, dtype=w.dtype, device=w.device)


class LOZO(MeZO):
    """z = U Vᵀ on matrices, V kept for 50 steps. Chen et al., arXiv:2410.07698."""

    rank, interval = 2, 50

    def prepare(self) -> None:
        self.steps = 0
        self.v: dict[int, Tensor] = {}

    def step(self) -> None:
        if self.steps % self.interval == 0:
            matrices = {i: w for i, w in enumerate(self.weights) if w.dim() > 1}
            self.v = {i: _normal(w, w.shape[1], self.rank) for i, w in matrices.items()}
        self.steps += 1
        super().step()

    def z(self, i: int, w: Tensor) -> Tensor:
        return _normal(w, w.shape[0], self.rank) @ self.v[i].t() if w.dim() > 1 else super().z(i, w)


class HiZOO(MeZO):
    """Directions scaled by curvature^(−1/2); the release evaluates a fourth loss. Zhao et al., arXiv:2402.15173."""

    passes = 4
    smooth = 1e-8

    def prepare(self) -> None:
        self.curvature = [torch.ones_like(w) for w in self.weights]

    def step(self) -> None:
        seed = int(torch.randint(10**9, (1,)))
        self.base = self.problem.value()
        self.update(seed, self.slope(seed))
        self.problem.value()

    def slope(self, seed: int) -> float:
        losses: list[float] = []
        for scale in (1, -2, 1):
            self.move(seed, scale)
            if len(losses) < 2:
                losses.append(self.problem.value())
        self.bend = abs(sum(losses) - 2 * self.base)
        return (losses[0] - losses[1]) / (2 * EPS)

    def move(self, seed: int, scale: float) -> None:
        torch.manual_seed(seed)
        for i, w in enumerate(self.weights):
            w.data = w.data + scale / torch.sqrt(self.curvature[i]) * self.z(i, w) * EPS

    def update(self, seed: int, g: float) -> None:
        torch.manual_seed(seed)
        for i, w in enumerate(self.weights):
            z, h = self.z(i, w), self.curvature[i]
            seen = self.bend * (h * z * z) * self.smooth / (2 * EPS**2)
            self.curvature[i] = (1 - self.smooth) * h + seen
            w.data = w.data - LR * (g * z / torch.sqrt(self.curvature[i]) + DECAY * w.data)


class FZOO(MeZO):
    """Eight one-sided differences along random signs, sequentially. Dang et al., arXiv:2506.09034."""

    passes = 9
    queries = 8

    def step(self) -> None:
        seeds = torch.randint(10**9, (self.queries,)).tolist()
        losses = []
        for seed in seeds:
            self.move(seed, 1)
            losses.append(self.problem.value())
            self.move(seed, -1)
        base, spread = self.problem.value(), statistics.pstdev(losses) or 1.0
        for seed, loss in zip(seeds, losses, strict=True):
            self.update(seed, (loss - base) / (self.queries * spread))

    def z(self, i: int, w: Tensor) -> Tensor:
        return torch.randint(0, 2, w.shape, dtype=w.dtype, device=w.device) * 2 - 1


class ByOptimizer(MeZO):
    """A two-sided estimate given to a torch optimizer one weight at a time. Zhang et al., arXiv:2402.11592."""

    def prepare(self) -> None:
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.weights, LR)

    def update(self, seed: int, g: float) -> None:
        torch.manual_seed(seed)
        for i, w in enumerate(self.weights):
            w.grad = g * self.z(i, w)
            self.optimizer.step()
            w.grad = None


class Sign(ByOptimizer):
    """ZO-SGD-Sign: the sign of the central difference, along z."""

    def update(self, seed: int, g: float) -> None:
        super().update(seed, (g > 0) - (g < 0))


class Momentum(ByOptimizer):
    """ZO-SGD-MMT: heavy-ball momentum."""

    def prepare(self) -> None:
        self.optimizer = torch.optim.SGD(self.weights, LR, momentum=0.9)


class Adam(ByOptimizer):
    """ZO-Adam: two moments per weight."""

    def prepare(self) -> None:
        self.optimizer = torch.optim.Adam(self.weights, LR)


class Conservative(ByOptimizer):
    """ZO-SGD-Cons: the best of no step, a step and the opposite step."""

    passes = 5

    def step(self) -> None:
        seed, stay = int(torch.randint(10**9, (1,))), self.problem.value()
        g = self.slope(seed)
        self.update(seed, g)
        ahead = self.problem.value()
        self.update(seed, -2 * g)
        behind = self.problem.value()
        if ahead <= stay and ahead < behind:
            self.update(seed, 2 * g)
        elif ahead > stay and stay < behind:
            self.update(seed, g)


class Backpropagation:
    """One forward pass, one backward pass, and a torch optimizer on all weights."""

    passes: ClassVar[int] = 1
    kind: ClassVar[Callable[..., torch.optim.Optimizer]] = torch.optim.SGD
    recompute = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.weights: Sequence[Tensor] = problem.weights
        self.optimizer = self.kind(self.weights, lr=LR)

    def step(self) -> None:
        """One step."""
        needed = [w.requires_grad for w in self.weights]
        for w in self.weights:
            w.requires_grad_(True)
        with torch.enable_grad(), Checkpointed(self.problem.model) if self.recompute else nullcontext():
            self.problem.tensor().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for w, before in zip(self.weights, needed, strict=True):
            w.requires_grad_(before)


class Checkpointed:
    """A context in which a model checkpoints activations; transformers does so only in training mode."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __enter__(self) -> None:
        with quiet():
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    def __exit__(self, *_: object) -> None:
        self.model.eval()
        with quiet():
            self.model.gradient_checkpointing_disable()


class RecomputedSGD(Backpropagation):
    """SGD with gradient checkpointing."""

    recompute = True


class AdamW(Backpropagation):
    """AdamW: two moments per weight and weight decay."""

    kind = torch.optim.AdamW


class RecomputedAdamW(AdamW):
    """AdamW with gradient checkpointing."""

    recompute = True


STEPS: dict[str, Callable[[Problem], MeZO | Backpropagation]] = {
    "MeZO": MeZO,
    "LOZO": LOZO,
    "HiZOO": HiZOO,
    "FZOO": FZOO,
    "ZO-SGD-Sign": Sign,
    "ZO-SGD-MMT": Momentum,
    "ZO-Adam": Adam,
    "ZO-SGD-Cons": Conservative,
    "SGD": Backpropagation,
    "SGD, recomputed": RecomputedSGD,
    "AdamW": AdamW,
    "AdamW, recomputed": RecomputedAdamW,
}


def _normal(like: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)

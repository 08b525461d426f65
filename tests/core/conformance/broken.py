"""Plug-ins that break a promise each."""

from dataclasses import dataclass

import torch
from torch import nn

from metaphase.core.architectures.parameters import Spec
from metaphase.core.families.balls_and_urns import BallsAndUrns
from metaphase.core.kernels.operations import product
from metaphase.core.predictors import FromContext, FromTasks
from metaphase.core.tasks import Classes, Problem, Reals


@dataclass(frozen=True)
class _Family:
    def problem(self):
        return Problem(2, Classes(3))

    def sequences(self, task, sequence, T, split):
        offset = task.integers("offset", 2**30, 1)
        x = sequence.normal("x", T, 2) + offset[..., None] / 2**30
        return x, (sequence.integers("y", 3, T) + offset) % 3


class WrongShape(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x, y[..., :-1]


class OutOfRange(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x, y + 1


class OutOfRangeInTraining(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x, y + 3 * (split == "train")


class WrongVariance(_Family):
    def problem(self):
        return Problem(2, Reals(1, 1.0))

    def sequences(self, task, sequence, T, split):
        x, _ = super().sequences(task, sequence, T, split)
        return x, 7 * x[..., :1]


class OwnRandomness(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x, torch.randint_like(y, 3)


class LooksAtTheBatch(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x - x.mean(dim=(0, 1), keepdim=True), y


class FewTasks(_Family):
    def sequences(self, task, sequence, T, split):
        x = sequence.normal("x", T, 2)
        return x, (sequence.integers("y", 3, T) + task.integers("offset", 3, 1)) % 3


@dataclass
class Changeable:
    def problem(self):
        return Problem(2, Classes(3))

    def sequences(self, task, sequence, T, split):
        return FewTasks().sequences(task, sequence, T, split)


class NoTask(_Family):
    def sequences(self, task, sequence, T, split):
        return sequence.normal("x", T, 2), sequence.integers("y", 3, T)


class OneSequence(_Family):
    def sequences(self, task, sequence, T, split):
        return task.normal("x", T, 2), task.integers("y", 3, T)


class ReadsBack(_Family):
    def sequences(self, task, sequence, T, split):
        x, y = super().sequences(task, sequence, T, split)
        return x / max(1.0, x.abs().max().item() - 1e9), y


class LooksAtTheAnswer(BallsAndUrns):
    def predictors(self):
        counts = FromContext(lambda x, y: torch.nn.functional.one_hot(y, 8).cumsum(dim=1) + 1.0)
        share = FromContext(
            lambda x, y: (
                counts.predict(x, y).double()
                / counts.predict(x, y).sum(dim=-1, keepdim=True).double()
            )
        )
        return {"generalizing": share}


class Infinite(BallsAndUrns):
    def predictors(self):
        return {"generalizing": FromContext(lambda x, y: torch.full((*y.shape, 8), torch.nan))}


class NotOne(BallsAndUrns):
    def predictors(self):
        return {"no_context": FromContext(lambda x, y: torch.full((*y.shape, 8), 0.5).double())}


class Confused(BallsAndUrns):
    def predictors(self):
        own = super().predictors()
        return {"memorizing": own["generalizing"], "generalizing": own["memorizing"]}


class LacksATerm(_Family):
    """A regression whose M has w . (sum of x y) / variance, but not the -(w . x)^2 / (2 variance)
    of each example; its sums leave out the last one by subtraction, to rounding."""

    def problem(self):
        return Problem(3, Reals(1, variance=3.25))

    def parameters(self, task):
        return task.normal("w", 3)

    def sequences(self, task, sequence, T, split):
        x, w = sequence.normal("x", T, 3), self.parameters(task)[..., None, :]
        return x, (x * w).sum(-1, keepdim=True) + 0.5 * sequence.normal("noise", T, 1)

    def predictors(self):
        return {
            "memorizing": FromTasks(
                statistics=lambda x, y: (x * y).cumsum(dim=1) - x * y,
                natural=lambda w: w / 0.25,
                moments=lambda w: w,
                predict=lambda mean, x, y: (mean * x).sum(dim=-1, keepdim=True),
            ),
            "generalizing": FromContext(lambda x, y: 0 * y),
        }


@dataclass(frozen=True)
class _Layers:
    def parameters(self, cell):
        D = cell.model_size
        return {"w": Spec((D, D), D**-0.5)}

    def mixed(self, h_RxBxLxD):
        steps = torch.arange(1.0, h_RxBxLxD.shape[2] + 1, device=h_RxBxLxD.device)
        return h_RxBxLxD.cumsum(dim=2) / steps[:, None]

    def apply(self, p, h_RxBxLxD, cell, stride):
        R, B, L, D = h_RxBxLxD.shape
        mixed = self.mixed(h_RxBxLxD).reshape(R, B * L, D)
        return (h_RxBxLxD + product(mixed, p["w"]).view(R, B, L, D))[:, :, ::stride]

    def state_size(self, cell):
        return cell.model_size


class IgnoresStride(_Layers):
    def apply(self, p, h_RxBxLxD, cell, stride):
        return super().apply(p, h_RxBxLxD, cell, 1)


class LooksAhead(_Layers):
    def mixed(self, h_RxBxLxD):
        return h_RxBxLxD + h_RxBxLxD.mean(dim=2, keepdim=True)


class NoMemory(_Layers):
    def mixed(self, h_RxBxLxD):
        return h_RxBxLxD


class MixesReplicas(_Layers):
    def mixed(self, h_RxBxLxD):
        return super().mixed(h_RxBxLxD) - h_RxBxLxD.mean(dim=0, keepdim=True)


class MixesSequences(_Layers):
    def mixed(self, h_RxBxLxD):
        return super().mixed(h_RxBxLxD) * h_RxBxLxD.shape[0]


class UnusedParameter(_Layers):
    def parameters(self, cell):
        return {**super().parameters(cell), "unused": Spec((2, 2), 1.0)}


class DeadParameter(_Layers):
    def parameters(self, cell):
        return {**super().parameters(cell), "dead": Spec((1,), 1.0)}

    def apply(self, p, h_RxBxLxD, cell, stride):
        return super().apply(p, h_RxBxLxD, cell, stride) + 0 * p["dead"][:, None, None]


CALLS = [0]


class Counts(_Layers):
    def mixed(self, h_RxBxLxD):
        CALLS[0] += 1
        return super().mixed(h_RxBxLxD) * (1 + CALLS[0] / 100)


class NoState(_Layers):
    def state_size(self, cell):
        return 0


class LooksAheadModule(nn.Module):
    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.map = nn.Linear(tokens, tokens)

    def forward(self, h):
        return h + self.map(h.mT).mT


class OwnGenerator(nn.Module):
    def __init__(self, width: int, tokens: int):
        super().__init__()
        generator = torch.Generator()
        generator.seed()
        self.w = nn.Parameter(torch.randn(width, width, generator=generator) / width)

    def forward(self, h):
        return h + h.cumsum(1) @ self.w


@dataclass(frozen=True)
class WholeBatch:
    def values(self, outputs_RxBxTxN, batch, cell):
        values = outputs_RxBxTxN.mean(dim=(2, 3))
        return values - values.mean(dim=1, keepdim=True) + 1.0


@dataclass(frozen=True)
class OnePosition:
    def values(self, outputs_RxBxTxN, batch, cell):
        return outputs_RxBxTxN.amax(dim=-1)


@dataclass(frozen=True)
class InPlace:
    def values(self, outputs_RxBxTxN, batch, cell):
        return outputs_RxBxTxN.add_(1.0).mean(dim=(2, 3))

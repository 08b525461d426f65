"""A stacked model: cells whose tensors have the same shapes, trained as one, with its Adam.

Every tensor has a leading replica axis R, and nothing mixes replicas: a cell's numbers are those it
would have alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core import model
from core.config import Cell
from core.metrics import PLATEAU_MARGIN, PLATEAU_WEIGHT
from core.parameters import initialize, rates, views
from core.sampler import Batch

_ROWS = ("theta", "moment1", "moment2")  # of a state: a replica's rows of the flat buffers
_NUMBERS = ("diverged_at", "plateau_steps", "average_loss")  # of a state: one of a replica


class Stack:
    """The weights of R cells, and what training changes of them.

    Attributes:
        cells: replica r trains cells[r].
        theta_RxP, moment1_RxP, moment2_RxP, grad_RxP: weights, Adam's moments, gradients; flat
            buffers (`core.parameters`).
        parameters: leaves that share theta's memory: updating the buffer updates them.
        diverged_at_R, plateau_steps_R: int64 steps, -1 where it hasn't diverged, hasn't left the
            plateau.
        rate_P: what each column's learning rate is multiplied by; None: 1.

    Args:
        cells: equal in `core.config.stack_key`.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self.cells = tuple(cells)
        self.cell = self.cells[0]  # for the settings all of them share
        self.device = device
        seed_R = torch.tensor([cell.seed for cell in cells], device=device)
        self.learning_rate_R = torch.tensor([c.learning_rate for c in cells], device=device)
        self.epsilon_R = torch.tensor([c.adam_epsilon for c in cells], device=device)
        specs = model.parameters(self.cell)
        self.theta_RxP = initialize(specs, seed_R)
        base_width = self.cell.mup_base_width
        self.rate_P = rates(specs, base_width, device) if base_width else None
        self.moment1_RxP = torch.zeros_like(self.theta_RxP)
        self.moment2_RxP = torch.zeros_like(self.theta_RxP)
        self.grad_RxP = torch.zeros_like(self.theta_RxP)
        self.diverged_at_R = torch.full_like(seed_R, -1)
        self.plateau_steps_R = torch.full_like(seed_R, -1)
        self.average_loss_R = torch.full_like(self.learning_rate_R, math.log(self.cell.num_classes))
        self.parameters = {
            name: view.detach().requires_grad_()
            for name, view in views(self.theta_RxP, specs).items()
        }
        self._gradients = views(self.grad_RxP, specs)

    def buffers(self) -> list[Tensor]:
        """All that a training step changes and the next one needs."""
        return [
            *(self.theta_RxP, self.moment1_RxP, self.moment2_RxP, self.diverged_at_R),
            *(self.plateau_steps_R, self.average_loss_R),
        ]

    def train(self, batch: Batch, step: Tensor) -> None:
        """Training step number `step` (int64 scalar, from 0): gradient, Adam."""
        # In float64, so that how a sum is split up, which differs between packs, doesn't show.
        loss_RxBxT = cross_entropy(self.predict(batch), batch.y_RxBxT)
        loss_R = loss_RxBxT.flatten(1).mean(dim=1, dtype=torch.float64).float()
        gradients = torch.autograd.grad(loss_R.sum(), list(self.parameters.values()))
        torch._foreach_copy_(list(self._gradients.values()), list(gradients))
        self._update(loss_R.detach(), step)

    def predict(self, batch: Batch) -> Tensor:
        """logits_RxBxTxC, float32."""
        with torch.autocast(self.device.type, torch.bfloat16, self.cell.precision == "bf16"):
            logits = model.predict(self.parameters, batch.x_RxBxTxX, batch.y_RxBxT, self.cell)
        return logits.float()

    @torch.no_grad()
    def _update(self, loss_R: Tensor, step: Tensor) -> None:
        """A step of Adam (Kingma and Ba 2015, algorithm 1) with linear warm-up, each replica at its
        own learning rate, times `rate_P`. A replica whose loss isn't finite is frozen, for good."""
        cell = self.cell
        alive_R = self.diverged_at_R < 0
        self.diverged_at_R.copy_(
            torch.where(alive_R & ~torch.isfinite(loss_R), step, self.diverged_at_R)
        )
        alive_R = self.diverged_at_R < 0
        self._watch_plateau(loss_R, alive_R, step)

        self.moment1_RxP.lerp_(self.grad_RxP, 1.0 - cell.adam_beta1)
        self.moment2_RxP.mul_(cell.adam_beta2)
        self.moment2_RxP.addcmul_(self.grad_RxP, self.grad_RxP, value=1.0 - cell.adam_beta2)
        t = (step + 1).float()
        warmup = ((step + 1) / max(cell.warmup_steps, 1)).clamp(max=1.0)
        correction1, correction2 = 1.0 - cell.adam_beta1**t, 1.0 - cell.adam_beta2**t
        rate_R = self.learning_rate_R * warmup / correction1
        deviation_RxP = (self.moment2_RxP / correction2).sqrt_().add_(self.epsilon_R[:, None])
        change_RxP = (self.moment1_RxP / deviation_RxP).mul_(rate_R[:, None])
        if self.rate_P is not None:
            change_RxP.mul_(self.rate_P)
        self.theta_RxP.sub_(torch.where(alive_R[:, None], change_RxP, 0.0))

    def _watch_plateau(self, loss_R: Tensor, alive_R: Tensor, step: Tensor) -> None:
        """Notes when a replica leaves the plateau, by the rule of `core.metrics`."""
        average_R = self.average_loss_R * (1.0 - PLATEAU_WEIGHT) + loss_R * PLATEAU_WEIGHT
        self.average_loss_R.copy_(torch.where(alive_R, average_R, self.average_loss_R))
        level = (1.0 - PLATEAU_MARGIN) * math.log(self.cell.num_classes)
        leaves_R = (self.plateau_steps_R < 0) & (self.average_loss_R < level)
        self.plateau_steps_R.copy_(torch.where(leaves_R, step + 1, self.plateau_steps_R))

    def states(self) -> list[dict[str, Any]]:
        """What each replica's training continues from: tensors on the CPU, and numbers."""
        rows = {name: getattr(self, f"{name}_RxP").cpu() for name in _ROWS}
        numbers = {name: getattr(self, f"{name}_R").tolist() for name in _NUMBERS}
        return [
            {name: rows[name][r].clone() for name in _ROWS}
            | {name: numbers[name][r] for name in _NUMBERS}
            for r in range(len(self.cells))
        ]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """The inverse of `states`."""
        for name in _ROWS:
            getattr(self, f"{name}_RxP").copy_(torch.stack([state[name] for state in states]))
        for name in _NUMBERS:
            getattr(self, f"{name}_R").copy_(torch.tensor([state[name] for state in states]))


def cross_entropy(logits_RxBxTxC: Tensor, y_RxBxT: Tensor) -> Tensor:
    """Of each prediction, nats: R x B x T."""
    flat = F.cross_entropy(logits_RxBxTxC.flatten(0, 2), y_RxBxT.flatten(), reduction="none")
    return flat.view(y_RxBxT.shape)

"""A stacked model: cells whose tensors have the same shapes, trained as one.

Every tensor has a leading replica axis R, and nothing mixes replicas: a cell's numbers are those it
would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaphase.core.architectures import model
from metaphase.core.architectures.parameters import initialize, views
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.kernels.operations import row_means
from metaphase.core.tasks import targets
from metaphase.core.tasks.sequences import Batch
from metaphase.core.training.optimizer import (
    adam,
    clip,
    rate_multipliers,
    scheduled,
    warm_up,
)

# Models start at the loss of a guess, ln(num_classes) of classes, stay there for a while, and leave
# (Kirsch et al. 2022 call it a plateau). We say that one has left at the first step where a moving
# average of its training loss is below (1 - PLATEAU_MARGIN) of that. The average starts at it and a
# new step weighs PLATEAU_WEIGHT: a memory of 20 steps, in which noise averages out.
PLATEAU_MARGIN = 0.05
PLATEAU_WEIGHT = 0.05

# What a replica's state consists of: its rows of the flat buffers, and numbers.
_ROWS = ("theta", "moment1", "moment2")
_NUMBERS = ("diverged_at", "plateau_steps", "average_loss")


class Stack:
    """The weights of R cells, and what training changes of them.

    Attributes:
        cells: replica r trains cells[r].
        theta_RxP, moment1_RxP, moment2_RxP, grad_RxP: weights, Adam's moments, gradients; flat
            buffers (`core.architectures.parameters`).
        parameters: leaves that share theta's memory: updating the buffer updates them.
        diverged_at_R, plateau_steps_R: int64 steps at which a replica diverged and left the
            plateau, -1 where it hasn't.
        rate_P: what the learning rate is multiplied by in each column.

    Args:
        cells: equal in `core.cell.stack_key`.
    """

    def __init__(self, cells: Sequence[Cell], device: torch.device) -> None:
        self.cells = tuple(cells)
        self.cell = self.cells[0]  # for the settings all of them share
        self.device = device
        seed_R = torch.tensor([cell.seed for cell in cells], device=device)
        self.learning_rate_R = torch.tensor([c.learning_rate for c in cells], device=device)
        self.epsilon_R = torch.tensor([c.adam_epsilon for c in cells], device=device)
        self.rate_end_R = torch.tensor(
            [c.learning_rate_end for c in cells], dtype=torch.float64, device=device
        )
        self.decay_R = _where_any([cell.weight_decay for cell in cells], device)
        self.clip_R = _where_any([cell.gradient_clip for cell in cells], device)
        specs = model.parameters(self.cell)
        self.theta_RxP = initialize(specs, seed_R)
        self.rate_P = rate_multipliers(specs, self.cell.mup_base_width, device)
        self.moment1_RxP = torch.zeros_like(self.theta_RxP)
        self.moment2_RxP = torch.zeros_like(self.theta_RxP)
        self.grad_RxP = torch.zeros_like(self.theta_RxP)
        self.diverged_at_R = torch.full_like(seed_R, -1)
        self.plateau_steps_R = torch.full_like(seed_R, -1)
        self.average_loss_R = torch.full_like(
            self.learning_rate_R, self.cell.problem.target.guess_loss
        )
        self.parameters = {
            name: view.detach().requires_grad_()
            for name, view in views(self.theta_RxP, specs).items()
        }
        self._gradients = views(self.grad_RxP, specs)

    def buffers(self) -> list[Tensor]:
        """All tensors that a training step changes and the next one needs."""
        return [
            *(self.theta_RxP, self.moment1_RxP, self.moment2_RxP, self.diverged_at_R),
            *(self.plateau_steps_R, self.average_loss_R),
        ]

    def train(self, batch: Batch, step: Tensor) -> None:
        """One training step, number `step` (int64 scalar, from 0): the gradient, then Adam."""
        # In float64, so that how a sum is split up, which differs between packs, doesn't show.
        loss_RxBxT = targets.loss(self.cell.problem.target, self.predict(batch), batch.y_RxBxT)
        loss_R = row_means(loss_RxBxT.flatten(1)).float()
        weights = list(self.parameters.values())
        gradients = torch.autograd.grad(loss_R.sum(), weights, allow_unused=True)
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                raise ConfigError(
                    f"architecture: outputs don't depend on the parameter {name}; leave it out"
                )
        torch._foreach_copy_(list(self._gradients.values()), list(gradients))
        del gradient, gradients  # Adam's intermediates take their place
        self._update(loss_R.detach(), step)

    def predict(self, batch: Batch) -> Tensor:
        """outputs_RxBxTxN, float32: logits of classes, or estimates of real targets."""
        with torch.autocast(self.device.type, torch.bfloat16, self.cell.precision == "bf16"):
            outputs_RxBxTxN = model.predict(
                self.parameters, batch.x_RxBxTxX, batch.y_RxBxT, self.cell
            )
        return outputs_RxBxTxN.float()

    @torch.no_grad()
    def _update(self, loss_R: Tensor, step: Tensor) -> None:
        """A step of Adam, each replica at its own learning rate.

        The decay isn't multiplied by rate_P: what weights lose is the same at every width. A
        replica whose loss, weights or moments aren't finite is frozen from this step on.
        """
        cell = self.cell
        self.note_divergence(~torch.isfinite(loss_R), step)
        alive_R = self.diverged_at_R < 0
        self._watch_plateau(loss_R, alive_R, step)
        rate_R = self.learning_rate_R * warm_up(step, cell.warmup_steps)
        if cell.learning_rate_schedule != "constant":
            rate_R = (rate_R * scheduled(step, cell, self.rate_end_R)).float()
        if self.clip_R is not None:
            clip(self.grad_RxP, self.clip_R)
        finite_R = adam(
            *(self.theta_RxP, self.moment1_RxP, self.moment2_RxP, self.grad_RxP),
            step=step,
            betas=(cell.adam_beta1, cell.adam_beta2),
            rate_R=rate_R,
            rate_P=self.rate_P,
            epsilon_R=self.epsilon_R,
            alive_R=alive_R,
            decay_R=None if self.decay_R is None else rate_R * self.decay_R,
        )
        self.note_divergence(~finite_R, step)

    def note_divergence(self, sick_R: Tensor, step: Tensor | int) -> None:
        """Notes that these replicas diverged at this step, unless they had diverged before."""
        newly_R = sick_R & (self.diverged_at_R < 0)
        self.diverged_at_R.copy_(torch.where(newly_R, step, self.diverged_at_R))

    def _watch_plateau(self, loss_R: Tensor, alive_R: Tensor, step: Tensor) -> None:
        """Notes when a replica leaves the plateau, by the rule above (`PLATEAU_MARGIN`)."""
        average_R = self.average_loss_R * (1.0 - PLATEAU_WEIGHT) + loss_R * PLATEAU_WEIGHT
        self.average_loss_R.copy_(torch.where(alive_R, average_R, self.average_loss_R))
        level = (1.0 - PLATEAU_MARGIN) * self.cell.problem.target.guess_loss
        leaves_R = (self.plateau_steps_R < 0) & (self.average_loss_R < level)
        self.plateau_steps_R.copy_(torch.where(leaves_R, step + 1, self.plateau_steps_R))

    def states(self) -> list[dict[str, Any]]:
        """What the training of each replica continues from: tensors on the CPU, and numbers."""
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
            numbers = torch.tensor([state[name] for state in states], device="cpu")
            getattr(self, f"{name}_R").copy_(numbers)


def _where_any(numbers: Sequence[float], device: torch.device) -> Tensor | None:
    """Numbers of replicas; None where all are 0, so that nothing is computed with them."""
    return torch.tensor(numbers, device=device) if any(numbers) else None

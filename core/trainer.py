"""The pack trainer: meta-trains cells of equal shapes together, as one stacked model.

Every tensor has a leading replica axis R, and nothing mixes replicas: a cell's numbers are those it
would have alone. Nothing of a step happens on the host but launching it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core import model, schema
from core.architectures import ARCHITECTURES
from core.config import Cell, ConfigError, pack_key
from core.data import load_images
from core.fate import decided
from core.graph import Repeated
from core.metrics import PLATEAU_MARGIN, PLATEAU_WEIGHT, SplitMetrics, split_metrics
from core.parameters import initialize, views
from core.sampler import Batch, Draw, Sampler

# Steps whose tasks, images and labels are drawn in one go: enough to hide the launches of the
# generator's many small operations, few enough to stay in the caches.
DRAW_STEPS = 32


class PackTrainer:
    """Trains a pack to its next evaluation, again and again, until its steps are done.

    Attributes:
        cells: the cells, replica r training cells[r].
        step: steps trained so far.
        history: for each cell its rows of the history table so far (`schema.HISTORY_COLUMNS`).

    Args:
        cells: of one pack (`core.config.pack_key` equal).
        device: where everything is computed.
        data_root: folder of the data sets.
        states: what `states()` returned for each of these cells, all at the same step, in whatever
            packs they were; training continues from there. None: start afresh.

    Raises:
        ConfigError: the cells don't fit in one pack, the states don't belong to them, or a data
            set can't be had.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        device: torch.device | str = "cpu",
        data_root: str | Path = "data",
        states: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        if not cells or len({pack_key(cell) for cell in cells}) != 1:
            raise ConfigError(f"cells: {len(cells)} cells of unequal settings can't share a pack")
        self.cells = tuple(cells)
        self.cell = self.cells[0]  # for the settings all of them share
        self.device = torch.device(device)
        self.images = load_images(self.cell, data_root, self.device)
        self.sampler = Sampler(self.cells, self.images)
        self.learning_rate_R = torch.tensor([c.learning_rate for c in cells], device=self.device)
        self.epsilon_R = torch.tensor([c.adam_epsilon for c in cells], device=self.device)

        specs = model.parameters(self.cell)
        self.theta_RxP = initialize(specs, self.sampler.seed_R)
        self.moment1_RxP = torch.zeros_like(self.theta_RxP)
        self.moment2_RxP = torch.zeros_like(self.theta_RxP)
        self.grad_RxP = torch.zeros_like(self.theta_RxP)
        self.diverged_at_R = torch.full_like(self.sampler.seed_R, -1)  # -1: it hasn't
        self.plateau_steps_R = torch.full_like(self.sampler.seed_R, -1)  # -1: it is on it
        self.average_loss_R = torch.full_like(self.learning_rate_R, math.log(self.cell.num_classes))
        # Leaves that share the flat buffers' memory: updating the buffer updates them.
        self.parameters = {
            name: view.detach().requires_grad_()
            for name, view in views(self.theta_RxP, specs).items()
        }
        self.gradients = views(self.grad_RxP, specs)

        self.step = 0
        self.history: list[list[dict[str, Any]]] = [[] for _ in cells]
        self.metrics: dict[str, SplitMetrics] = {}  # of the last evaluation, by split
        self.wall_seconds = [0.0 for _ in cells]  # each cell's share of its packs' time
        if states is not None:
            self._restore(states)
        self._repeat_step = Repeated(self._train_step, self.sampler.draw_training, self._buffers())

    def _buffers(self) -> list[Tensor]:
        """All that a training step changes."""
        return [
            *(self.theta_RxP, self.moment1_RxP, self.moment2_RxP, self.diverged_at_R),
            *(self.plateau_steps_R, self.average_loss_R),
        ]

    @property
    def finished(self) -> bool:
        """Whether all that the cells need is trained and evaluated."""
        return all(self.finished_cells())

    @property
    def _in_history(self) -> bool:
        """Whether the history has an evaluation at this step."""
        return bool(self.history[0]) and self.history[0][-1]["step"] == self.step

    def finished_cells(self) -> list[bool]:
        """For each cell, whether it is: after its last step or, where it asks for that, as soon as
        its phase is settled (`core.fate`). A caller may go on with the others' `states()`."""
        evaluated = bool(self.metrics) and self._in_history
        if not evaluated or self.step == self.cell.steps:
            return [evaluated] * len(self.cells)
        return [
            cell.stop_when_decided and decided(rows, cell.num_classes)
            for cell, rows in zip(self.cells, self.history, strict=True)
        ]

    def advance(self, should_stop: Callable[[], bool] | None = None) -> bool:
        """Trains up to the next evaluation and evaluates.

        Returns:
            False if `should_stop` asked, between two steps, to stop before the evaluation.
        """
        started = time.perf_counter()
        try:
            target = min(
                (self.step // self.cell.eval_every + 1) * self.cell.eval_every, self.cell.steps
            )
            while self.step < target:
                if should_stop is not None and should_stop():
                    return False
                self.train(min(DRAW_STEPS, target - self.step))
            self._evaluate()
            return True
        finally:
            share = (time.perf_counter() - started) / len(self.cells)
            self.wall_seconds = [seconds + share for seconds in self.wall_seconds]

    def train(self, count: int) -> None:
        """Trains `count` steps, without evaluating."""
        with _products(self.cell.precision, self.device):
            for start in range(self.step, self.step + count, DRAW_STEPS):
                step_K = torch.arange(start, start + DRAW_STEPS, device=self.device)
                self._repeat_step(step_K, min(DRAW_STEPS, self.step + count - start))
        self.step += count

    def _train_step(self, draw: Draw, step_K: Tensor, k: Tensor) -> None:
        """The k-th of the steps drawn (k int64, shape (1,)): batch, gradient, Adam."""
        batch = self.sampler.training_batch(draw, k)
        # In float64, so that how a sum is split up, which differs between packs, doesn't show.
        loss_R = self._loss(batch).flatten(1).mean(dim=1, dtype=torch.float64).float()
        gradients = torch.autograd.grad(loss_R.sum(), list(self.parameters.values()))
        torch._foreach_copy_(list(self.gradients.values()), list(gradients))
        self._update(loss_R.detach(), step_K.index_select(0, k)[0])

    def _predict(self, batch: Batch) -> Tensor:
        """logits_RxBxTxC, float32."""
        with torch.autocast(self.device.type, torch.bfloat16, self.cell.precision == "bf16"):
            logits = model.predict(self.parameters, batch.x_RxBxTxX, batch.y_RxBxT, self.cell)
        return logits.float()

    def _loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of each prediction, nats: R x B x T."""
        return _cross_entropy(self._predict(batch), batch.y_RxBxT)

    @torch.no_grad()
    def _update(self, loss_R: Tensor, step: Tensor) -> None:
        """A step of Adam (Kingma and Ba 2015, algorithm 1) with linear warm-up, each replica at its
        own learning rate. A replica whose loss isn't finite is frozen, from now on."""
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
        self.theta_RxP.sub_(torch.where(alive_R[:, None], change_RxP, 0.0))

    def _watch_plateau(self, loss_R: Tensor, alive_R: Tensor, step: Tensor) -> None:
        """Notes when a replica leaves the plateau, by the rule of `core.metrics`."""
        average_R = self.average_loss_R * (1.0 - PLATEAU_WEIGHT) + loss_R * PLATEAU_WEIGHT
        self.average_loss_R.copy_(torch.where(alive_R, average_R, self.average_loss_R))
        level = (1.0 - PLATEAU_MARGIN) * math.log(self.cell.num_classes)
        leaves_R = (self.plateau_steps_R < 0) & (self.average_loss_R < level)
        self.plateau_steps_R.copy_(torch.where(leaves_R, step + 1, self.plateau_steps_R))

    @torch.no_grad()
    def _evaluate(self) -> None:
        others = tuple(f"{schema.UNSEEN}/{name}" for name in self.cell.unseen_datasets)
        diverged_R = (self.diverged_at_R >= 0).cpu()
        self.metrics = {}
        for split in (*schema.SPLITS, *others):
            with _products(self.cell.precision, self.device):
                loss_RxExT, correct_RxExT = self._evaluate_split(split)
            self.metrics[split] = split_metrics(loss_RxExT, correct_RxExT, diverged_R)
        for r, cell in enumerate(self.cells):
            self.history[r] += [
                {"cell_id": cell.cell_id, "step": self.step, "split": split, **metrics.row(r)}
                for split, metrics in self.metrics.items()
            ]

    def _evaluate_split(self, split: str) -> tuple[Tensor, Tensor]:
        """Losses (nats) and correctness of every prediction of a split's sequences."""
        count, size = self.cell.eval_sequences, self.cell.batch_size
        losses, correct = [], []
        for start in range(0, count, size):  # whole batches, so that shapes never change
            sequence_B = torch.arange(start, start + size, device=self.device)
            batch = self.sampler.evaluation_batch(split, sequence_B)
            logits_RxBxTxC = self._predict(batch)
            losses.append(_cross_entropy(logits_RxBxTxC, batch.y_RxBxT))
            correct.append(logits_RxBxTxC.argmax(dim=-1) == batch.y_RxBxT)
        return torch.cat(losses, dim=1)[:, :count], torch.cat(correct, dim=1)[:, :count]

    def states(self) -> list[dict[str, Any]]:
        """Everything a cell's training continues from, one dict a cell: tensors on the CPU, numbers
        and texts, fit for `torch.save` and `torch.load(weights_only=True)`."""
        theta, moment1, moment2 = (
            t.cpu().clone() for t in (self.theta_RxP, self.moment1_RxP, self.moment2_RxP)
        )
        diverged_at, plateau_steps = self.diverged_at_R.tolist(), self.plateau_steps_R.tolist()
        average_loss = self.average_loss_R.tolist()
        return [
            {
                "cell_id": cell.cell_id,
                "step": self.step,
                "theta": theta[r].clone(),
                "moment1": moment1[r].clone(),
                "moment2": moment2[r].clone(),
                "diverged_at": diverged_at[r],
                "plateau_steps": plateau_steps[r],
                "average_loss": average_loss[r],
                "wall_seconds": self.wall_seconds[r],
                "history": [dict(row) for row in self.history[r]],
            }
            for r, cell in enumerate(self.cells)
        ]

    def _restore(self, states: Sequence[dict[str, Any]]) -> None:
        ids, steps = [s["cell_id"] for s in states], {s["step"] for s in states}
        if ids != [cell.cell_id for cell in self.cells] or len(steps) != 1:
            raise ConfigError(f"states: of cells {ids} at steps {steps} don't fit this pack")
        for name, buffer in (
            ("theta", self.theta_RxP),
            ("moment1", self.moment1_RxP),
            ("moment2", self.moment2_RxP),
        ):
            buffer.copy_(torch.stack([state[name] for state in states]))
        for name, of_replica in (
            ("diverged_at", self.diverged_at_R),
            ("plateau_steps", self.plateau_steps_R),
            ("average_loss", self.average_loss_R),
        ):
            of_replica.copy_(torch.tensor([state[name] for state in states]))
        self.step = states[0]["step"]
        self.history = [[dict(row) for row in state["history"]] for state in states]
        self.wall_seconds = [state["wall_seconds"] for state in states]
        if self.step == self.cell.steps or (self._in_history and self.cell.stop_when_decided):
            self._evaluate_again()

    def _evaluate_again(self) -> None:
        """Metrics of a restored pack that may be finished; its history mostly has them."""
        history, self.history = self.history, [[] for _ in self.cells]
        self._evaluate()
        self.history = [
            rows if rows and rows[-1]["step"] == self.step else rows + new
            for rows, new in zip(history, self.history, strict=True)
        ]

    def results(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """For each cell, as of the last evaluation: its row of the cells table and its rows of the
        curves table (see results/README.md). Meant for those of `finished_cells`."""
        assert self.metrics, "results are asked for before an evaluation"
        diverged_at, plateau_steps = self.diverged_at_R.tolist(), self.plateau_steps_R.tolist()
        shared = {
            "steps_trained": self.step,
            "num_parameters": model.num_parameters(self.cell),
            "state_size": ARCHITECTURES[self.cell.architecture].state_size(self.cell),
            "chance": self.images.heldout.commonest_class_share(),
            "n": self.cell.eval_sequences,
            "device": device_name(self.device),
            "versions": _versions(),
        }
        results = []
        for r, cell in enumerate(self.cells):
            diverged = diverged_at[r] >= 0
            row = {
                **cell.to_dict(),
                "cell_id": cell.cell_id,
                "status": schema.DIVERGED if diverged else schema.DONE,
                "diverged_at": diverged_at[r] if diverged else None,
                "plateau_steps": plateau_steps[r] if plateau_steps[r] >= 0 else None,
                "wall_seconds": self.wall_seconds[r],
                **shared,
            }
            for split in schema.SPLITS:
                statistics = self.metrics[split].row(r)
                row |= {f"{split}_{k}": v for k, v in statistics.items() if k != "n"}
            curves = [
                {"cell_id": cell.cell_id, "split": split, **point}
                for split, metrics in self.metrics.items()
                for point in metrics.curve(r)
            ]
            results.append((row, curves))
        return results


def _cross_entropy(logits_RxBxTxC: Tensor, y_RxBxT: Tensor) -> Tensor:
    """Nats, R x B x T."""
    flat = F.cross_entropy(logits_RxBxTxC.flatten(0, 2), y_RxBxT.flatten(), reduction="none")
    return flat.view(y_RxBxT.shape)


@contextlib.contextmanager
def _products(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, float32 matrix products on CUDA are tf32 where asked for, else exact."""
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def device_name(device: torch.device) -> str:
    """As users know it: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _versions() -> str:
    try:
        own = metadata.version("phasesweep")
    except metadata.PackageNotFoundError:  # run from a checkout that isn't installed
        own = "checkout"
    return f"phasesweep {own}, torch {torch.__version__}"

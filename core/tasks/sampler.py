"""Sequences of labelled examples, each of one task: what a pack trains and is evaluated on.

Which task and which images a sequence has is a pure function of (seed, step, its number in the
batch), so cells with the same seed see the same images, and cells with the same seed and number of
tasks see the same sequences, whatever pack they are in.

The classes of a sequence's examples are drawn independently, each with its share of the images, and
every example is another image of its class. So each image is equally likely at every position, and
those of a sequence are distinct, but the labels before a position say nothing about the next one.
(Of distinct images drawn from all classes at once, the class that has been seen least is the
likeliest to come next: of 2 classes with 36 images each, that guess is right 0.55 of the time at
the 36th position.) A class that is asked for more often than it has images begins anew.

Axes beside the usual ones: J training steps that are drawn together, U distinct seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metaphase.core import label_counts, rng, schema
from metaphase.core.cell import Cell
from metaphase.core.datasets.images import CellImages, Images, load_images
from metaphase.core.tasks.projected_images import FIRST_UNSEEN, biased_permutations, permutations
from metaphase.core.tasks.projected_inputs import ProjectedInputs
from metaphase.core.tasks.sequences import Batch, Levels, seen_tasks_in_turn, words


class Draw(NamedTuple):
    """What the sequences of J training steps consist of, before any input is computed.

    Attributes:
        task_SxJxB: int64 task numbers.
        image_SxJxBxT: int64 image numbers, distinct within a sequence unless a class runs out.
        y_SxJxBxT: int64 labels rho(y).
    """

    task_SxJxB: Tensor
    image_SxJxBxT: Tensor
    y_SxJxBxT: Tensor


def open_sampler(
    cells: Sequence[Cell], data_root: str | Path, device: torch.device | str
) -> Sampler:
    """The sampler of a pack's streams; see `core.tasks.sequences.open_sequences`."""
    return Sampler(cells, load_images(cells[0], data_root, device))


class Sampler:
    """Draws the batches of a pack's streams (`core.tasks.sequences.Sequences`).

    Args:
        cells: one of each stream, equal in `core.cell.pack_key`.
        images: of their datasets, on the device that computes.
    """

    def __init__(self, cells: Sequence[Cell], images: CellImages) -> None:
        self.cell, self.images = cells[0], images
        device = images.train.x_IxX.device
        self.seed_S = torch.tensor([cell.seed for cell in cells], device=device)
        self.num_tasks_S = torch.tensor([cell.num_tasks for cell in cells], device=device)
        shares = [cell.identity_share for cell in cells]
        self.biased, self.identity_share_S = any(shares), torch.tensor(shares, device=device)
        self.identity_steps_S = torch.tensor([cell.identity_steps for cell in cells], device=device)
        # What depends on the seed alone is computed once a seed, not once a stream.
        self.seeds_U, self.row_S = self.seed_S.unique(return_inverse=True)
        self.inputs = ProjectedInputs(
            self.seed_S, self.num_tasks_S, self.cell.input_size, self.cell.precision
        )

    @cached_property
    def levels(self) -> Levels:
        """What is reached by naming the commonest label (`core.label_counts`)."""
        counts = tuple(self.images.heldout.count_C.tolist())
        return Levels(
            chance=self.images.heldout.commonest_class_share(),
            unseen=label_counts.level(counts, self.cell.sequence_length),
            guess_loss=label_counts.guess_loss(self.images.train.count_C.tolist()),
        )

    def draw_training(self, step_J: Tensor) -> Draw:
        """The sequences of the training steps `step_J` (int64, from 0)."""
        sequence_B = torch.arange(self.cell.batch_size, device=step_J.device)
        counters = (sequence_B, step_J[:, None])
        [word_UxJxB] = words(self.seeds_U[:, None, None], rng.TRAIN_TASKS, counters, 1)
        task_SxJxB = rng.integer(word_UxJxB[self.row_S], self.num_tasks_S[:, None, None])
        share_SxJ = self._identity_share(step_J)
        purposes = (rng.TRAIN_CLASSES, rng.TRAIN_IMAGES)
        return self._draw(task_SxJxB, self.images.train, purposes, counters, share_SxJ)

    def training_batch(self, draw: Draw, j: Tensor) -> Batch:
        """The sequences of the j-th step of a draw; j is int64, of shape (1,)."""
        task_SxB, image_SxBxT, y_SxBxT = (
            t.index_select(1, j)[:, 0]
            for t in (draw.task_SxJxB, draw.image_SxJxBxT, draw.y_SxJxBxT)
        )
        x_SxBxTxX = self.inputs.of_seen_tasks(self.images.train, image_SxBxT, task_SxB)
        return Batch(x_SxBxTxX, y_SxBxT)

    def evaluation_batch(self, split: str, sequence_B: Tensor) -> Batch:
        """Evaluation sequences of a split by number (int64), the same at every evaluation.

        Sequence b of the unseen splits has task 2^32 + b. Those of the seen splits go through all N
        tasks in a random order, again and again: every task has as many of the first n sequences as
        any other, or one more; n <= N sequences have distinct tasks. The tasks are those that
        training has with the share of identity permutations that it ends with: none if that is
        annealed.
        """
        seen, (_, _, other) = split in (schema.TRAIN, schema.SEEN), split.partition("/")
        if split == schema.TRAIN:
            images = self.images.train
        else:
            images = self.images.unseen[other] if other else self.images.heldout
        counters = (sequence_B, torch.full_like(sequence_B, split == schema.TRAIN)[None])
        if seen:
            task_SxB = seen_tasks_in_turn(self.seed_S, self.num_tasks_S, sequence_B, split)
            task_SxJxB = task_SxB[:, None]
            share_SxJ = self._identity_share(None)
        else:
            task_B = FIRST_UNSEEN + sequence_B
            task_SxJxB, share_SxJ = task_B.expand(len(self.seed_S), 1, -1), None
        purposes = (rng.EVAL_CLASSES, rng.EVAL_IMAGES)
        draw = self._draw(task_SxJxB, images, purposes, counters, share_SxJ)
        image_SxBxT, y_SxBxT = draw.image_SxJxBxT[:, 0], draw.y_SxJxBxT[:, 0]
        if seen:
            x_SxBxTxX = self.inputs.of_seen_tasks(images, image_SxBxT, task_SxJxB[:, 0])
        else:
            x_SxBxTxX = self.inputs.of_unseen_tasks(images, image_SxBxT, task_B)
        return Batch(x_SxBxTxX, y_SxBxT)

    def _identity_share(self, step_J: Tensor | None) -> Tensor | None:
        """Share of the tasks that keep the identity permutation: share_SxJ at these steps, or
        share_Sx1 at the end of training (None). None where no stream of the pack has any."""
        if not self.biased:
            return None
        annealed_S = self.identity_steps_S > 0
        if step_J is None:
            return torch.where(annealed_S, 0.0, self.identity_share_S)[:, None]
        done_SxJ = step_J / self.identity_steps_S.clamp(min=1)[:, None]
        left_SxJ = torch.where(annealed_S[:, None], (1.0 - done_SxJ).clamp(min=0.0), 1.0)
        return self.identity_share_S[:, None] * left_SxJ

    def _draw(
        self,
        task_SxJxB: Tensor,
        images: Images,
        purposes: tuple[int, int],
        counters: tuple[Tensor, Tensor],
        identity_share_SxJ: Tensor | None,
    ) -> Draw:
        image_SxJxBxT = self._images(images, purposes, counters)[self.row_S]
        seed_Sx1x1, classes = self.seed_S[:, None, None], self.cell.num_classes
        if identity_share_SxJ is None:
            rho_SxJxBxC = permutations(seed_Sx1x1, task_SxJxB, classes)
        else:
            share_SxJx1 = identity_share_SxJ[..., None]
            rho_SxJxBxC = biased_permutations(seed_Sx1x1, task_SxJxB, classes, share_SxJx1)
        y_SxJxBxT = rho_SxJxBxC.gather(3, images.y_I[image_SxJxBxT])
        return Draw(task_SxJxB, image_SxJxBxT, y_SxJxBxT)

    def _images(
        self, images: Images, purposes: tuple[int, int], counters: tuple[Tensor, Tensor]
    ) -> Tensor:
        """image_UxJxBxT: the image numbers of each seed's sequences."""
        length = self.cell.sequence_length
        drawn = words(self.seeds_U[:, None, None], purposes[0], counters, length)
        class_UxJxBxT = images.y_I[rng.integer(torch.stack(drawn, dim=-1), images.count)]
        count_UxJxBxT = images.count_C[class_UxJxBxT]
        first_UxJxBxT = images.first_C[class_UxJxBxT]
        number_UxJxBxT = _earlier_equals(class_UxJxBxT, self.cell.num_classes) % count_UxJxBxT
        keys = [
            word_UxJxB[..., None]
            for word_UxJxB in words(
                self.seeds_U[:, None, None], purposes[1], counters, rng.SHUFFLE_ROUNDS
            )
        ]
        return first_UxJxBxT + rng.permuted(keys, number_UxJxBxT, count_UxJxBxT, first_UxJxBxT)


def _earlier_equals(class_UxJxBxT: Tensor, num_classes: int) -> Tensor:
    """number_UxJxBxT: how many examples before each one have its class."""
    T, device = class_UxJxBxT.shape[-1], class_UxJxBxT.device
    if num_classes < T:
        is_class_UxJxBxTxC = class_UxJxBxT[..., None] == torch.arange(num_classes, device=device)
        seen_UxJxBxTxC = is_class_UxJxBxTxC.cumsum(dim=-2, dtype=torch.int32)
        return seen_UxJxBxTxC.gather(-1, class_UxJxBxT[..., None])[..., 0].long() - 1
    earlier_TxT = torch.ones(T, T, dtype=torch.bool, device=device).tril(-1)
    equal_UxJxBxTxT = class_UxJxBxT[..., :, None] == class_UxJxBxT[..., None, :]
    return (equal_UxJxBxTxT & earlier_TxT).sum(dim=-1)

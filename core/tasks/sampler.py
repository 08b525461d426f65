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

Training can be skewed, bursty and noisy, as in Chan et al. 2022 (docs/definitions.md, "Bursty and
skewed data"). Evaluations are none of these, but for tasks that are drawn as training draws them.

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
from metaphase.core.tasks.zipf import ZipfTasks


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
        self.burstiness_S = _where_any([cell.burstiness for cell in cells], device)
        self.burst_classes_S = torch.tensor([cell.burst_classes for cell in cells], device=device)
        self.label_noise_S = _where_any([cell.label_noise for cell in cells], device)
        exponents = [cell.zipf_exponent for cell in cells]
        self.zipf: ZipfTasks | None = None  # where some stream needs it
        if any(exponents):
            self.zipf = ZipfTasks(exponents, [cell.num_tasks for cell in cells], device)
        # What depends on the seed alone is computed once a seed, not once a stream.
        self.seeds_U, self.row_S = self.seed_S.unique(return_inverse=True)
        self.inputs = ProjectedInputs(
            self.seed_S,
            self.num_tasks_S,
            [(cell.zipf_exponent, cell.burstiness, cell.burst_classes) for cell in cells],
            self.cell.input_size,
            self.cell.precision,
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
        task_SxJxB = self._skewed(task_SxJxB, rng.TRAIN_ZIPF, counters)
        share_SxJ, images = self._identity_share(step_J), self.images.train
        class_UxJxBxT = self._classes(images, rng.TRAIN_CLASSES, counters)
        if self.burstiness_S is None:
            image_UxJxBxT = self._images(
                images, class_UxJxBxT, self.seeds_U, rng.TRAIN_IMAGES, counters
            )
            image_SxJxBxT = image_UxJxBxT[self.row_S]
        else:
            class_SxJxBxT = self._bursty(class_UxJxBxT[self.row_S], counters)
            image_SxJxBxT = self._images(
                images, class_SxJxBxT, self.seed_S, rng.TRAIN_IMAGES, counters
            )
        y_SxJxBxT = self._labels(task_SxJxB, images.y_I[image_SxJxBxT], share_SxJ)
        if self.label_noise_S is not None:
            y_SxJxBxT = self._noisy(y_SxJxBxT, self.label_noise_S, counters)
        return Draw(task_SxJxB, image_SxJxBxT, y_SxJxBxT)

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
        any other, or one more; n <= N sequences have distinct tasks. Where training draws its tasks
        by Zipf's law, so do all seen splits but `seen`. The tasks are those that training has with
        the share of identity permutations that it ends with: none if that is annealed.

        Splits that are relabelled show the images of `seen` (of the same tasks, unless those are
        drawn by Zipf's law) with labels of a permutation that is each sequence's own.
        """
        relabelled, (_, _, other) = split in schema.RELABELLED, split.partition("/")
        if split == schema.TRAIN:
            images = self.images.train
        else:
            images = self.images.unseen[other] if other else self.images.heldout
        counters = (sequence_B, torch.full_like(sequence_B, split == schema.TRAIN)[None])
        class_Ux1xBxT = self._classes(images, rng.EVAL_CLASSES, counters)
        image_Ux1xBxT = self._images(images, class_Ux1xBxT, self.seeds_U, rng.EVAL_IMAGES, counters)
        image_SxBxT = image_Ux1xBxT[self.row_S, 0]
        label_SxBxT = images.y_I[image_SxBxT]
        if not relabelled and split not in (schema.TRAIN, schema.SEEN):
            task_B = FIRST_UNSEEN + sequence_B
            task_SxB = task_B.expand(len(self.seed_S), -1)
            y_SxBxT = self._labels(task_SxB[:, None], label_SxBxT[:, None], None)[:, 0]
            return Batch(self.inputs.of_unseen_tasks(images, image_SxBxT, task_B), y_SxBxT)
        task_SxB = seen_tasks_in_turn(self.seed_S, self.num_tasks_S, sequence_B, split)
        if split != schema.SEEN:
            task_SxB = self._skewed(task_SxB[:, None], rng.EVAL_ZIPF, counters)[:, 0]
        share_Sx1 = self._identity_share(None)
        y_SxBxT = self._labels(task_SxB[:, None], label_SxBxT[:, None], share_Sx1)[:, 0]
        x_SxBxTxX = self.inputs.of_seen_tasks(images, image_SxBxT, task_SxB)
        if not relabelled:
            return Batch(x_SxBxTxX, y_SxBxT)
        sigma_SxBxC = permutations(
            self.seed_S[:, None], sequence_B, self.cell.num_classes, rng.RELABELLING
        )
        shown_SxBxT = sigma_SxBxC.gather(2, label_SxBxT)
        return Batch(x_SxBxTxX, shown_SxBxT, y_SxBxT if split == schema.IN_WEIGHTS else None)

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

    def _skewed(self, task_SxJxB: Tensor, purpose: int, counters: tuple[Tensor, Tensor]) -> Tensor:
        """task_SxJxB: tasks by Zipf's law in place of these, in the streams that have it."""
        if self.zipf is None:
            return task_SxJxB
        by_law_SxJxB = self.zipf.draw(self.seed_S, purpose, counters)
        return torch.where(self.zipf.exponent_S[:, None, None] > 0, by_law_SxJxB, task_SxJxB)

    def _classes(self, images: Images, purpose: int, counters: tuple[Tensor, Tensor]) -> Tensor:
        """class_UxJxBxT of each seed's sequences, drawn independently."""
        length = self.cell.sequence_length
        drawn = words(self.seeds_U[:, None, None], purpose, counters, length)
        return images.y_I[rng.integer(torch.stack(drawn, dim=-1), images.count)]

    def _bursty(self, class_SxJxBxT: Tensor, counters: tuple[Tensor, Tensor]) -> Tensor:
        """class_SxJxBxT with those of bursty sequences in place of a share of these: each example
        has one of a few classes, which are all equally likely."""
        assert self.burstiness_S is not None
        seeds_Ux1x1, classes = self.seeds_U[:, None, None], self.cell.num_classes
        length, few_Sx1x1x1 = self.cell.sequence_length, self.burst_classes_S[:, None, None, None]
        coin, *drawn = words(seeds_Ux1x1, rng.BURSTS, counters, 1 + length)
        keys = words(seeds_Ux1x1, rng.BURST_CLASSES, counters, classes)
        order_UxJxBxC = torch.stack(keys, dim=-1).argsort(dim=-1, stable=True)
        number_SxJxBxT = rng.integer(torch.stack(drawn, dim=-1)[self.row_S], few_Sx1x1x1)
        bursty_SxJxBxT = order_UxJxBxC[self.row_S].gather(3, number_SxJxBxT)
        is_bursty_SxJxB = rng.uniform(coin[self.row_S]) < self.burstiness_S[:, None, None]
        return torch.where(is_bursty_SxJxB[..., None], bursty_SxJxBxT, class_SxJxBxT)

    def _noisy(self, y_SxJxBxT: Tensor, share_S: Tensor, counters: tuple[Tensor, Tensor]) -> Tensor:
        """y_SxJxBxT with labels drawn from all classes alike in place of a share of these."""
        length = self.cell.sequence_length
        drawn = words(self.seeds_U[:, None, None], rng.LABEL_NOISE, counters, 2 * length)
        coin_UxJxBxT, label_UxJxBxT = (
            torch.stack(part, dim=-1) for part in (drawn[:length], drawn[length:])
        )
        is_noisy_SxJxBxT = rng.uniform(coin_UxJxBxT[self.row_S]) < share_S[:, None, None, None]
        label_SxJxBxT = rng.integer(label_UxJxBxT, self.cell.num_classes)[self.row_S]
        return torch.where(is_noisy_SxJxBxT, label_SxJxBxT, y_SxJxBxT)

    def _labels(
        self, task_SxJxB: Tensor, class_SxJxBxT: Tensor, identity_share_SxJ: Tensor | None
    ) -> Tensor:
        """y_SxJxBxT: labels rho(class)."""
        seed_Sx1x1, classes = self.seed_S[:, None, None], self.cell.num_classes
        if identity_share_SxJ is None:
            rho_SxJxBxC = permutations(seed_Sx1x1, task_SxJxB, classes)
        else:
            share_SxJx1 = identity_share_SxJ[..., None]
            rho_SxJxBxC = biased_permutations(seed_Sx1x1, task_SxJxB, classes, share_SxJx1)
        return rho_SxJxBxC.gather(3, class_SxJxBxT)

    def _images(
        self,
        images: Images,
        class_QxJxBxT: Tensor,
        seed_Q: Tensor,
        purpose: int,
        counters: tuple[Tensor, Tensor],
    ) -> Tensor:
        """image_QxJxBxT: numbers of images of these classes, distinct within a sequence unless a
        class runs out. Q are the sequences' seeds: U or S."""
        count_QxJxBxT = images.count_C[class_QxJxBxT]
        first_QxJxBxT = images.first_C[class_QxJxBxT]
        number_QxJxBxT = _earlier_equals(class_QxJxBxT, self.cell.num_classes) % count_QxJxBxT
        keys = [
            word_QxJxB[..., None]
            for word_QxJxB in words(seed_Q[:, None, None], purpose, counters, rng.SHUFFLE_ROUNDS)
        ]
        return first_QxJxBxT + rng.permuted(keys, number_QxJxBxT, count_QxJxBxT, first_QxJxBxT)


def _where_any(shares: Sequence[float], device: torch.device) -> Tensor | None:
    """Shares of streams; None where all are 0, so that nothing is drawn for them."""
    return torch.tensor(shares, device=device) if any(shares) else None


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

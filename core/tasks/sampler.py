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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import Cell
from metaphase.core.datasets.images import CellImages, Images
from metaphase.core.tasks.inputs import Inputs
from metaphase.core.tasks.projected_images import FIRST_UNSEEN, biased_permutations, permutations

# Steps whose tasks, images and labels are drawn in one go: enough to hide the launches of the
# generator's many small operations, few enough to stay in the caches.
DRAW_STEPS = 32


@dataclass(frozen=True)
class Batch:
    """Sequences of T labelled examples.

    Attributes:
        x_RxBxTxX: inputs A x, float32 (bf16 where a kernel makes them for bf16 products).
        y_RxBxT: int64 labels rho(y).
    """

    x_RxBxTxX: Tensor
    y_RxBxT: Tensor

    def replicas(self, row_R: Tensor | None) -> Batch:
        """The sequences of these replicas (int64); None: of all, without a copy."""
        if row_R is None:
            return self
        return Batch(self.x_RxBxTxX[row_R], self.y_RxBxT[row_R])


@dataclass(frozen=True)
class Draw:
    """What the sequences of K steps consist of, before any input is computed.

    Attributes:
        task_RxKxB: int64 task numbers.
        image_RxKxBxT: int64 image numbers, distinct within a sequence unless a class runs out.
        y_RxKxBxT: int64 labels rho(y).
    """

    task_RxKxB: Tensor
    image_RxKxBxT: Tensor
    y_RxKxBxT: Tensor


class Sampler:
    """Draws batches, a replica for each cell.

    Args:
        cells: equal in `core.cell.pack_key`.
        images: of their datasets, on the device that computes.
    """

    def __init__(self, cells: Sequence[Cell], images: CellImages) -> None:
        self.cell, self.images = cells[0], images
        device = images.train.x_NxX.device
        self.seed_R = torch.tensor([cell.seed for cell in cells], device=device)
        self.num_tasks_R = torch.tensor([cell.num_tasks for cell in cells], device=device)
        shares = [cell.identity_share for cell in cells]
        self.biased, self.identity_share_R = any(shares), torch.tensor(shares, device=device)
        self.identity_steps_R = torch.tensor([cell.identity_steps for cell in cells], device=device)
        # What depends on the seed alone is computed once a seed (axis U), not once a replica.
        self.seeds_U, self.row_R = self.seed_R.unique(return_inverse=True)
        self.inputs = Inputs(
            self.seed_R, self.num_tasks_R, self.cell.input_size, self.cell.precision
        )

    def draw_training(self, step_K: Tensor) -> Draw:
        """The sequences of the training steps `step_K` (int64, from 0)."""
        sequence_B = torch.arange(self.cell.batch_size, device=step_K.device)
        counters = (sequence_B, step_K[:, None])
        [word_UxKxB] = _words(self.seeds_U, rng.TRAIN_TASKS, counters, 1)
        task_RxKxB = rng.integer(word_UxKxB[self.row_R], self.num_tasks_R[:, None, None])
        share_RxK = self._identity_share(step_K)
        streams = (rng.TRAIN_CLASSES, rng.TRAIN_IMAGES)
        return self._draw(task_RxKxB, self.images.train, streams, counters, share_RxK)

    def training_batch(self, draw: Draw, k: Tensor) -> Batch:
        """The sequences of the k-th step of a draw; k int64, shape (1,)."""
        one = Draw(
            *(t.index_select(1, k) for t in (draw.task_RxKxB, draw.image_RxKxBxT, draw.y_RxKxBxT))
        )
        x_RxBxTxX = self.inputs.of_seen_tasks(
            self.images.train, one.image_RxKxBxT[:, 0], one.task_RxKxB[:, 0]
        )
        return Batch(x_RxBxTxX, one.y_RxKxBxT[:, 0])

    def evaluation_batch(self, split: str, sequence_B: Tensor) -> Batch:
        """Evaluation sequences of a split by number (int64); the same at every evaluation.

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
            task_RxKxB = self._seen_tasks_in_turn(sequence_B, split)
            share_RxK = self._identity_share(None)
        else:
            task_B = FIRST_UNSEEN + sequence_B
            task_RxKxB, share_RxK = task_B.expand(len(self.seed_R), 1, -1), None
        streams = (rng.EVAL_CLASSES, rng.EVAL_IMAGES)
        draw = self._draw(task_RxKxB, images, streams, counters, share_RxK)
        image_RxBxT, y_RxBxT = draw.image_RxKxBxT[:, 0], draw.y_RxKxBxT[:, 0]
        if seen:
            x_RxBxTxX = self.inputs.of_seen_tasks(images, image_RxBxT, task_RxKxB[:, 0])
        else:
            x_RxBxTxX = self.inputs.of_unseen_tasks(images, image_RxBxT, task_B)
        return Batch(x_RxBxTxX, y_RxBxT)

    def _seen_tasks_in_turn(self, sequence_B: Tensor, split: str) -> Tensor:
        """task_Rx1xB of evaluation sequences: for each split and number of tasks an order of its
        own, drawn from the seed."""
        number = torch.full_like(sequence_B[:1], split == schema.TRAIN)
        words = _words(self.seeds_U, rng.EVAL_TASKS, (number, number[:, None]), rng.SHUFFLE_ROUNDS)
        keys = [word_Ux1x1[self.row_R] for word_Ux1x1 in words]
        num_tasks_Rx1x1 = self.num_tasks_R[:, None, None]
        return rng.permuted(keys, sequence_B % num_tasks_Rx1x1, num_tasks_Rx1x1)

    def _identity_share(self, step_K: Tensor | None) -> Tensor | None:
        """Share of the tasks that keep the identity permutation, at these steps or (None) at last:
        R x K or R x 1; None where no cell of the pack has any."""
        if not self.biased:
            return None
        annealed_R = self.identity_steps_R > 0
        if step_K is None:
            return torch.where(annealed_R, 0.0, self.identity_share_R)[:, None]
        done_RxK = step_K / self.identity_steps_R.clamp(min=1)[:, None]
        left_RxK = torch.where(annealed_R[:, None], (1.0 - done_RxK).clamp(min=0.0), 1.0)
        return self.identity_share_R[:, None] * left_RxK

    def _draw(
        self,
        task_RxKxB: Tensor,
        images: Images,
        streams: tuple[int, int],
        counters: tuple[Tensor, Tensor],
        identity_share_RxK: Tensor | None,
    ) -> Draw:
        image_RxKxBxT = self._images(images, streams, counters)[self.row_R]
        seed_Rx1x1, classes = self.seed_R[:, None, None], self.cell.num_classes
        if identity_share_RxK is None:
            rho_RxKxBxC = permutations(seed_Rx1x1, task_RxKxB, classes)
        else:
            share = identity_share_RxK[..., None]
            rho_RxKxBxC = biased_permutations(seed_Rx1x1, task_RxKxB, classes, share)
        y_RxKxBxT = rho_RxKxBxC.gather(3, images.y_N[image_RxKxBxT])
        return Draw(task_RxKxB, image_RxKxBxT, y_RxKxBxT)

    def _images(
        self, images: Images, streams: tuple[int, int], counters: tuple[Tensor, Tensor]
    ) -> Tensor:
        """image_UxKxBxT of each seed."""
        length = self.cell.sequence_length
        words = _words(self.seeds_U, streams[0], counters, length)
        class_UxKxBxT = images.y_N[rng.integer(torch.stack(words, dim=-1), images.count)]
        count_UxKxBxT = images.count_C[class_UxKxBxT]
        first_UxKxBxT = images.first_C[class_UxKxBxT]
        number_UxKxBxT = _earlier_equals(class_UxKxBxT, self.cell.num_classes) % count_UxKxBxT
        keys = [
            word_UxKxB[..., None]
            for word_UxKxB in _words(self.seeds_U, streams[1], counters, rng.SHUFFLE_ROUNDS)
        ]
        return first_UxKxBxT + rng.permuted(keys, number_UxKxBxT, count_UxKxBxT, first_UxKxBxT)


def _words(
    seeds_U: Tensor, stream: int, counters: tuple[Tensor, Tensor], count: int
) -> list[Tensor]:
    """`count` random words for each sequence: U x K x B each."""
    blocks = [
        rng.philox(seeds_U[:, None, None], stream, (*counters, block))
        for block in range(-(-count // 4))
    ]
    return [word for block in blocks for word in block][:count]


def _earlier_equals(class_UxKxBxT: Tensor, num_classes: int) -> Tensor:
    """How many examples before each have its class."""
    T, device = class_UxKxBxT.shape[-1], class_UxKxBxT.device
    if num_classes < T:
        is_class = class_UxKxBxT[..., None] == torch.arange(num_classes, device=device)
        seen = is_class.cumsum(dim=-2, dtype=torch.int32)
        return seen.gather(-1, class_UxKxBxT[..., None])[..., 0].long() - 1
    earlier_TxT = torch.ones(T, T, dtype=torch.bool, device=device).tril(-1)
    equal = class_UxKxBxT[..., :, None] == class_UxKxBxT[..., None, :]
    return (equal & earlier_TxT).sum(dim=-1)

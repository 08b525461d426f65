"""What training and evaluation ask of a task family: batches of sequences of a pack's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import Cell
from metaphase.core.tasks import TASK_FAMILIES

# Training steps whose tasks, images and labels are drawn together: enough to hide the launches of
# the generator's many small operations, few enough to stay in the caches.
STEPS_PER_DRAW = 32


@dataclass(frozen=True)
class Batch:
    """Sequences of T examples, of R replicas or of the streams that replicas share.

    Attributes:
        x_RxBxTxX: inputs, float32 (bf16 where a kernel makes them for bf16 products); X may be 0.
        y_RxBxT: int64 classes; or float32 numbers y_RxBxTxN where targets are real.
        answer_RxBxT: what predictions are judged by, as y; None: by y itself, which models see.
    """

    x_RxBxTxX: Tensor
    y_RxBxT: Tensor
    answer_RxBxT: Tensor | None = None

    def replicas(self, row_R: Tensor | None) -> Batch:
        """The sequences of replicas whose streams have the numbers row_R (int64); None stands for
        each stream once, in order, and copies nothing."""
        if row_R is None:
            return self
        answer_SxBxT = self.answer_RxBxT
        answer_RxBxT = None if answer_SxBxT is None else answer_SxBxT[row_R]
        return Batch(self.x_RxBxTxX[row_R], self.y_RxBxT[row_R], answer_RxBxT)

    @property
    def judged(self) -> Batch:
        """The sequences with the answers in place of what models see."""
        return self if self.answer_RxBxT is None else Batch(self.x_RxBxTxX, self.answer_RxBxT)


class Levels(NamedTuple):
    """What is reached without learning anything of a task.

    Attributes:
        chance: accuracy of the best constant answer, where the task is known.
        unseen: accuracy on new tasks, over the last tenth of the positions, without inputs.
        guess_loss: least loss without inputs.
    """

    chance: float
    unseen: float
    guess_loss: float


class Sequences(Protocol):
    """The sequences of a pack's streams, S of them. All are pure functions of the streams'
    settings and of numbers."""

    @property
    def levels(self) -> Levels:
        """What is reached without learning."""
        ...

    def draw_training(self, step_J: Tensor) -> tuple[Tensor, ...]:
        """A NamedTuple of tensors, of shapes that never change, from which `training_batch` makes
        the sequences of the training steps `step_J` (int64, from 0)."""
        ...

    def training_batch(self, draw: tuple[Tensor, ...], j: Tensor) -> Batch:
        """The sequences of the j-th step of a draw; j is int64, of shape (1,)."""
        ...

    def evaluation_batch(self, split: str, sequence_B: Tensor) -> Batch:
        """Evaluation sequences of a split by number (int64), the same at every evaluation.

        Sequence b of the unseen splits has task 2^32 + b. Those of the seen splits go through all N
        tasks in a random order, again and again: every task has as many of the first n sequences as
        any other, or one more; n <= N sequences have distinct tasks.
        """
        ...


def open_sequences(
    cells: Sequence[Cell], data_root: str | Path, device: torch.device | str
) -> Sequences:
    """The sequences of streams, of which these are a cell each, equal in `core.cell.pack_key`.

    Raises:
        ConfigError: a data set can't be had.
    """
    return TASK_FAMILIES[cells[0].task_family].open(cells, data_root, device)


def seen_tasks_in_turn(
    seed_S: Tensor, num_tasks_S: Tensor, sequence_B: Tensor, split: str
) -> Tensor:
    """task_SxB of evaluation sequences of seen tasks: each split and number of tasks has an order
    of its own, drawn from the seed."""
    number = torch.full_like(sequence_B[:1], split == schema.TRAIN)
    seed_Sx1 = seed_S[:, None]
    keys = words(seed_Sx1, rng.EVAL_TASKS, (number, number), rng.SHUFFLE_ROUNDS)
    num_tasks_Sx1 = num_tasks_S[:, None]
    return rng.permuted(keys, sequence_B % num_tasks_Sx1, num_tasks_Sx1)


def words(seed: Tensor, purpose: int, counters: tuple[Tensor, Tensor], count: int) -> list[Tensor]:
    """`count` random words for each of the counters, of the shape that all broadcast to."""
    blocks = [rng.philox(seed, purpose, (*counters, block)) for block in range(-(-count // 4))]
    return [word for block in blocks for word in block][:count]

"""Sequences of task families that are functions of random numbers alone (`core.tasks.TaskFamily`):
those of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import MAX_TASKS, Cell, ConfigError
from metaphase.core.label_counts import last_positions
from metaphase.core.problem import Classes, Problem
from metaphase.core.settings import as_line
from metaphase.core.tasks import TaskFamily
from metaphase.core.tasks.random_numbers import Random
from metaphase.core.tasks.sequences import Batch, Levels, seen_tasks_in_turn, words
from metaphase.core.tasks.targets import score

_TASK = "task"
_TRAINING = "sequence of training"
_CHECKED_SEQUENCES = 64
# What a family's code raises where it is wrong; whatever else is raised may be the device's fault.
_OF_CODE = (
    *(LookupError, TypeError, ValueError, ArithmeticError, AttributeError, NameError),
    *(AssertionError, ImportError, NotImplementedError),
)
_LEVEL_SEQUENCES = 4096  # of new tasks, on which the level of a guess is measured


class Draw(NamedTuple):
    """What the sequences of J training steps are made from.

    Attributes:
        task_SxJxB: int64 task numbers.
        step_J: int64.
    """

    task_SxJxB: Tensor
    step_J: Tensor


class DrawnSequences:
    """The sequences of a pack's streams (`core.tasks.sequences.Sequences`).

    Splits of seen tasks differ in the sequences alone: a family has no training data of its own.

    Args:
        cells: one of each stream, equal in `core.cell.pack_key`.
        family: theirs.
        device: where they are computed.
    """

    def __init__(
        self, cells: Sequence[Cell], family: TaskFamily, device: torch.device | str
    ) -> None:
        self.cell, self.family = cells[0], family
        self.problem = family.problem()
        self.seed_S = torch.tensor([cell.seed for cell in cells], device=device)
        self.num_tasks_S = torch.tensor([cell.num_tasks for cell in cells], device=device)

    @cached_property
    def levels(self) -> Levels:
        """Those of a guess; for real targets it is 0, and its score is that on new tasks."""
        target = self.problem.target
        if isinstance(target, Classes):
            return Levels(1 / target.count, 1 / target.count, target.guess_loss)
        y_BxTxN = self._new_tasks(_LEVEL_SEQUENCES).y_RxBxT[0]
        score_BxT = score(target, torch.zeros_like(y_BxTxN), y_BxTxN)
        level = score_BxT[:, -last_positions(self.cell.sequence_length) :].double().mean().item()
        return Levels(chance=level, unseen=level, guess_loss=target.guess_loss)

    def check(self) -> None:
        """Draws the first training step's sequences and a few of each split, before anything is
        trained.

        Raises:
            ConfigError: the family fails, or they aren't what its problem says.
        """
        number_B = torch.arange(_CHECKED_SEQUENCES, device=self.seed_S.device)
        first = torch.zeros_like(number_B[:1])
        for split in (None, *schema.SPLITS):
            where = "training" if split is None else f"the split {split!r}"
            try:
                if split is None:
                    batch = self.training_batch(self.draw_training(first), first)
                else:
                    batch = self.evaluation_batch(split, number_B)
            except ConfigError:
                raise
            except _OF_CODE as error:
                said = f"task_family: sequences() of {self.cell.task_family} fails in {where}"
                raise ConfigError(f"{said}: {as_line(error)}") from error
            check_numbers(self.problem, batch, f"task_family: in {where} its")

    def _new_tasks(self, count: int) -> Batch:
        """A sequence each of new tasks of seed 0."""
        number_B = torch.arange(count, device=self.seed_S.device)
        seed_1x1 = torch.zeros_like(self.seed_S[:1, None])
        return self._sequences(seed_1x1, MAX_TASKS + number_B, number_B, schema.UNSEEN)

    def draw_training(self, step_J: Tensor) -> Draw:
        """See `core.tasks.sequences.Sequences`."""
        sequence_B = torch.arange(self.cell.batch_size, device=step_J.device)
        seed_Sx1x1 = self.seed_S[:, None, None]
        [word_SxJxB] = words(seed_Sx1x1, rng.TRAIN_TASKS, (sequence_B, step_J[:, None]), 1)
        return Draw(rng.integer(word_SxJxB, self.num_tasks_S[:, None, None]), step_J)

    def training_batch(self, draw: tuple[Tensor, ...], j: Tensor) -> Batch:
        """See `core.tasks.sequences.Sequences`."""
        task_SxJxB, step_J = draw
        task_SxB = task_SxJxB.index_select(1, j)[:, 0]
        sequence_B = torch.arange(self.cell.batch_size, device=j.device)
        step = step_J.index_select(0, j)[0]
        return self._sequences(self.seed_S[:, None], task_SxB, sequence_B, None, step)

    def evaluation_batch(self, split: str, sequence_B: Tensor) -> Batch:
        """See `core.tasks.sequences.Sequences`."""
        task_SxB = self.evaluation_tasks(split, sequence_B)
        return self._sequences(self.seed_S[:, None], task_SxB, sequence_B, split)

    def evaluation_tasks(self, split: str, sequence_B: Tensor) -> Tensor:
        """task_SxB: numbers of the tasks of evaluation sequences."""
        if split == schema.UNSEEN:
            return (MAX_TASKS + sequence_B).expand(len(self.seed_S), -1)
        return seen_tasks_in_turn(self.seed_S, self.num_tasks_S, sequence_B, split)

    def tasks(self, stream: int, task_I: Tensor) -> Random:
        """The random numbers of a stream's tasks, by their numbers (int64)."""
        return _of_tasks(self.seed_S[stream : stream + 1], task_I)

    def _sequences(
        self,
        seed_Sx1: Tensor,
        task: Tensor,
        number_B: Tensor,
        split: str | None,
        step: Tensor | None = None,
    ) -> Batch:
        """Sequences of tasks (task_SxB or, for one stream, task_B): those of a training step, or
        with these numbers of an evaluation's split."""
        count = MAX_TASKS if split == schema.UNSEEN else self.num_tasks_S[:, None]
        tasks = _of_tasks(seed_Sx1, task, count)
        kind = _TRAINING if split is None else f"sequence of {split}"
        high = torch.zeros_like(number_B[:1]) if step is None else step
        sequences = Random(kind, seed_Sx1, number_B, high)
        length = self.cell.sequence_length
        x, y = self.family.sequences(tasks, sequences, length, split or schema.TRAIN)
        return checked(self.problem, x, y, (*tasks.batch, length))


def _of_tasks(seed: Tensor, task: Tensor, count: Tensor | int = MAX_TASKS) -> Random:
    return Random(_TASK, seed, task & 0xFFFFFFFF, task >> 32, count)


def checked(problem: Problem, x: Tensor | None, y: Tensor, shape: tuple[int, ...]) -> Batch:
    """What a family drew, as a batch.

    Args:
        shape: (*batch, T).

    Raises:
        ConfigError: shapes or types aren't those of the problem.
    """
    target = problem.target
    due_x = (*shape, problem.features)
    if not isinstance(y, Tensor) or not isinstance(x, Tensor | None):
        raise ConfigError("task_family: sequences() gives no tensors; needed: inputs, targets")
    if x is None and problem.features:
        raise ConfigError(
            f"task_family: sequences() gives no inputs; its problem says {problem.features} of them"
        )
    x = y.new_zeros(due_x, dtype=torch.float32) if x is None else x
    classes = isinstance(target, Classes)
    due_y, kind = (shape, torch.int64) if classes else ((*shape, target.count), torch.float32)
    for name, t, due, dtype in (("inputs", x, due_x, torch.float32), ("targets", y, due_y, kind)):
        if tuple(t.shape) != due or t.dtype != dtype:
            raise ConfigError(
                f"task_family: its {name} are {t.dtype} {tuple(t.shape)}; its problem says "
                f"{dtype} {due}"
            )
    return Batch(x, y)


def check_numbers(problem: Problem, batch: Batch, said: str) -> None:
    """Raises ConfigError unless inputs and targets are finite, and classes those of the problem.

    Args:
        said: what the line begins with.
    """
    target, y = problem.target, batch.y_RxBxT
    for name, numbers in (("inputs", batch.x_RxBxTxX), ("targets", y)):
        if not torch.isfinite(numbers).all():
            raise ConfigError(f"{said} {name} are not all finite numbers")
    if isinstance(target, Classes) and not ((y >= 0) & (y < target.count)).all():
        raise ConfigError(
            f"{said} targets are in {y.min().item()} to {y.max().item()}; its problem says "
            f"0 to {target.count - 1}"
        )

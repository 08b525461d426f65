"""Task families: distributions of tasks, and how sequences of labelled examples are drawn from one.

What is known of a family without torch stands here, since `core.cell` checks settings by it; a
family of the user's is a class with the methods of `TaskFamily`, made known by `core.plugins`.
`projected_images` draws its sequences in `core.tasks.sampler`, all others in
`core.tasks.drawn_sequences`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from metaphase.core.settings import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from metaphase.core.cell import Cell
    from metaphase.core.settings import Setting
    from metaphase.core.tasks.random_numbers import Random
    from metaphase.core.tasks.sequences import Sequences


@dataclass(frozen=True)
class Classes:
    """Targets that are one of several classes: models give logits, the loss is cross-entropy.

    Attributes:
        count: C, the number of classes.
    """

    count: int

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a prediction."""
        return self.count

    @property
    def guess_loss(self) -> float:
        """Loss of knowing nothing, where a model's training starts: ln C nats."""
        return math.log(self.count)


@dataclass(frozen=True)
class Reals:
    """Targets that are real numbers: models give their estimates, the loss is the mean squared
    error.

    Attributes:
        count: numbers of a target.
        variance: mean square of each of these numbers over all tasks, which is the loss of
            guessing 0.
    """

    count: int = 1
    variance: float = 1.0

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a prediction."""
        return self.count

    @property
    def guess_loss(self) -> float:
        """Loss of guessing 0, where a model's training starts."""
        return self.variance


@dataclass(frozen=True)
class Problem:
    """What models are given and what they predict.

    Attributes:
        features: X, numbers of an input; 0 where there are no inputs.
        target: of each example.
    """

    features: int
    target: Classes | Reals


def check_problem(name: str, said: Any) -> None:
    """Raises ConfigError if a family's `problem` is none that models can be made for."""
    target = getattr(said, "target", None)
    features, count = getattr(said, "features", None), getattr(target, "count", None)
    least = 2 if isinstance(target, Classes) else 1
    whole = type(features) is int and features >= 0 and type(count) is int and count >= least
    sane = isinstance(said, Problem) and isinstance(target, (Classes, Reals)) and whole
    if sane and isinstance(target, Reals):
        sane = math.isfinite(target.variance) and target.variance > 0
    if not sane:
        raise ConfigError(
            f"task_family: problem() of {name} says {str(said)[:100]}; allowed: Problem(features, "
            "Classes(n)) with n of 2 or more, or Problem(features, Reals(n, variance)), variance "
            "above 0"
        )


class TaskFamily(Protocol):
    """What a family of the user's is: a frozen dataclass whose fields are settings of a cell."""

    def problem(self) -> Problem:
        """What models are given and what they predict."""
        ...

    def sequences(
        self, task: Random, sequence: Random, T: int, split: str
    ) -> tuple[Tensor | None, Tensor]:
        """Sequences of T examples, one of each task.

        Args:
            task: the random numbers of the tasks; the same for all sequences of a task.
            sequence: those of the sequences themselves.
            split: train, seen or unseen.

        Returns:
            Inputs (*batch, T, X), float32, None where there are none; and targets: int64 classes
            (*batch, T), or float32 numbers (*batch, T, count). `batch` is the shape of the tasks.
        """
        ...


@dataclass(frozen=True)
class Family:
    """Facts about a task family.

    Attributes:
        name: the value of the setting `task_family`.
        settings: of the settings that only some families know, those that this one does.
        own: the settings that it brings itself, by name.
        loaded: whether its code is known, not only these facts.
        projects: whether inputs are multiplied by a matrix of their task.
        problem: of a cell.
        open: (a cell of each stream, folder of the data sets, device) -> their sequences.
    """

    name: str
    settings: tuple[str, ...]
    problem: Callable[[Cell], Problem]
    open: Callable[[Sequence[Cell], str | Path, torch.device | str], Sequences]
    own: Mapping[str, Setting] = field(default_factory=dict)
    loaded: bool = True
    projects: bool = False


def _images_problem(cell: Cell) -> Problem:
    return Problem(cell.image_size**2 * cell.channels, Classes(cell.num_classes))


def _open_images(cells: Sequence[Cell], data_root: Any, device: Any) -> Sequences:
    module = importlib.import_module(f"{__name__}.sampler")
    sequences: Sequences = module.open_sampler(cells, data_root, device)
    return sequences


PROJECTED_IMAGES = "projected_images"
TASK_FAMILIES: dict[str, Family] = {
    PROJECTED_IMAGES: Family(
        PROJECTED_IMAGES,
        (
            *("dataset", "image_size", "grayscale", "num_classes", "unseen_datasets"),
            *("normalization", "identity_share", "identity_steps", "zipf_exponent"),
            *("burstiness", "burst_classes", "label_noise", "in_weights"),
        ),
        _images_problem,
        _open_images,
        projects=True,
    )
}

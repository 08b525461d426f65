"""Task families: distributions of tasks, and how sequences of labelled examples are drawn from one.

What is known of a family without torch stands here, since `core.cell` checks settings by it; a
family of the user's is a class with the methods of `TaskFamily`, made known by `core.plugins`.
`projected_images` draws its sequences in `core.tasks.sampler`, all others in
`core.tasks.drawn_sequences`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from metaphase.core.families import FAMILIES
from metaphase.core.problem import Classes, Problem, Reals, check_problem
from metaphase.core.settings import STREAM, ConfigError, as_line, plug_in_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from metaphase.core.cell import Cell
    from metaphase.core.settings import Setting
    from metaphase.core.tasks.random_numbers import Random
    from metaphase.core.tasks.sequences import Sequences

__all__ = [
    "PROJECTED_IMAGES",
    "TASK_FAMILIES",
    "Classes",
    "Family",
    "Problem",
    "Reals",
    "TaskFamily",
    "family_of",
]


class TaskFamily(Protocol):
    """What a family of the user's is: a frozen dataclass whose fields are settings of a cell.

    One whose best algorithms are known has `parameters` and `predictors` too (`core.predictors`).
    """

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


def family_of(name: str, cls: type, own: Mapping[str, Setting]) -> Family:
    """What is known of a class with the methods of `TaskFamily`, whose settings are `own`."""

    def instance(cell: Any) -> Any:
        return cls(**{key: getattr(cell, key) for key in own})

    def problem(cell: Any) -> Problem:
        try:
            said = instance(cell).problem()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"task_family: problem() of {name}: {as_line(error)}") from None
        check_problem(name, said)
        return cast(Problem, said)

    def open_sequences(cells: Sequence[Cell], _: Any, device: Any) -> Sequences:
        module = importlib.import_module(f"{__name__}.drawn_sequences")
        drawn = module.DrawnSequences(cells, instance(cells[0]), device)
        drawn.check()
        return cast("Sequences", drawn)

    uses = tuple(getattr(cls, "uses", ()))
    return Family(name, settings=uses, problem=problem, open=open_sequences, own=own)


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
    ),
    **{name: family_of(name, cls, plug_in_settings(cls, STREAM)) for name, cls in FAMILIES.items()},
}

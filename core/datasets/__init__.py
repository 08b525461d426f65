"""Base datasets: what is known of each without loading it, and its images as tensors.

The facts stand here, in plain Python, since `core.cell` checks settings by them. To add a dataset:
an entry in `DATASETS` and a branch in `core.datasets.images`. One of the user's is a class with the
methods of `Dataset`, made known by `core.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from metaphase.core.settings import Setting


class Dataset(Protocol):
    """What a dataset of the user's is: a frozen dataclass whose fields are settings of a cell."""

    def info(self) -> DatasetInfo:
        """What is known without loading it."""
        ...

    def load(self, train: bool, root: Path) -> tuple[Any, Any]:
        """A split: images, I x V x V or I x P x V x V for P colour planes, an array or a tensor of
        uint8 (255 is white) or of floats; and I labels, whole numbers from 0.

        Args:
            train: the training split, else the held-out one.
            root: the folder of the data sets.
        """
        ...


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a base dataset that can be known without loading it.

    Attributes:
        own: the settings that it brings itself, by name.
        load: (values of its own settings, train, folder of the data sets) -> images and labels as
            `Dataset.load` gives them, where they aren't the program's.
    """

    image_size: int  # side of its square images, pixels
    channels: int
    num_classes: int
    num_train: int  # images in its training split
    num_heldout: int  # images in its held-out split
    default_classes: int | None = None  # used unless more are asked for; None: all
    heldout_counts: tuple[int, ...] = ()  # held-out images of each class, unless all are equal
    downloaded: bool = False  # by torchvision, into the folder of the data sets
    own: Mapping[str, Setting] = field(default_factory=dict)
    load: Callable[[Mapping[str, Any], bool, Path], tuple[Any, Any]] | None = None


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        8, 1, 10, 1437, 360, heldout_counts=(36, 36, 35, 37, 36, 37, 36, 36, 35, 36)
    ),  # scikit-learn's, split 80:20
    "MNIST": DatasetInfo(
        28,
        1,
        10,
        60_000,
        10_000,
        heldout_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        downloaded=True,
    ),
    "FashionMNIST": DatasetInfo(28, 1, 10, 60_000, 10_000, downloaded=True),
    "KMNIST": DatasetInfo(28, 1, 10, 60_000, 10_000, downloaded=True),
    "CIFAR10": DatasetInfo(32, 3, 10, 50_000, 10_000, downloaded=True),
    "SVHN": DatasetInfo(
        32,
        3,
        10,
        73_257,
        26_032,
        heldout_counts=(1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
        downloaded=True,
    ),
    "random": DatasetInfo(28, 1, 10, 10_000, 10_000),  # core.datasets.random_inputs
    "glyphs": DatasetInfo(
        28, 1, 200, 40_000, 10_000, 10
    ),  # characters drawn by core.datasets.glyphs
}

"""The images of a cell's datasets, as tensors on its device: images (I x X) and labels.

Images come from `core.datasets.digits`, `core.datasets.glyphs`, `core.datasets.random_inputs` and
`core.datasets.torchvision_files`, and are prepared by `core.datasets.preprocessing`. To add a
dataset: an entry in `core.datasets.DATASETS` and a branch in `load_raw`.

Axes of this room beside the usual ones: I images, P colour planes, V x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaphase.core.cell import Cell, ConfigError
from metaphase.core.datasets import (
    DATASETS,
    classes,
    digits,
    glyphs,
    random_inputs,
    torchvision_files,
)
from metaphase.core.datasets.preprocessing import mean_and_deviation, normalized, resized


@dataclass(frozen=True)
class Images:
    """One split of a dataset, on a device, class after class.

    Attributes:
        x_IxX: float32, z-normalized by channel with the mean and deviation of training images:
            those of its own dataset, or of the base dataset (`Cell.normalization`).
        y_I: int64 in [0, num_classes), ascending.
        first_C, count_C: int64, the number of each class's first image, and of its images.
    """

    x_IxX: Tensor
    y_I: Tensor
    first_C: Tensor
    count_C: Tensor

    @property
    def count(self) -> int:
        """Images in the split."""
        return len(self.y_I)

    def commonest_class_share(self) -> float:
        """Accuracy of always guessing the commonest class: what chance is, classes unequal."""
        return self.count_C.max().item() / self.count


@dataclass(frozen=True)
class CellImages:
    """All images a cell uses: those of its base dataset, and held-out ones of the further sets."""

    train: Images
    heldout: Images
    unseen: dict[str, Images]


def load_images(cell: Cell, data_root: str | Path, device: torch.device | str) -> CellImages:
    """The images of a cell's datasets, resized, normalized, restricted to its classes.

    They are kept in memory for the next cells that use the same ones.

    Raises:
        ConfigError: a dataset isn't in `data_root` and can't be downloaded, has too few images for
            sequences of distinct ones, or nothing but blank ones.
    """
    place = torch.device(device)
    with torch.device(
        "cpu"
    ):  # where images are prepared, whatever device the caller makes tensors on
        images = _cell_images(
            (cell.dataset, *cell.unseen_datasets),
            cell.image_size,
            cell.grayscale,
            cell.num_classes,
            cell.normalization,
            str(data_root),
            place,
            cell.own,
        )
    for split in (images.train, images.heldout, *images.unseen.values()):
        if split.count < cell.sequence_length:
            raise ConfigError(
                f"sequence_length: {cell.sequence_length} is more than the {split.count} images of "
                f"a split of {cell.dataset} or {cell.unseen_datasets} in data root {data_root}"
            )
    return images


@lru_cache(maxsize=4)
def _cell_images(
    names: tuple[str, ...],
    image_size: int,
    grayscale: bool,
    num_classes: int,
    normalization: str,
    data_root: str,
    device: torch.device,
    own: tuple[tuple[str, Any], ...],
) -> CellImages:
    base, *others = names
    channels = 1 if grayscale else DATASETS[base].channels

    def prepare(name: str, train: bool) -> tuple[Tensor, Tensor]:
        info = DATASETS[name]
        if info.load is not None:
            values = {key: value for key, value in own if key in info.own}
            x_IxPxVxW, white, y_I = classes.load(name, info, values, train, data_root)
        else:
            x_IxPxVxW, white, y_I = load_raw(
                name, train, data_root, image_size, channels, num_classes
            )
        by_class_I = y_I.argsort(stable=True)
        by_class_I = by_class_I[y_I[by_class_I] < num_classes]
        return resized(x_IxPxVxW[by_class_I], white, channels, image_size), y_I[by_class_I]

    def to_images(prepared: tuple[Tensor, Tensor], statistics: list[tuple[float, float]]) -> Images:
        x_IxPxVxW, y_I = prepared
        count_C = torch.bincount(y_I, minlength=num_classes)
        first_C = count_C.cumsum(dim=0) - count_C
        tensors = (normalized(x_IxPxVxW, statistics), y_I, first_C, count_C)
        return Images(*(t.to(device) for t in tensors))

    def statistics_of(name: str, x_IxPxVxW: Tensor) -> list[tuple[float, float]]:
        statistics = mean_and_deviation(x_IxPxVxW)
        if not all(deviation for _, deviation in statistics):
            raise ConfigError(f"dataset: the training images of {name} are all the same grey")
        return statistics

    train = prepare(base, train=True)
    of_base = statistics_of(base, train[0])

    def other_images(name: str) -> Images:
        if normalization == "base":
            return to_images(prepare(name, train=False), of_base)
        own = statistics_of(name, prepare(name, train=True)[0])
        return to_images(prepare(name, train=False), own)

    return CellImages(
        train=to_images(train, of_base),
        heldout=to_images(prepare(base, train=False), of_base),
        unseen={name: other_images(name) for name in others},
    )


def load_raw(
    name: str, train: bool, data_root: str, image_size: int, channels: int, num_classes: int
) -> tuple[Tensor, int, Tensor]:
    """A split of a dataset as it comes.

    What the program draws is drawn to fit the last three arguments; what is loaded may have other
    sizes and more classes.

    Returns:
        Whole numbers x_IxPxVxW, the one among them that stands for 1, and int64 labels y_I.
    """
    if name == "digits":
        return digits.load(train)
    if name == "random":
        return random_inputs.draw(train, image_size, channels)
    if name == "glyphs":
        return glyphs.draw_split(train, num_classes)
    return torchvision_files.load(name, train, data_root)

"""Base datasets, as two tensors on the device: images (count x numbers in an image) and labels.

Real image sets come through torchvision's own loaders, which download what is missing; `digits`
ships with scikit-learn, `glyphs` and `random` are drawn. To add a dataset: an entry in
`core.config.DATASETS` and a branch in `_load_raw`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from core import glyphs, rng
from core.config import DATASETS, Cell, ConfigError


@dataclass(frozen=True)
class Images:
    """One split of a dataset, on a device.

    Attributes:
        x_NxX: float32, z-normalized with the statistics of the base dataset's training images.
        y_N: int64 in [0, num_classes).
    """

    x_NxX: Tensor
    y_N: Tensor

    @property
    def count(self) -> int:
        return len(self.y_N)

    def commonest_class_share(self) -> float:
        """Accuracy of always guessing the commonest class: what chance is, classes unequal."""
        return (torch.bincount(self.y_N).max() / self.count).item()


@dataclass(frozen=True)
class CellImages:
    """All images a cell uses: those of its base dataset, and held-out ones of the further sets."""

    train: Images
    heldout: Images
    unseen: dict[str, Images]


@lru_cache(maxsize=4)
def _cell_images(
    names: tuple[str, ...],
    image_size: int,
    grayscale: bool,
    num_classes: int,
    data_root: str,
    device: torch.device,
) -> CellImages:
    base, *others = names
    channels = 1 if grayscale else DATASETS[base].channels

    def prepare(name: str, train: bool) -> tuple[Tensor, Tensor]:
        x_NxCxHxW, y_N = _load_raw(name, train, data_root, image_size, channels, num_classes)
        kept = y_N < num_classes
        return _reshape(x_NxCxHxW[kept], channels, image_size), y_N[kept]

    x_train, y_train = prepare(base, train=True)
    mean = x_train.mean(dim=(0, 2, 3), keepdim=True)
    deviation = x_train.std(dim=(0, 2, 3), keepdim=True)

    def to_images(x: Tensor, y: Tensor) -> Images:
        normalized = ((x - mean) / deviation).flatten(1).contiguous()
        return Images(normalized.to(device), y.to(device))

    return CellImages(
        train=to_images(x_train, y_train),
        heldout=to_images(*prepare(base, train=False)),
        unseen={name: to_images(*prepare(name, train=False)) for name in others},
    )


def load_images(cell: Cell, data_root: str | Path, device: torch.device | str) -> CellImages:
    """The images of a cell's datasets, resized, normalized, restricted to its classes.

    Kept in memory for the next cells that use the same.

    Raises:
        ConfigError: a dataset isn't in `data_root` and can't be downloaded, or has too few images
            for sequences of distinct ones.
    """
    images = _cell_images(
        (cell.dataset, *cell.unseen_datasets),
        cell.image_size,
        cell.grayscale,
        cell.num_classes,
        str(data_root),
        torch.device(device),
    )
    for split in (images.train, images.heldout, *images.unseen.values()):
        if split.count < cell.sequence_length:
            raise ConfigError(
                f"sequence_length: {cell.sequence_length} is more than the {split.count} images of "
                f"a split of {cell.dataset} or {cell.unseen_datasets} in data root {data_root}"
            )
    return images


def _load_raw(
    name: str, train: bool, data_root: str, image_size: int, channels: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """float32 images in [0, 1] (count x channels x height x width) and int64 labels. What is drawn
    is drawn to fit the last three arguments; what is loaded may have other sizes and more classes.
    """
    if name == "digits":
        return _load_digits(train)
    if name == "random":
        return _draw_random(train, image_size, channels)
    if name == "glyphs":
        return _draw_glyphs(train, num_classes)
    return _load_torchvision(name, train, data_root)


def _load_digits(train: bool) -> tuple[Tensor, Tensor]:
    """scikit-learn's 8 x 8 digits, a fifth of each class held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x_NxCxHxW = torch.from_numpy(digits.images).float()[:, None] / 16.0  # grey levels 0 ... 16
    y_N = torch.from_numpy(digits.target).long()
    split = train_test_split(range(len(y_N)), test_size=0.2, stratify=y_N, random_state=0)
    chosen = torch.tensor(split[0] if train else split[1])
    return x_NxCxHxW[chosen], y_N[chosen]


def _draw_random(train: bool, image_size: int, channels: int) -> tuple[Tensor, Tensor]:
    """Gaussian inputs whose labels have nothing to do with them (the paper's Table 2, `random`), of
    the shape asked for, since resizing would correlate their numbers.

    Such labels can only be remembered, so inputs must recur for anything to be learned: a split has
    one input a class, again and again. That is assumed: the paper doesn't say how many it has, but
    its SGD is right every time after 99 examples, and of 20 inputs one in 160 would still be new.
    """
    info = DATASETS["random"]
    inputs, count = info.num_classes, info.num_train if train else info.num_heldout
    x_CxX = rng.normal_matrix(
        torch.zeros((), dtype=torch.int64),
        rng.DATASET,
        1,
        channels * image_size**2,
        low=torch.arange(inputs) + (0 if train else inputs),
        high=0,
    )
    y_N = torch.arange(count) % inputs
    return x_CxX.reshape(inputs, channels, image_size, image_size)[y_N], y_N


def _draw_glyphs(train: bool, num_classes: int) -> tuple[Tensor, Tensor]:
    """The first classes, as many images of each; held-out ones are further drawings of the same."""
    info = DATASETS["glyphs"]
    of_class, heldout = info.num_train // info.num_classes, info.num_heldout // info.num_classes
    number_M = torch.arange(of_class) if train else of_class + torch.arange(heldout)
    y_N = torch.arange(num_classes).repeat_interleave(len(number_M))
    return glyphs.draw(y_N, number_M.repeat(num_classes))[:, None], y_N


def _load_torchvision(name: str, train: bool, data_root: str) -> tuple[Tensor, Tensor]:
    """Through torchvision; downloaded once a node, while others wait at a lock in the data root."""
    from torchvision import datasets

    split = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
    loader = getattr(datasets, name)
    with _locked(Path(data_root), name):
        try:
            loaded = loader(data_root, download=False, **split)
        except RuntimeError:  # torchvision's word for "not found or corrupted"
            try:
                loaded = loader(data_root, download=True, **split)
            except Exception as error:
                cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise ConfigError(
                    f"dataset: {name} isn't in data root {data_root!r} and its download failed "
                    f"({cause})"
                ) from error
    x = torch.as_tensor(loaded.data)
    if x.dim() == 3:  # MNIST and its kin: count x height x width
        x = x[:, None]
    elif x.shape[-1] == 3:  # CIFAR10: channels last; SVHN: channels first
        x = x.permute(0, 3, 1, 2)
    labels = loaded.labels if name == "SVHN" else loaded.targets
    return x.float() / 255.0, torch.as_tensor(labels).long()


@contextlib.contextmanager
def _locked(data_root: Path, name: str) -> Iterator[None]:
    """Nobody else on this node loads this dataset meanwhile. Where nothing can be written, nothing
    is downloaded either: no lock."""
    from filelock import FileLock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            data_root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(data_root / f".{name}.lock"))
        yield


def _reshape(x_NxCxHxW: Tensor, channels: int, size: int) -> Tensor:
    """To the wanted channels (grey = mean of the channels) and side (average pooling downwards,
    bilinear upwards)."""
    if channels == 1:
        x_NxCxHxW = x_NxCxHxW.mean(dim=1, keepdim=True)
    x_NxCxHxW = x_NxCxHxW.expand(-1, channels, -1, -1)
    if size < x_NxCxHxW.shape[-1]:
        return F.adaptive_avg_pool2d(x_NxCxHxW, size)
    if size > x_NxCxHxW.shape[-1]:
        return F.interpolate(x_NxCxHxW, size=(size, size), mode="bilinear", align_corners=False)
    return x_NxCxHxW

"""Base datasets, as two tensors on the device: images (count x numbers in an image) and labels.

Real image sets come through torchvision's own loaders, which download what is missing; `digits`
ships with scikit-learn, `glyphs` and `random` are drawn. To add a dataset: an entry in
`core.config.DATASETS` and a branch in `_load_raw`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    """Through torchvision; downloaded once a node, while others wait at a lock in the data root.

    Raises:
        ConfigError: what is there is damaged, or nothing is and it can't be downloaded.
    """
    try:
        from torchvision import datasets
    except Exception as error:  # built for another torch, it fails in many ways
        raise ConfigError(f"dataset: {name} needs torchvision: {_cause(error)}") from error

    split = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
    loader = getattr(datasets, name)
    with _locked(Path(data_root), name):
        try:
            loaded = loader(data_root, download=False, **split)
        except Exception as error:  # whatever the parser of a damaged file stumbles over
            _refuse_damaged(loader, name, data_root, error)
            loaded = _download(loader, name, data_root, split)
    x = torch.as_tensor(loaded.data)
    if x.dim() == 3:  # MNIST and its kin: count x height x width
        x = x[:, None]
    elif x.shape[-1] == 3:  # CIFAR10: channels last; SVHN: channels first
        x = x.permute(0, 3, 1, 2)
    y_N = torch.as_tensor(loaded.labels if name == "SVHN" else loaded.targets).long()
    if not (len(x) == len(y_N) > 0 and y_N.min() >= 0 and y_N.max() < DATASETS[name].num_classes):
        raise ConfigError(
            f"dataset: the {'training' if train else 'held-out'} files of {name} in data root "
            f"{data_root!r} don't fit each other: {len(x)} images, {len(y_N)} labels, or labels "
            f"beyond {DATASETS[name].num_classes} classes; {_REMEDY}"
        )
    return x.float() / 255.0, y_N


_REMEDY = "remove what is damaged, and the same command downloads it, or copy it there again"


def _download(loader: Any, name: str, data_root: str, split: dict[str, Any]) -> Any:
    try:
        return loader(data_root, download=True, **split)
    except Exception as error:
        archives = [path for path, md5, _ in _files(loader, name, Path(data_root)) if md5]
        for path in filter(os.path.isfile, archives):  # none was fit to be unpacked
            raise ConfigError(
                f"dataset: {path} of {name} is damaged or not the original, and can't be "
                f"downloaded ({_cause(error)}); copy it there again"
            ) from error
        raise ConfigError(
            f"dataset: {name} isn't in data root {data_root!r} and its download failed "
            f"({_cause(error)})"
        ) from error


def _refuse_damaged(loader: Any, name: str, data_root: str, error: Exception) -> None:
    """Raises ConfigError that names the file for which loading failed, unless files are missing."""
    files = [path for path, _, unpacked in _files(loader, name, Path(data_root)) if unpacked]
    for path, md5, unpacked in _files(loader, name, Path(data_root)):
        why = _damage(path, md5) if unpacked else None
        if why:
            raise ConfigError(f"dataset: {path} of {name} {why}; {_REMEDY}") from error
    if all(map(os.path.exists, files)):
        raise ConfigError(
            f"dataset: {name} in data root {data_root!r} can't be read ({_cause(error)}); {_REMEDY}"
        ) from error


def _files(loader: Any, name: str, root: Path) -> list[tuple[Path, str | None, bool]]:
    """(path, MD5 if there is one, whether it is what is read, not an archive of it) of the files
    of torchvision's layout."""
    if name == "SVHN":
        return [(root / file, md5, True) for _, file, md5 in loader.split_list.values()]
    if name == "CIFAR10":
        listed = [
            *loader.train_list,
            *loader.test_list,
            (loader.meta["filename"], loader.meta["md5"]),
        ]
        unpacked = [(root / loader.base_folder / file, md5, True) for file, md5 in listed]
        return [*unpacked, (root / loader.filename, loader.tgz_md5, False)]
    archives = [(root / name / "raw" / url, md5, False) for url, md5 in loader.resources]
    return [*((path.with_suffix(""), None, True) for path, _, _ in archives), *archives]


def _damage(path: Path, md5: str | None) -> str | None:
    """What is wrong with a file that is there, in words; None if nothing is."""
    try:
        size = path.stat().st_size
        if not size:
            return "is empty"
        with path.open("rb") as file:
            if md5:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
                return None if digest.hexdigest() == md5 else "is cut or not the original"
            head = file.read(4 + 4 * 8)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"can't be read ({error.strerror})"
    # The IDX format: two zeros, the type (8: bytes), the number of axes, their lengths.
    axes = head[3] if len(head) > 3 else 0
    if head[:3] != b"\0\0\x08" or not 1 <= axes <= 8 or len(head) < 4 + 4 * axes:
        return "isn't in the IDX format"
    lengths = struct.unpack(f">{axes}I", head[4 : 4 + 4 * axes])
    whole = 4 + 4 * axes + math.prod(lengths)
    return None if size == whole else f"has {size} bytes instead of {whole}"


def _cause(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def _locked(data_root: Path, name: str) -> Iterator[None]:
    """Nobody else on this node loads this dataset meanwhile. Where nothing can be written, nothing
    is downloaded either: no lock."""
    from filelock import FileLock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # or a file system without locks
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

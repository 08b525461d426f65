"""Base datasets, as two tensors on the device: images (count x numbers in an image) and labels.

Real image sets come through torchvision's own loaders, which download what is missing; `digits`
ships with scikit-learn, `glyphs` and `random` are drawn. To add a dataset: an entry in
`core.cell.DATASETS` and a branch in `_load_raw`.

All sums are of whole numbers: pixels are grey levels as they come, and whole multiples of 1 / ONE
once they are resized. Such sums are exact in any order, so that an image's numbers are the same on
every machine, with every number of threads.
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
from torch import Tensor

from metaphase.core import rng
from metaphase.core.cell import DATASETS, Cell, ConfigError
from metaphase.core.datasets import glyphs

ONE = 2**16  # full ink, or the value 1 of what isn't ink, in the whole numbers that are summed
_CHUNK = 1024  # images that are resized at a time


@dataclass(frozen=True)
class Images:
    """One split of a dataset, on a device, class after class.

    Attributes:
        x_NxX: float32, z-normalized by channel with the mean and deviation of training images:
            those of its own dataset, or of the base dataset (`Cell.normalization`).
        y_N: int64 in [0, num_classes), ascending.
        first_C, count_C: int64, the number of each class's first image, and of its images.
    """

    x_NxX: Tensor
    y_N: Tensor
    first_C: Tensor
    count_C: Tensor

    @property
    def count(self) -> int:
        return len(self.y_N)

    def commonest_class_share(self) -> float:
        """Accuracy of always guessing the commonest class: what chance is, classes unequal."""
        return self.count_C.max().item() / self.count


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
    normalization: str,
    data_root: str,
    device: torch.device,
) -> CellImages:
    base, *others = names
    channels = 1 if grayscale else DATASETS[base].channels

    def prepare(name: str, train: bool) -> tuple[Tensor, Tensor]:
        x_NxCxHxW, white, y_N = _load_raw(name, train, data_root, image_size, channels, num_classes)
        by_class = y_N.argsort(stable=True)
        by_class = by_class[y_N[by_class] < num_classes]
        return resized(x_NxCxHxW[by_class], white, channels, image_size), y_N[by_class]

    def to_images(prepared: tuple[Tensor, Tensor], statistics: list[tuple[float, float]]) -> Images:
        x_NxCxHxW, y_N = prepared
        count_C = torch.bincount(y_N, minlength=num_classes)
        first_C = count_C.cumsum(dim=0) - count_C
        tensors = (normalized(x_NxCxHxW, statistics), y_N, first_C, count_C)
        return Images(*(t.to(device) for t in tensors))

    def statistics_of(name: str, x_NxCxHxW: Tensor) -> list[tuple[float, float]]:
        statistics = mean_and_deviation(x_NxCxHxW)
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


def load_images(cell: Cell, data_root: str | Path, device: torch.device | str) -> CellImages:
    """The images of a cell's datasets, resized, normalized, restricted to its classes.

    Kept in memory for the next cells that use the same.

    Raises:
        ConfigError: a dataset isn't in `data_root` and can't be downloaded, has too few images for
            sequences of distinct ones, or nothing but blank ones.
    """
    images = _cell_images(
        (cell.dataset, *cell.unseen_datasets),
        cell.image_size,
        cell.grayscale,
        cell.num_classes,
        cell.normalization,
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
) -> tuple[Tensor, int, Tensor]:
    """Images in whole numbers (count x channels x height x width), the one that means 1, and int64
    labels. What is drawn is drawn to fit the last three arguments; what is loaded may have other
    sizes and more classes.
    """
    if name == "digits":
        return _load_digits(train)
    if name == "random":
        return _draw_random(train, image_size, channels)
    if name == "glyphs":
        return _draw_glyphs(train, num_classes)
    x_NxCxHxW, y_N = _load_torchvision(name, train, data_root)
    return x_NxCxHxW, 255, y_N


@lru_cache(maxsize=2)
def _load_digits(train: bool) -> tuple[Tensor, int, Tensor]:
    """scikit-learn's 8 x 8 digits, a fifth of each class held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x_NxCxHxW = torch.from_numpy(digits.images).to(torch.uint8)[:, None]  # grey levels 0 ... 16
    y_N = torch.from_numpy(digits.target).long()
    split = train_test_split(range(len(y_N)), test_size=0.2, stratify=y_N, random_state=0)
    chosen = torch.tensor(split[0] if train else split[1])
    return x_NxCxHxW[chosen], 16, y_N[chosen]


def _draw_random(train: bool, image_size: int, channels: int) -> tuple[Tensor, int, Tensor]:
    """Gaussian inputs whose labels have nothing to do with them (the paper's Table 2, `random`), of
    the shape asked for, since resizing would correlate their numbers.

    Such labels can only be remembered, so inputs must recur for anything to be learned: a split has
    one input a class, again and again. That is assumed: the paper doesn't say how many it has, but
    its SGD is right every time after 99 examples, and of 20 inputs one in 160 would still be new.
    """
    info = DATASETS["random"]
    inputs, count = info.num_classes, info.num_train if train else info.num_heldout
    size = channels * image_size**2
    block = torch.arange(-(-size // 4))
    number_C = torch.arange(inputs) + (0 if train else inputs)
    words = rng.philox(0, rng.DATASET, (block, number_C[:, None]))
    u_CxX = rng.uniform(torch.stack(words, dim=-1).flatten(1))
    x_CxX = (rng.wide_normals(u_CxX)[:, :size] * ONE).round().to(torch.int32)
    y_N = torch.arange(count) % inputs
    return x_CxX.reshape(inputs, channels, image_size, image_size)[y_N], ONE, y_N


def _draw_glyphs(train: bool, num_classes: int) -> tuple[Tensor, int, Tensor]:
    """The first classes, as many images of each; held-out ones are further drawings of the same."""
    info = DATASETS["glyphs"]
    of_class, heldout = info.num_train // info.num_classes, info.num_heldout // info.num_classes
    number_M = torch.arange(of_class) if train else of_class + torch.arange(heldout)
    y_N = torch.arange(num_classes).repeat_interleave(len(number_M))
    return glyphs.draw(y_N, number_M.repeat(num_classes))[:, None], 255, y_N


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
    return x, y_N


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


def resized(x_NxCxHxW: Tensor, white: int, channels: int, size: int) -> Tensor:
    """Images of the wanted channels (grey = mean of the channels) and side (average pooling
    downwards, bilinear upwards), int32 multiples of 1 / ONE.

    Args:
        x_NxCxHxW: whole numbers, `white` standing for 1.
    """
    side = x_NxCxHxW.shape[-1]
    weight_SxH, whole_S = _resizing(side, size)
    result_NxCxSxS = torch.empty(len(x_NxCxHxW), channels, size, size, dtype=torch.int32)
    for x, result in zip(x_NxCxHxW.split(_CHUNK), result_NxCxSxS.split(_CHUNK), strict=True):
        # Whole numbers below 2^53 all the way, so that float64 holds every sum exactly.
        total, parts = x.double(), white
        if channels == 1:
            total, parts = total.sum(dim=1, keepdim=True), white * x.shape[1]
        if size != side:
            total = weight_SxH @ total @ weight_SxH.T
        result.copy_((total * ONE / (whole_S[:, None] * whole_S * parts)).round())
    return result_NxCxSxS


def _resizing(side: int, size: int) -> tuple[Tensor, Tensor]:
    """How `size` pixels are made of `side` ones along an axis: the whole-numbered weights of each
    (size x side, float64), and their sum.

    Downwards a pixel is the mean of all those it overlaps (torch's adaptive_avg_pool2d). Upwards
    its centre, at (i + 1/2) side / size - 1/2 and not before the first one's, lies between two
    (torch's interpolate, bilinear, corners not aligned).
    """
    weight_SxH = torch.zeros(size, side, dtype=torch.float64)
    for i in range(size):
        if size <= side:
            weight_SxH[i, i * side // size : -(-(i + 1) * side // size)] = 1.0
        else:
            first, part = divmod(max((2 * i + 1) * side - size, 0), 2 * size)
            weight_SxH[i, first] = 2 * size - part
            weight_SxH[i, min(first + 1, side - 1)] += part
    return weight_SxH, weight_SxH.sum(dim=1)


def mean_and_deviation(x_NxCxHxW: Tensor) -> list[tuple[float, float]]:
    """Of each channel's whole numbers, to the last place: sums of int64 within a chunk, of Python's
    integers beyond, and one division."""
    count = x_NxCxHxW[:, 0].numel()
    totals, squares = [0] * x_NxCxHxW.shape[1], [0] * x_NxCxHxW.shape[1]
    for x in x_NxCxHxW.split(_CHUNK):
        x_CxM = x.long().transpose(0, 1).flatten(1)
        totals = [a + b for a, b in zip(totals, x_CxM.sum(dim=1).tolist(), strict=True)]
        squares = [a + b for a, b in zip(squares, (x_CxM**2).sum(dim=1).tolist(), strict=True)]
    return [
        (total / count, math.sqrt((count * square - total**2) / (count * max(count - 1, 1))))
        for total, square in zip(totals, squares, strict=True)
    ]


def normalized(x_NxCxHxW: Tensor, statistics: list[tuple[float, float]]) -> Tensor:
    """x_NxX float32: (x - mean) / deviation, a channel with its own."""
    mean_C, deviation_C = torch.tensor(statistics, dtype=torch.float64).view(-1, 2, 1, 1).unbind(1)
    result_NxX = torch.empty(len(x_NxCxHxW), x_NxCxHxW[0].numel())
    for x, result in zip(x_NxCxHxW.split(_CHUNK), result_NxX.split(_CHUNK), strict=True):
        result.copy_(((x.double() - mean_C) / deviation_C).flatten(1))
    return result_NxX

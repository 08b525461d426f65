"""Image sets that torchvision reads from files, and downloads where they are missing.

A file that is cut, empty or another than the original is named in the error, with what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaphase.core.cell import ConfigError
from metaphase.core.datasets import DATASETS

WHITE = 255  # of the grey levels, which start at 0
_REMEDY = "remove what is damaged, and the same command downloads it, or copy it there again"


def load(name: str, train: bool, data_root: str) -> tuple[Tensor, int, Tensor]:
    """Grey levels x_IxPxVxW, the one that is white, and labels y_I of a split.

    Missing files are downloaded once a node, while others wait at a lock in the data root.

    Raises:
        ConfigError: what is there is damaged, or nothing is and it can't be downloaded.
    """
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision built for another torch fails in many ways
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
    y_I = torch.as_tensor(loaded.labels if name == "SVHN" else loaded.targets).long()
    if not (len(x) == len(y_I) > 0 and y_I.min() >= 0 and y_I.max() < DATASETS[name].num_classes):
        raise ConfigError(
            f"dataset: the {'training' if train else 'held-out'} files of {name} in data root "
            f"{data_root!r} don't fit each other: {len(x)} images, {len(y_I)} labels, or labels "
            f"beyond {DATASETS[name].num_classes} classes; {_REMEDY}"
        )
    return x, WHITE, y_I


def is_there(name: str, data_root: str) -> bool:
    """Whether the files of a dataset are in the data root, whatever is in them."""
    from torchvision import datasets

    files = _files(getattr(datasets, name), name, Path(data_root))
    return all(path.exists() for path, _, unpacked in files if unpacked)


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
    """The files of torchvision's layout: for each its path, its MD5 if there is one, and whether it
    is what is read, not an archive of that."""
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
    """What is wrong with a file that is there, in words; None if nothing is wrong."""
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
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def _locked(data_root: Path, name: str) -> Iterator[None]:
    """Keeps others on this node from loading this dataset meanwhile.

    Where nothing can be written, nothing is downloaded either, and there is no lock.
    """
    from filelock import FileLock

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # or a file system without locks
            data_root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(data_root / f".{name}.lock"))
        yield

"""Datasets of the user's: classes with the methods of `core.datasets.Dataset`, or torchvision's
constructor (`root`, `train`, `download`) and a static method `info`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaphase.core.datasets import DatasetInfo
from metaphase.core.datasets.preprocessing import ONE
from metaphase.core.settings import ConfigError, Setting, as_line

_LARGEST = 2**12  # of a float in an image


def facts_of(cls: Any, own: Mapping[str, Setting]) -> DatasetInfo:
    """What the class says of itself, at the defaults of its settings, and how it is loaded.

    Raises:
        ConfigError: it says something else than a DatasetInfo.
    """
    loads = callable(getattr(cls, "load", None))
    info = (cls() if loads else cls).info()
    if not isinstance(info, DatasetInfo):
        raise ConfigError(f"dataset: {cls.__name__}.info() is no DatasetInfo")

    def load(values: Mapping[str, Any], train: bool, root: Path) -> tuple[Any, Any]:
        if loads:
            images, labels = cls(**values).load(train, root)
            return images, labels
        items = cls(root, train=train, download=True)
        images, labels = zip(*(items[i] for i in range(len(items))), strict=True)
        return np.stack([np.asarray(image) for image in images]), np.asarray(labels)

    return dataclasses.replace(info, own=own, load=load)


def load(
    name: str, info: DatasetInfo, values: Mapping[str, Any], train: bool, root: str | Path
) -> tuple[Tensor, int, Tensor]:
    """A split as `core.datasets.images.load_raw` gives it.

    Raises:
        ConfigError: it can't be loaded, or isn't what the class says of itself.
    """
    split = "training" if train else "held-out"
    said = f"dataset: the {split} images of {name}"
    assert info.load is not None
    try:
        loaded, labels = info.load(values, train, Path(root))
        x, y_I = torch.as_tensor(np.asarray(loaded)), torch.as_tensor(np.asarray(labels))
    except ConfigError:
        raise
    except Exception as error:
        line = as_line(error)
        raise ConfigError(f"{said} can't be loaded: {line}") from None
    if x.dim() == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.movedim(-1, 1)  # colour planes last, as image files have them
    x = x[:, None] if x.dim() == 3 else x
    count, side = (info.num_train if train else info.num_heldout), info.image_size
    due = (count, info.channels, side, side)
    if tuple(x.shape) != due or tuple(y_I.shape) != (count,):
        raise ConfigError(
            f"{said} are {tuple(x.shape)} with labels {tuple(y_I.shape)}; its info says {due}"
        )
    if y_I.is_floating_point() or y_I.min() < 0 or y_I.max() >= info.num_classes:
        raise ConfigError(f"{said} have labels beyond 0 to {info.num_classes - 1}")
    if not x.is_floating_point():
        if x.dtype != torch.uint8:
            raise ConfigError(f"{said} are {x.dtype}; allowed: uint8, or floating point")
        return x, 255, y_I.long()
    if not bool((x.abs() <= _LARGEST).all()):
        raise ConfigError(f"{said} hold what isn't a number of at most {_LARGEST}")
    return (x.double() * ONE).round().to(torch.int32), ONE, y_I.long()

"""Checks of datasets."""

from __future__ import annotations

import torch

from metaphase.core.cell import ConfigError
from metaphase.core.conformance.subject import Broken, Subject, alone_equals_packed, require, same
from metaphase.core.datasets.images import CellImages, _cell_images, load_images


def images_are_what_its_info_says(subject: Subject) -> None:
    """Both splits have the images, classes and sizes that `info` says."""
    info = subject.entry
    images = _load(subject)
    for split, due in (("train", info.num_train), ("heldout", info.num_heldout)):
        found = getattr(images, split)
        require(
            len(found.count_C) == (info.default_classes or info.num_classes)
            and bool((found.count_C > 0).all())
            and (info.default_classes is not None or found.count == due),
            f"The {split} split has {found.count_C.tolist()} images of its classes; info() says "
            f"{due} images of {info.num_classes} classes.",
        )


def splits_share_no_image(subject: Subject) -> None:
    """No held-out image is a training image."""
    images = _load(subject)
    both = torch.cat([images.train.x_IxX.unique(dim=0), images.heldout.x_IxX.unique(dim=0)])
    shared = len(both) - len(both.unique(dim=0))
    require(
        shared <= len(both) // 100,
        f"{shared} held-out images are training images too: what is learned by heart would look "
        "generalized. Split before augmenting or copying.",
    )


def loading_again_is_the_same(subject: Subject) -> None:
    """A split is the same whenever it is loaded."""
    first, again = _load(subject), _load(subject)
    for split in ("train", "heldout"):
        a, b = getattr(first, split), getattr(again, split)
        require(
            same(a.x_IxX, b.x_IxX) and same(a.y_I, b.y_I),
            f"The {split} split is another one when it is loaded again: load() must not shuffle or "
            "augment at random.",
        )


def labels_have_to_do_with_images(subject: Subject) -> None:
    """Classes differ in their images."""
    images = _load(subject)
    means = torch.stack([part.mean(dim=0) for part in _classes(images)])
    apart = (means[:, None] - means).square().mean(dim=-1)
    distinct = bool((apart + torch.eye(len(means)) > 1e-12).all())
    require(distinct, "Two classes have the same mean image: are labels those of these images?")


def a_cell_trains_on_it(subject: Subject) -> None:
    """A cell trained on it alone equals the cell trained beside others."""
    alone_equals_packed(subject)


def _classes(images: CellImages) -> list[torch.Tensor]:
    return list(images.train.x_IxX.split(images.train.count_C.tolist()))


def _load(subject: Subject) -> CellImages:
    _cell_images.cache_clear()
    try:
        return load_images(subject.cell(), subject.data_root, "cpu")
    except ConfigError as error:
        raise Broken(str(error)) from None


CHECKS = (
    images_are_what_its_info_says,
    loading_again_is_the_same,
    splits_share_no_image,
    labels_have_to_do_with_images,
    a_cell_trains_on_it,
)

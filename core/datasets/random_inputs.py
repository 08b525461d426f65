"""The dataset `random`: Gaussian inputs whose labels have nothing to do with them (the paper's
Table 2).

Such labels can only be remembered, so inputs must recur for anything to be learned: a split has one
input a class, again and again. That is assumed: the paper doesn't say how many it has, but its SGD
is right every time after 99 examples, and of 20 inputs one in 160 would still be new.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metaphase.core import rng
from metaphase.core.datasets import DATASETS
from metaphase.core.datasets.preprocessing import ONE


def draw(train: bool, image_size: int, channels: int) -> tuple[Tensor, int, Tensor]:
    """x_IxPxVxW in multiples of 1 / ONE (int32), ONE, and labels y_I of a split.

    The inputs are drawn in the shape asked for, since resizing would correlate their numbers.
    """
    info = DATASETS["random"]
    inputs, count = info.num_classes, info.num_train if train else info.num_heldout
    size = channels * image_size**2
    block = torch.arange(-(-size // 4))
    number_C = torch.arange(inputs) + (0 if train else inputs)
    words = rng.philox(0, rng.DATASET, (block, number_C[:, None]))
    u_CxX = rng.uniform(torch.stack(words, dim=-1).flatten(1))
    x_CxX = (rng.wide_normals(u_CxX)[:, :size] * ONE).round().to(torch.int32)
    y_I = torch.arange(count) % inputs
    return x_CxX.reshape(inputs, channels, image_size, image_size)[y_I], ONE, y_I

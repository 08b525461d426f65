"""scikit-learn's 8 x 8 digits, which come with it and need no download."""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor

# Variables that scikit-learn sets when it is imported, for libraries that it loads then. They are
# the caller's and its processes' too.
_SET_BY_SKLEARN = {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
WHITE = 16  # of the grey levels, which start at 0


@lru_cache(maxsize=2)
def load(train: bool) -> tuple[Tensor, int, Tensor]:
    """Grey levels x_Ix1x8x8 (uint8), the one that is white, and labels y_I of a split.

    A fifth of each class is held out.
    """
    before = {*os.environ}
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    for name in _SET_BY_SKLEARN - before:
        os.environ.pop(name, None)
    digits = load_digits()
    x_IxPxVxW = torch.from_numpy(digits.images).to(torch.uint8)[:, None]
    y_I = torch.from_numpy(digits.target).long()
    split = train_test_split(range(len(y_I)), test_size=0.2, stratify=y_I, random_state=0)
    chosen = torch.tensor(split[0] if train else split[1])
    return x_IxPxVxW[chosen], WHITE, y_I[chosen]

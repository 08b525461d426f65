"""Parameters of a stack: one flat float32 buffer, a row a replica, and a view a parameter.

The flat buffer makes Adam a handful of passes and a checkpoint one tensor a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metaphase.core import rng

# Rows of the buffer and the parameters in it start at multiples of 64 bytes, so that a replica's
# arithmetic doesn't depend on which row it has.
_ALIGN = 16


@dataclass(frozen=True)
class Spec:
    """A parameter.

    Attributes:
        shape: without the replica axis.
        std: deviation of its initial values.
        fan_in: inputs of a map from something that grows with the model's width, in units of that
            width; None for what maps from anything else (inputs, labels, positions) and for biases.
    """

    shape: tuple[int, ...]
    std: float
    fan_in: int | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def buffer_size(specs: dict[str, Spec]) -> int:
    """Columns P of the flat buffer."""
    return sum(_padded(spec.size) for spec in specs.values())


def views(flat_RxP: Tensor, specs: dict[str, Spec]) -> dict[str, Tensor]:
    """Each parameter as a view of the flat buffer, shape (R, *spec.shape)."""
    result, start = {}, 0
    for name, spec in specs.items():
        part = flat_RxP[:, start : start + spec.size]
        result[name] = part.unflatten(1, spec.shape)
        start += _padded(spec.size)
    return result


def rates(specs: dict[str, Spec], base_width: int, device: torch.device) -> Tensor:
    """rate_P: by what Adam's learning rate is multiplied, of each column of the flat buffer.

    Yang et al. 2022 ("Tensor Programs V", table 3): with Adam, rates of maps from the width, hidden
    and output ones, go with 1 / fan-in, those of all others are the same at every width. Here they
    are the learning rate itself where the fan-in is `base_width`. A base width of 0: all are 1.
    """
    rate_P = torch.ones(buffer_size(specs), device=device)
    for name, view in views(rate_P[None], specs).items():
        fan_in = specs[name].fan_in
        if base_width and fan_in is not None:
            view.fill_(base_width / fan_in)
    return rate_P


def initialize(specs: dict[str, Spec], seed_R: Tensor) -> Tensor:
    """flat_RxP with entries N(0, spec.std^2), a pure function of each replica's seed; padding 0."""
    flat_RxP = torch.zeros(len(seed_R), buffer_size(specs), device=seed_R.device)
    for number, (name, view) in enumerate(views(flat_RxP, specs).items()):
        if specs[name].std:
            size, std = specs[name].size, specs[name].std
            draw = rng.normal_matrix(seed_R, rng.INIT, 1, size, low=number, scale=std)
            view.copy_(draw.view(view.shape))
    return flat_RxP

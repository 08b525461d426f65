"""Parameters of a stack: one flat float32 buffer with a row for each replica and P columns, and a
view of it for each parameter.

The flat buffer makes Adam a handful of passes and a checkpoint one tensor a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        std: standard deviation of its initial values.
        fan_in: inputs of a map from something that grows with the model's width, in units of that
            width; None for what maps from anything else (inputs, labels, positions) and for biases.
        initial: seed -> its initial values, of this shape; None: normal ones.
    """

    shape: tuple[int, ...]
    std: float
    fan_in: int | None = None
    initial: Callable[[int], Tensor] | None = None

    @property
    def size(self) -> int:
        """Scalars of one replica's parameter."""
        return math.prod(self.shape)

    @property
    def is_sound(self) -> bool:
        """Whether there can be such a parameter."""
        numbers = isinstance(self.std, (int, float)) and math.isfinite(self.std)
        shape = self.shape if isinstance(self.shape, (tuple, list)) else (0,)
        return numbers and all(isinstance(n, int) and n >= 1 for n in shape)


def _padded(size: int) -> int:
    """Columns that a parameter of this size takes."""
    return -(-size // _ALIGN) * _ALIGN


def buffer_size(specs: dict[str, Spec]) -> int:
    """Columns P of the flat buffer."""
    return sum(_padded(spec.size) for spec in specs.values())


def views(flat_RxP: Tensor, specs: dict[str, Spec]) -> dict[str, Tensor]:
    """Each parameter as a view of the flat buffer, shape (R, *spec.shape)."""
    result, start = {}, 0
    for name, spec in specs.items():
        part = flat_RxP[:, start : start + spec.size]
        result[name] = part.view(len(part), *spec.shape)
        start += _padded(spec.size)
    return result


def initialize(specs: dict[str, Spec], seed_R: Tensor) -> Tensor:
    """flat_RxP with entries N(0, spec.std^2), or as the spec says: a pure function of each
    replica's seed. Padding is 0."""
    flat_RxP = torch.zeros(len(seed_R), buffer_size(specs), device=seed_R.device)
    for number, (name, view) in enumerate(views(flat_RxP, specs).items()):
        initial = specs[name].initial
        if initial is not None:
            view.copy_(torch.stack([initial(seed) for seed in seed_R.tolist()]))
        elif specs[name].std:
            size, std = specs[name].size, specs[name].std
            draw = rng.normal_matrix(seed_R, rng.INIT, 1, size, low=number, scale=std)
            view.copy_(draw.view(view.shape))
    return flat_RxP

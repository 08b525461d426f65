"""What the plain attention block and its kernels share: its sizes, and how positions turn keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_ROTARY_BASE = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of an attention block.

    Attributes:
        tokens: L, tokens of a sequence.
        heads, key_size: H and K.
        stride: outputs are computed at the tokens 0, stride, 2 stride ... only.
        rotary: whether queries and keys are rotated by their positions.
    """

    tokens: int
    heads: int
    key_size: int
    stride: int = 1
    rotary: bool = False


@cache  # not lru_cache: a graph may read what it has let go
def rotation_table(shape: AttentionShape, device: torch.device) -> Tensor:
    """Cosine and sine of the angle by which pair j of position l is turned: L x K/2 x 2."""
    half = shape.key_size // 2
    # In float64, whose last bits, which depend on the machine, are rounded away.
    frequency = _ROTARY_BASE ** (-torch.arange(half, device=device).double() / half)
    angle = torch.arange(shape.tokens, device=device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()

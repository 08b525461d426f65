"""The two blocks of a stacked Transformer: attention and MLP, each from residual stream to residual
stream, layer norm included.

`plain_attention` and `plain_mlp` say what they compute; autograd differentiates them. On a CPU, in
float32, `attention` and `mlp` run kernels of our own (`core.kernels.cpu`): at the shapes of small
cells (sequences of 16 to 200, keys of 2 to 64) PyTorch spends its time on calls, moves and padding,
and the order of its sums depends on the pack and the CPU. On a GPU, narrow models have kernels that
keep a sequence on the chip (`core.kernels`); they are off unless METAPHASE_FUSED=1, until they have
been measured there."""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.cell import Precision
from metaphase.core.kernels import cpu
from metaphase.core.kernels.operations import add_rows, plain_layer_norm, product

_ROTARY_BASE = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2
_MOST_SEQUENCES = 2**16 - 1  # of one call: fused attention on CUDA has a grid's y axis for them


@dataclass(frozen=True)
class Attention:
    """The shapes of an attention block.

    Attributes:
        sequence: S, tokens of a sequence.
        heads, key_size: H and K.
        stride: outputs are computed at the tokens 0, stride, 2 stride ... only.
        rotary: whether queries and keys are rotated by their positions.
    """

    sequence: int
    heads: int
    key_size: int
    stride: int = 1
    rotary: bool = False

    def read(self, t_RxNxD: Tensor) -> Tensor:
        """Of R x (B S) x D tokens those that outputs are computed at."""
        if self.stride == 1:
            return t_RxNxD
        return t_RxNxD.unflatten(1, (-1, self.sequence))[:, :, :: self.stride].flatten(1, 2)

    def split(self, t_RxNxPHK: Tensor, parts: int) -> Tensor:
        """R x (B S) x (parts H K) -> parts x (R B) x H x S x K; S as many as there are."""
        R = t_RxNxPHK.shape[0]
        S = self.sequence if parts == 2 else -(-self.sequence // self.stride)
        shape = (t_RxNxPHK.shape[1] * R // S, S, parts, self.heads, self.key_size)
        return t_RxNxPHK.reshape(shape).permute(2, 0, 3, 1, 4)

    def merge(self, t_PxNxHxSxK: Tensor, R: int) -> Tensor:
        """The inverse of `split`."""
        return t_PxNxHxSxK.permute(1, 3, 0, 2, 4).reshape(
            R, -1, t_PxNxHxSxK.shape[0] * self.heads * self.key_size
        )


@cache  # not lru_cache: a graph may read what it has let go
def _mask_QxS(shape: Attention, device: torch.device) -> Tensor:
    """Added to the scores: 0 where the query at position q * stride may look, up to itself."""
    s_S = torch.arange(shape.sequence, device=device)
    return torch.where(s_S <= s_S[:: shape.stride, None], 0.0, -math.inf)


@cache  # not lru_cache: a graph may read what it has let go
def rotation_table(shape: Attention, device: torch.device) -> Tensor:
    """cos and sin of the angle by which pair j of position s is turned: S x K/2 x 2."""
    half = shape.key_size // 2
    # In float64, whose last bits, which depend on the machine, are rounded away.
    frequency = _ROTARY_BASE ** (-torch.arange(half, device=device).double() / half)
    angle = torch.arange(shape.sequence, device=device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def _rotate(t: Tensor, rotation_SxKx2: Tensor) -> Tensor:
    """Turns the pairs (2 j, 2 j + 1) of the last axis; t: (..., S, K)."""
    cos, sin = rotation_SxKx2.to(t.dtype).unbind(-1)
    a, b = t.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def plain_attention(h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: Attention) -> Tensor:
    """h at the tokens read + causal self-attention of norm(h), Vaswani et al. 2017, equation 1.

    Args:
        h: R x (B S) x D; q: R x D x (H K); kv: R x D x (2 H K), keys first; out: R x (H K) x D.
    Returns:
        R x (B ceil(S / stride)) x D.
    """
    normed = plain_layer_norm(h)
    [query] = shape.split(product(shape.read(normed), q), 1)
    key, value = shape.split(product(normed, kv), 2)
    if shape.rotary:
        rotation_SxKx2 = rotation_table(shape, h.device)
        query = _rotate(query, rotation_SxKx2[:: shape.stride])
        key = _rotate(key, rotation_SxKx2)
    mixed = _attend(query, key, value, shape)
    return shape.read(h) + product(shape.merge(mixed[None], h.shape[0]), out)


def _attend(q: Tensor, k: Tensor, v: Tensor, shape: Attention) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, causal: (R B) x H x S x K."""
    if len(q) > _MOST_SEQUENCES:
        parts = zip(*(t.split(_MOST_SEQUENCES) for t in (q, k, v)), strict=True)
        return torch.cat([_attend(q, k, v, shape) for q, k, v in parts])
    if shape.stride == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask_QxS = _mask_QxS(shape, q.device).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_QxS)


def plain_mlp(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    """h + relu(norm(h) up + bias) down.

    Args:
        h: R x N x D; up: R x D x M; bias: R x 1 x M; down: R x M x D.
    """
    return h + product(F.relu(add_rows(product(plain_layer_norm(h), up), bias)), down)


def attention(h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: Attention) -> Tensor:
    """What `plain_attention` computes."""
    kernel = _kernel("attention", h)
    if kernel is not None and kernel.supports(h, shape, _precision()):
        return kernel.fused_attention(h, q, kv, out, shape, _precision())
    if not cpu.serves(h):
        return plain_attention(h, q, kv, out, shape)
    rotation = rotation_table(shape, h.device) if shape.rotary else None
    return cpu.Attention.apply(
        h, q, kv, out, shape.sequence, shape.heads, shape.key_size, shape.stride, rotation
    )


def mlp(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    """What `plain_mlp` computes."""
    kernel = _kernel("mlp", h)
    if kernel is not None and kernel.supports(h, up, _precision()):
        return kernel.fused_mlp(h, up, bias, down, _precision())
    return cpu.MLP.apply(h, up, bias, down) if cpu.serves(h) else plain_mlp(h, up, bias, down)


def _kernel(name: str, h: Tensor) -> ModuleType | None:
    """`core.kernels.<name>` where it is switched on and can run, else None."""
    if h.device.type != "cuda" or os.environ.get("METAPHASE_FUSED") != "1":
        return None
    try:
        return importlib.import_module(f"metaphase.core.kernels.{name}")
    except ImportError:  # no Triton
        return None


def _precision() -> Precision:
    """Of matrix products on CUDA, as the trainer has set it."""
    if torch.is_autocast_enabled("cuda"):
        return "bf16"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"

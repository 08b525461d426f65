"""The two blocks of a stacked Transformer, attention and MLP, each from residual stream to residual
stream, layer norm included.

`plain_attention` and `plain_mlp` say what they compute; autograd differentiates them. On a CPU, in
float32, `attention` and `mlp` run kernels of our own (`core.kernels.cpu`): at the shapes of small
cells (sequences of 16 to 200, keys of 2 to 64) PyTorch spends its time on calls, moves and padding,
and the order of its sums depends on the pack and the CPU. On a GPU, narrow models have kernels that
keep a sequence on the chip, and wider ones a function of all blocks that moves each number once
(`core.kernels.cuda.layers`); these run where they have been found right and faster on the shapes at
hand (`core.training.proofs`).

Axes beside the usual ones: BL tokens of all sequences of a replica, M hidden units, Q tokens whose
outputs are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core import fast_paths
from metaphase.core.cell_settings import Precision
from metaphase.core.fast_paths import Twin
from metaphase.core.kernels import cpu
from metaphase.core.kernels.attention_shape import AttentionShape, rotation_table
from metaphase.core.kernels.operations import add_rows, layer_norm, plain_layer_norm, product
from metaphase.core.kernels.precision import precision_on_cuda

_COMPARED = 32  # sequences on which a kernel is compared with its twin
_NARROW = 64  # widths at which whole blocks may fit on a GPU's chip
_MOST_SEQUENCES = 2**16 - 1  # of one call: fused attention on CUDA has a grid's y axis for them


@dataclass(frozen=True)
class Block:
    """A block of the residual stream.

    Attributes:
        weights: of attention those of queries, of keys and values, and of the output; of an MLP
            those of its hidden units, their bias, and those of the output.
        shape: attention's; None: it is an MLP.
    """

    weights: tuple[Tensor, Tensor, Tensor]
    shape: AttentionShape | None = None


def layers(h_RxBLxD: Tensor, blocks: Sequence[Block]) -> Tensor:
    """What the blocks make of h, one after the other."""
    if fast_paths.may_fuse(h_RxBLxD.device) and not _all_on_chip(h_RxBLxD, blocks):
        # Those whose outputs are computed at all tokens.
        whole = list(takewhile(lambda b: b.shape is None or b.shape.stride == 1, blocks))
        fused = _fused_layers(h_RxBLxD, whole)
        if fused is not None:
            h_RxBLxD, blocks = fused, blocks[len(whole) :]
    for block in blocks:
        if block.shape is None:
            h_RxBLxD = mlp(h_RxBLxD, *block.weights)
        else:
            h_RxBLxD = attention(h_RxBLxD, *block.weights, block.shape)
    return h_RxBLxD


def plain_layers(
    h_RxBLxD: Tensor, shapes: Sequence[AttentionShape | None], *weights: Tensor
) -> Tensor:
    """What `layers` computes of blocks of these shapes, three weights each."""
    for i, shape in enumerate(shapes):
        first, second, third = weights[3 * i : 3 * i + 3]
        if shape is None:
            h_RxBLxD = plain_mlp(h_RxBLxD, first, second, third)
        else:
            h_RxBLxD = plain_attention(h_RxBLxD, first, second, third, shape)
    return h_RxBLxD


def read_out(h_RxIxD: Tensor, weight_RxDxO: Tensor) -> Tensor:
    """The product of norm(h) with a weight: R x I x O."""
    if fast_paths.may_fuse(h_RxIxD.device):
        fused = _fused_read_out(h_RxIxD, weight_RxDxO)
        if fused is not None:
            return fused
    return product(layer_norm(h_RxIxD), weight_RxDxO)


def plain_read_out(h_RxIxD: Tensor, weight_RxDxO: Tensor) -> Tensor:
    """The definition of `read_out`."""
    return product(plain_layer_norm(h_RxIxD), weight_RxDxO)


def attention(
    h_RxBLxD: Tensor,
    q_RxDxHK: Tensor,
    kv_RxDx2HK: Tensor,
    out_RxHKxD: Tensor,
    shape: AttentionShape,
) -> Tensor:
    """What `plain_attention` computes."""
    h = h_RxBLxD
    if fast_paths.may_fuse(h.device):
        fused = _fused_attention(h, q_RxDxHK, kv_RxDx2HK, out_RxHKxD, shape)
        if fused is not None:
            return fused
    if not cpu.serves(h):
        return plain_attention(h, q_RxDxHK, kv_RxDx2HK, out_RxHKxD, shape)
    rotation_LxKx2 = rotation_table(shape, h.device) if shape.rotary else None
    result_RxBQxD: Tensor = cpu.Attention.apply(
        *(h, q_RxDxHK, kv_RxDx2HK, out_RxHKxD),
        *(shape.tokens, shape.heads, shape.key_size, shape.stride, rotation_LxKx2),
    )
    return result_RxBQxD


def mlp(h_RxBLxD: Tensor, up_RxDxM: Tensor, bias_Rx1xM: Tensor, down_RxMxD: Tensor) -> Tensor:
    """What `plain_mlp` computes."""
    weights = (up_RxDxM, bias_Rx1xM, down_RxMxD)
    if fast_paths.may_fuse(h_RxBLxD.device):
        fused = _fused_mlp(h_RxBLxD, *weights)
        if fused is None:
            fused = _fused_layers(h_RxBLxD, [Block(weights)])
        if fused is not None:
            return fused
    function = cpu.MLP.apply if cpu.serves(h_RxBLxD) else plain_mlp
    result_RxBLxD: Tensor = function(h_RxBLxD, *weights)
    return result_RxBLxD


def attention_path(shape: AttentionShape, D: int, precision: str) -> str:
    """The name (`core.fast_paths`) of fused attention on a shape."""
    sizes = {"L": shape.tokens, "H": shape.heads, "K": shape.key_size, "D": D}
    how = {"stride": shape.stride, "rotary": int(shape.rotary)}
    return fast_paths.named(fast_paths.ATTENTION, precision, **sizes, **how)


def mlp_path(D: int, M: int, precision: str) -> str:
    """The name (`core.fast_paths`) of the fused MLP on a shape."""
    return fast_paths.named(fast_paths.MLP, precision, D=D, M=M)


def layers_path(shapes: Sequence[AttentionShape | None], D: int, M: int, precision: str) -> str:
    """The name (`core.fast_paths`) of fused layers: 4xAM is four times attention and an MLP, of M
    hidden units."""
    kinds = "".join("M" if shape is None else "A" for shape in shapes)
    ends = range(1, len(kinds) + 1)
    unit = next(kinds[:end] for end in ends if kinds[:end] * (len(kinds) // end) == kinds)
    sizes: dict[str, object] = {"D": D, "M": M, "blocks": f"{len(kinds) // len(unit)}x{unit}"}
    for shape in dict.fromkeys(shape for shape in shapes if shape is not None):
        sizes |= {"L": shape.tokens, "H": shape.heads, "K": shape.key_size}
        sizes["rotary"] = int(shape.rotary)
    return fast_paths.named(fast_paths.LAYERS, precision, **sizes)


def _fused_attention(
    h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: AttentionShape
) -> Tensor | None:
    """What the kernel computes of h_RxBxLxD with the weights of `plain_attention`; None where it
    doesn't run."""
    precision = precision_on_cuda()
    name = attention_path(shape, h.shape[2], precision)

    def twin(h: Tensor, q: Tensor, kv: Tensor, out: Tensor) -> Tensor:
        return plain_attention(h, q, kv, out, shape)

    def fused(h: Tensor, q: Tensor, kv: Tensor, out: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import attention as kernel

        if not kernel.supports(h, shape, precision):
            return None
        return kernel.fused_attention(h, q, kv, out, shape, precision, twin=Twin(name, twin))

    return fast_paths.attempt(name, fused, twin, (h, q, kv, out), _COMPARED * shape.tokens)


def _fused_mlp(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor | None:
    """What the kernel computes of h_RxBxLxD with the weights of `plain_mlp`; None where it doesn't
    run."""
    precision = precision_on_cuda()
    name = mlp_path(h.shape[2], up.shape[2], precision)

    def fused(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import mlp as kernel

        if not kernel.supports(h, precision):
            return None
        return kernel.fused_mlp(h, up, bias, down, precision, twin=Twin(name, plain_mlp))

    return fast_paths.attempt(name, fused, plain_mlp, (h, up, bias, down), 100 * _COMPARED)


def _all_on_chip(h: Tensor, blocks: Sequence[Block]) -> bool:
    """Whether each block has a kernel of its own, which is used and serves h_RxBxLxD."""
    precision = precision_on_cuda()
    return h.shape[2] <= _NARROW and all(_on_chip(h, block, precision) for block in blocks)


def _on_chip(h: Tensor, block: Block, precision: Precision) -> bool:
    D, shape = h.shape[2], block.shape
    if shape is None:
        name = mlp_path(D, block.weights[0].shape[2], precision)
    else:
        name = attention_path(shape, D, precision)
    if not fast_paths.is_on(name):
        return False
    try:
        from metaphase.core.kernels.cuda import attention, mlp
    except Exception as error:  # no Triton, or one that can't be imported
        fast_paths.failed(name, error)
        return False
    if shape is None:
        return mlp.supports(h, precision)
    return attention.supports(h, shape, precision)


def _fused_layers(h: Tensor, blocks: Sequence[Block]) -> Tensor | None:
    """What the blocks make of h_RxBxLxD in one function; None where it doesn't run."""
    if not blocks:
        return None
    precision = precision_on_cuda()
    shapes = [block.shape for block in blocks]
    weights = [weight for block in blocks for weight in block.weights]
    units = max((b.weights[0].shape[2] for b in blocks if b.shape is None), default=0)
    name = layers_path(shapes, h.shape[2], units, precision)

    def twin(h: Tensor, *weights: Tensor) -> Tensor:
        return plain_layers(h, shapes, *weights)

    def fused(h: Tensor, *weights: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import layers as kernel

        if not kernel.supports(h, shapes, precision):
            return None
        return kernel.fused_layers(h, shapes, weights, precision, twin=Twin(name, twin))

    rows = max((shape.tokens for shape in shapes if shape is not None), default=100) * _COMPARED
    return fast_paths.attempt(name, fused, twin, (h, *weights), rows)


def _fused_read_out(h: Tensor, weight: Tensor) -> Tensor | None:
    """What the kernels compute of h_RxBxLxD and weight_RxDxO, O outputs; None where they don't
    run."""
    precision = precision_on_cuda()
    name = fast_paths.named(fast_paths.READ_OUT, precision, D=h.shape[2], O=weight.shape[2])

    def fused(h: Tensor, weight: Tensor) -> Tensor | None:
        from metaphase.core.kernels.cuda import layers as kernel

        if not kernel.supports(h, [], precision):
            return None
        return kernel.fused_read_out(h, weight, precision, twin=Twin(name, plain_read_out))

    return fast_paths.attempt(name, fused, plain_read_out, (h, weight), 100 * _COMPARED)


def plain_attention(
    h_RxBLxD: Tensor,
    q_RxDxHK: Tensor,
    kv_RxDx2HK: Tensor,
    out_RxHKxD: Tensor,
    shape: AttentionShape,
) -> Tensor:
    """h at the tokens read + causal self-attention of norm(h), Vaswani et al. 2017, equation 1.

    Args:
        kv_RxDx2HK: keys first.

    Returns:
        R x BQ x D, Q = ceil(L / stride).
    """
    normed_RxBLxD = plain_layer_norm(h_RxBLxD)
    if shape.stride == 1 and h_RxBLxD.device.type != "cpu":  # where sums would be in another order
        qkv_RxDx3HK = torch.cat([q_RxDxHK, kv_RxDx2HK], dim=2)
        query, key, value = _heads(product(normed_RxBLxD, qkv_RxDx3HK), 3, shape)
    else:
        [query] = _heads(product(_read(normed_RxBLxD, shape), q_RxDxHK), 1, shape)
        key, value = _heads(product(normed_RxBLxD, kv_RxDx2HK), 2, shape)
    if shape.rotary:
        rotation_LxKx2 = rotation_table(shape, h_RxBLxD.device)
        query = _rotate(query, rotation_LxKx2[:: shape.stride])
        key = _rotate(key, rotation_LxKx2)
    mixed_RBxHxQxK = _attend(query, key, value, shape)
    mixed_RxBQxHK = mixed_RBxHxQxK.transpose(1, 2).reshape(
        len(h_RxBLxD), -1, shape.heads * shape.key_size
    )
    return _read(h_RxBLxD, shape) + product(mixed_RxBQxHK, out_RxHKxD)


def _read(t_RxBLxD: Tensor, shape: AttentionShape) -> Tensor:
    """Selects the tokens at which outputs are computed: R x BQ x D."""
    if shape.stride == 1:
        return t_RxBLxD
    return t_RxBLxD.unflatten(1, (-1, shape.tokens))[:, :, :: shape.stride].flatten(1, 2)


def _heads(t_RxBLxPHK: Tensor, parts: int, shape: AttentionShape) -> list[Tensor]:
    """Splits P = `parts` matrices of all heads' columns: P times RB x H x L x K.

    Queries alone are one part, of Q tokens a sequence; keys and values are two, of L tokens, and
    with queries of all tokens three. They are views, and their gradients are written side by side
    in one copy.
    """
    tokens = shape.tokens if parts > 1 else -(-shape.tokens // shape.stride)
    sizes = (-1, tokens, shape.heads, shape.key_size)
    split = t_RxBLxPHK.split(shape.heads * shape.key_size, dim=-1)
    return [part.reshape(sizes).transpose(1, 2) for part in split]


def _attend(
    q_RBxHxQxK: Tensor, k_RBxHxLxK: Tensor, v_RBxHxLxK: Tensor, shape: AttentionShape
) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, causal: RB x H x Q x K."""
    tensors = (q_RBxHxQxK, k_RBxHxLxK, v_RBxHxLxK)
    if len(q_RBxHxQxK) > _MOST_SEQUENCES:
        parts = zip(*(t.split(_MOST_SEQUENCES) for t in tensors), strict=True)
        return torch.cat([_attend(q, k, v, shape) for q, k, v in parts])
    if shape.stride == 1:
        return F.scaled_dot_product_attention(*tensors, is_causal=True)
    mask_QxL = _mask_QxL(shape, q_RBxHxQxK.device).to(q_RBxHxQxK.dtype)
    return F.scaled_dot_product_attention(*tensors, attn_mask=mask_QxL)


@cache  # not lru_cache: a graph may read what it has let go
def _mask_QxL(shape: AttentionShape, device: torch.device) -> Tensor:
    """What is added to the scores: 0 where the query at position q * stride may look, which is up
    to itself, and -inf elsewhere."""
    position_L = torch.arange(shape.tokens, device=device)
    return torch.where(position_L <= position_L[:: shape.stride, None], 0.0, -math.inf)


def _rotate(t: Tensor, rotation_LxKx2: Tensor) -> Tensor:
    """Turns the pairs (2 j, 2 j + 1) of the last axis of t (..., L, K) by the angles of their
    positions (`rotation_table`)."""
    cos, sin = rotation_LxKx2.to(t.dtype).unbind(-1)
    a, b = t.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def plain_mlp(h_RxBLxD: Tensor, up_RxDxM: Tensor, bias_Rx1xM: Tensor, down_RxMxD: Tensor) -> Tensor:
    """h + relu(norm(h) up + bias) down, of any number of tokens."""
    units_RxBLxM = product(plain_layer_norm(h_RxBLxD), up_RxDxM)
    if h_RxBLxD.device.type != "cpu":  # else units of bf16 would be float32 from here on
        bias_Rx1xM = bias_Rx1xM.to(units_RxBLxM.dtype)
    hidden_RxBLxM = F.relu(add_rows(units_RxBLxM, bias_Rx1xM))
    return h_RxBLxD + product(hidden_RxBLxM, down_RxMxD)

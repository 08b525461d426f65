"""What the kernels share: how matrix products are computed."""

from __future__ import annotations

import os
from typing import Literal

import triton
import triton.language as tl
from torch import Tensor

# Operands of matrix products; sums are float32 always. fp32 is exact float32 arithmetic without
# matrix units, tf32x3 nearly as exact on them (three products of tf32 parts).
Precision = Literal["fp32", "tf32x3", "tf32", "bf16"]
DOTS: dict[str, str] = {"fp32": "ieee", "tf32x3": "tf32x3", "tf32": "tf32", "bf16": "bf16"}

# Triton reads the variable when it is imported: then kernels run as Python, on the CPU.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _bf16(x):
    if INTERPRETED and x.dtype == tl.float32:  # which cuts where GPUs round to the nearest
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a b in float32; PRECISION one of the values of DOTS."""
    if PRECISION == "bf16":
        a, b = _bf16(a), _bf16(b)
        if INTERPRETED:  # whose products take bf16 for integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """The form in which a value that several products take is kept: in bf16 it takes half the
    registers."""
    return _bf16(x) if PRECISION == "bf16" else x


@triton.jit
def normalized(x, D, inside, EPSILON: tl.constexpr):
    """Layer norm of rows of D numbers, padded where not `inside`; and 1 / their deviation."""
    mean = tl.sum(x, 1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / D + EPSILON)
    return centred * inverse[:, None], inverse


@triton.jit
def normalized_backward(grad, normed, inverse, D):
    """Gradient of what `normalized` was given; grad is 0 where padded."""
    mean = tl.sum(grad, 1) / D
    along = tl.sum(grad * normed, 1) / D
    return (grad - mean[:, None] - normed * along[:, None]) * inverse[:, None]


def padded(n: int) -> int:
    """The sizes of tiles: powers of 2, and matrix units take no less than 16."""
    return max(16, triton.next_power_of_2(n))


def replica_rows(weight: Tensor) -> Tensor:
    """The weight with each replica's entries contiguous, wherever the next replica's start."""
    return weight if weight[0].is_contiguous() else weight.contiguous()


def check_on_device(*tensors: Tensor) -> None:
    """Kernels take addresses: whatever is elsewhere would be read as garbage."""
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"tensors on different devices: {sorted(map(str, devices))}")
    if not INTERPRETED.value and next(iter(devices)).type != "cuda":
        raise ValueError("Triton kernels run on CUDA devices only")

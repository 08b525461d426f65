"""What the kernels share: how matrix products are computed."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Precisions of the operands of matrix products; sums are always float32. fp32 is exact float32
# arithmetic without matrix units, and tf32x3 is nearly as exact on them (three products of tf32
# parts).
Precision = Literal["fp32", "tf32x3", "tf32", "bf16"]
DOTS: dict[str, str] = {"fp32": "ieee", "tf32x3": "tf32x3", "tf32": "tf32", "bf16": "bf16"}

# Triton reads the variable when it is imported. If it is 1, kernels run as Python, on the CPU.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def bf16(x):
    """Round to bf16, to the nearest."""
    if INTERPRETED and x.dtype == tl.float32:  # the interpreter cuts, GPUs round to the nearest
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000  # what is cut is 0
        x = bits.to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """Compute the matrix product of a and b, summed in float32; PRECISION is one of the values of
    DOTS."""
    if PRECISION == "bf16":
        a, b = bf16(a), bf16(b)
        if INTERPRETED:  # the interpreter's products take bf16 for integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """Return the form in which a value that several products take is kept: in bf16 it takes half
    the registers."""
    return bf16(x) if PRECISION == "bf16" else x


@triton.jit
def relu(x):
    """Return what is above 0, and 0 else; NaN stays NaN, as in PyTorch."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def store(at, value, inside):
    """Store numbers in the type of what they are stored to, rounded to the nearest."""
    if at.dtype.element_ty == tl.bfloat16:
        value = bf16(value)
    tl.store(at, value, mask=inside)


@triton.jit
def normalized(x, D, inside, EPSILON: tl.constexpr):
    """Return the layer norm of rows of D numbers, which are padded where not `inside`, and 1 over
    their standard deviation."""
    mean = tl.sum(x, 1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / D + EPSILON)
    return centred * inverse[:, None], inverse


@triton.jit
def normalized_backward(grad, normed, inverse, D):
    """Return the gradient of what `normalized` was given; `grad` is 0 where padded."""
    mean = tl.sum(grad, 1) / D
    along = tl.sum(grad * normed, 1) / D
    return (grad - mean[:, None] - normed * along[:, None]) * inverse[:, None]


def padded(n: int) -> int:
    """Return the size of the tile that holds n: a power of 2, and at least the 16 that matrix units
    take."""
    return max(16, triton.next_power_of_2(n))


class Limits(NamedTuple):
    """What a kernel has on a device.

    Attributes:
        capability: 10 times the compute capability: 80 is sm_80.
        shared: bytes of shared memory that a program may take.
    """

    capability: int
    shared: int


FIRST_CAPABILITY = 80  # the first with matrix units for tf32 and bf16
ANY = Limits(10**6, 2**62)  # of what computes on the CPU


@cache
def limits(device: torch.device) -> Limits:
    """What a kernel has on this device."""
    if device.type != "cuda":
        return ANY
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:  # 64 KB of LDS a workgroup; its numbers are of another kind
        return Limits(80, 2**16)
    return Limits(
        10 * properties.major + properties.minor, properties.shared_memory_per_block_optin
    )


def replica_rows(weight: Tensor) -> Tensor:
    """Return the weight with the entries of each replica contiguous, wherever those of the next one
    start."""
    return weight if weight[0].is_contiguous() else weight.contiguous()


def check_on_device(*tensors: Tensor) -> None:
    """Check that tensors are where kernels can read them. Kernels take addresses: what is elsewhere
    would be read as garbage.

    Raises:
        ValueError: the tensors are on different devices, or not on a CUDA device.
    """
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"tensors on different devices: {sorted(map(str, devices))}")
    if not INTERPRETED.value and next(iter(devices)).type != "cuda":
        raise ValueError("Triton kernels run on CUDA devices only")

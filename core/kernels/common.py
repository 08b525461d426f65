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
def dot(a, b, PRECISION: tl.constexpr):
    """a b in float32; PRECISION one of the values of DOTS."""
    if PRECISION == "bf16":
        a, b = a.to(tl.bfloat16), b.to(tl.bfloat16)
        if INTERPRETED:  # whose products take bf16 for integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        return tl.dot(a, b)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


def padded(n: int) -> int:
    """The sizes of tiles: powers of 2, and matrix units take no less than 16."""
    return max(16, triton.next_power_of_2(n))


def check_on_device(*tensors: Tensor) -> None:
    """Kernels take addresses: whatever is elsewhere would be read as garbage."""
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"tensors on different devices: {sorted(map(str, devices))}")
    if not INTERPRETED.value and next(iter(devices)).type != "cuda":
        raise ValueError("Triton kernels run on CUDA devices only")

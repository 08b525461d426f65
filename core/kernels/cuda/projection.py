"""Inputs A x of whole sequences. A is drawn in registers, read from a table, or cut from noise.

One program computes BLOCK_I of the X output pixels at all T positions of one sequence. It walks
along the rows of A, BLOCK_J entries at a time: it makes that tile of A, loads that part of the
sequence's images by their numbers, and multiplies the two. So each entry of A is made exactly once,
and neither A nor the gathered images are ever in device memory.

This is what a batch of 512 sequences with T = 100 and X = 784 should cost on an H200, computed, not
measured. It is taken to have 132 multiprocessors at about 1.8 GHz, to copy 4.3 TB/s and to multiply
matrices at 790 TFLOP/s in bf16, as others have measured it:

- If A is drawn, there are 3.15e8 normals, and 8% more for the tiles' edges. Four normals take one
  Philox block and two Box-Muller pairs. The block has 12 wide multiplications (7 rounds x 2, less
  two that are the same for a whole program because a counter's other words are the task) and 13
  three-way xors; the pairs have 8 special functions (2 log2, 2 sqrt, 2 cos, 2 sin) and about 18
  other instructions. The compiled loop has 595 instructions for a thread's 32 normals, its share of
  loads and products included, which is 18.6 a normal. At 128 instructions a clock and
  multiprocessor they take 3.4e8 x 18.6 / (132 x 128 x 1.8e9) = 0.21 ms; special functions at 16 a
  clock take 2 x 3.4e8 / (132 x 16 x 1.8e9) = 0.18 ms, and wide multiplications at 32 a clock
  0.13 ms. These units work side by side, so issuing instructions is the limit: 0.25 to 0.3 ms.
- If A is read from a table, its bytes are the cost, whatever unit multiplies: 2 x 3.15e8 / 4.3e12
  = 0.15 ms in bf16, twice that in float32.
- If A is cut from noise, those bytes come from the L2 cache: 0.63 GB at some 5.5 TB/s take 0.11 ms.
- In all cases the product is 2 x 512 x 100 x 784^2 = 63 GFLOP (81 with T padded to 128), 0.1 ms in
  bf16. Images are read from L2 13 times, 512 x 100 x 784 x 2 bytes each time, which is 1.0 GB and
  0.2 ms (2.1 GB with float32 images; BLOCK_I = 128 halves it but draws 14% more rows than there
  are). Writing y, 160 MB, takes 0.04 ms.

The twins are `core.tasks.projected_images.projections` and
`core.tasks.projected_images.noise_projections`, times x. Numbers are the same to the rounding of
the precision: the special functions are the fast ones, whose errors of about 2^-21 are below what
the float32 sums round to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from metaphase.core import rng
from metaphase.core.devices import current
from metaphase.core.kernels.cuda.common import (
    DOTS,
    FIRST_CAPABILITY,
    INTERPRETED,
    Precision,
    check_on_device,
    dot,
    limits,
    padded,
)

_ROUNDS = tl.constexpr(rng.ROUNDS)
_MULTIPLIER_0 = tl.constexpr(rng.MULTIPLIER_0)
_MULTIPLIER_1 = tl.constexpr(rng.MULTIPLIER_1)
_WEYL_0 = tl.constexpr(rng.WEYL_0)
_WEYL_1 = tl.constexpr(rng.WEYL_1)
_PROJECTION = tl.constexpr(rng.PROJECTION)
_NOISE_OFFSET = tl.constexpr(rng.NOISE_OFFSET)
_TWO_PI = tl.constexpr(2.0 * math.pi)
_OFFSET = tl.constexpr(1.0 - 2.0**-24)
# Where there is none of NVIDIA's library of functions: in the interpreter, and on AMD's GPUs.
PORTABLE = tl.constexpr(INTERPRETED.value or torch.version.hip is not None)


@dataclass(frozen=True)
class Tiles:
    """Constants of the kernel that change its speed and nothing else.

    Attributes:
        rows: BLOCK_I, the output pixels of a program.
        columns: BLOCK_J, how many entries of a row of A are made at a time.
        warps: how many a program has.
        stages: how many tiles of images are loaded ahead.
    """

    rows: int = 64
    columns: int = 32
    warps: int = 4
    stages: int = 3


@triton.jit
def _philox(c0, c1, c2, c3, key_0, key_1):
    """Compute `core.rng.philox`; all words are uint32."""
    for _ in tl.static_range(_ROUNDS):
        product_0 = c0.to(tl.uint64) * _MULTIPLIER_0
        product_1 = c2.to(tl.uint64) * _MULTIPLIER_1
        c0 = (product_1 >> 32).to(tl.uint32) ^ c1 ^ key_0
        c1 = product_1.to(tl.uint32)
        c2 = (product_0 >> 32).to(tl.uint32) ^ c3 ^ key_1
        c3 = product_0.to(tl.uint32)
        key_0 = (key_0.to(tl.uint64) + _WEYL_0).to(tl.uint32)
        key_1 = (key_1.to(tl.uint64) + _WEYL_1).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _one_to_two(word):
    """Return 1 + k 2^-23, where k is the word's upper 23 bits: this is one instruction. Less
    _OFFSET it is exactly `core.rng.uniform`."""
    return ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def _normal_pair(word_0, word_1, factor):
    """Return a pair of `core.rng.normals`, times sqrt(factor / (-2 ln 2))."""
    u = _one_to_two(word_0) - _OFFSET
    angle = _one_to_two(word_1) * _TWO_PI - _TWO_PI * _OFFSET  # one multiply-add
    if PORTABLE:
        log, cos, sin = tl.log2(u), tl.cos(angle), tl.sin(angle)
    else:
        log = libdevice.fast_log2f(u)
        cos, sin = libdevice.fast_cosf(angle), libdevice.fast_sinf(angle)
    # The fast logarithm of a number next to 1 may be off by more than its own size: hence abs,
    # which is free.
    radius = tl.sqrt(tl.abs(log * factor))
    return radius * cos, radius * sin


@triton.jit
def _halves(word):
    """Return the lower and the upper 32 bits of an int64 scalar."""
    return (word & 0xFFFFFFFF).to(tl.uint32), (word >> 32).to(tl.uint32)


@triton.jit
def _drawn(i, j0, quads, low, high, seed, factor, BLOCK_J: tl.constexpr):
    """Draw the entries [i, j0 ... j0 + BLOCK_J) of A; `factor` is that of `_normal_pair`."""
    BLOCK_Q: tl.constexpr = BLOCK_J // 4
    q = j0 // 4 + tl.arange(0, BLOCK_Q)
    counter = (i[:, None] * quads + q[None, :]).to(tl.uint32)
    stream = tl.full((), _PROJECTION, tl.uint32)
    w0, w1, w2, w3 = _philox(counter, low, high, tl.full((), 0, tl.uint32), seed, stream)
    n0, n1 = _normal_pair(w0, w1, factor)
    n2, n3 = _normal_pair(w2, w3, factor)
    # i x q x (second bit of w) ... the order in which a reshape makes 4 q + w of (q, w)
    quad = tl.join(tl.join(n0, n2), tl.join(n1, n3))
    return tl.reshape(quad, (i.shape[0], BLOCK_J))


@triton.jit
def _project(
    y, images, index, seed, task, table, row, noise,
    X, T, B, table_length, image_stride, quads, factor, scale, place_shift,
    SOURCE: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    parts = tl.cdiv(X, BLOCK_I)
    sequence = (tl.program_id(0) // parts).to(tl.int64)
    g = sequence // B
    i = (tl.program_id(0) % parts) * BLOCK_I + tl.arange(0, BLOCK_I)
    t = tl.arange(0, BLOCK_T)
    image = tl.load(index + sequence * T + t, mask=t < T, other=0).to(tl.int64)
    task_number = tl.load(task + sequence)
    low, high = _halves(task_number)
    if SOURCE == "drawn":
        key = tl.load(seed + g).to(tl.uint32)
    elif SOURCE == "table":
        matrix = table + (tl.load(row + g) * table_length + task_number) * X * X
        row_of = matrix + i.to(tl.int64) * X
    else:
        key = tl.load(seed + g).to(tl.uint32)
        stream = tl.full((), _NOISE_OFFSET, tl.uint32)
        zero = tl.full((), 0, tl.uint32)
        word, _, _, _ = _philox(i.to(tl.uint32), low, high, zero, key, stream)
        row_of = noise + (word >> place_shift).to(tl.int64) * 8

    sums = tl.zeros((BLOCK_I, BLOCK_T), tl.float32)
    for j0 in range(0, X, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        x_ptr = images + image[:, None] * image_stride + j[None, :]
        x = tl.load(x_ptr, mask=(j < X)[None, :], other=0.0) if MASKED else tl.load(x_ptr)
        if SOURCE == "drawn":
            a = _drawn(i, j0, quads, low, high, key, factor, BLOCK_J)
        elif SOURCE == "table":
            inside = (i < X)[:, None] & (j < X)[None, :]
            a = tl.load(row_of[:, None] + j[None, :], mask=inside, other=0.0)
        else:
            a = tl.load(row_of[:, None] + j[None, :], mask=(j < X)[None, :], other=0.0)
        sums += dot(a, tl.trans(x), PRECISION)
    if SOURCE == "noise":
        sums *= scale
    y_ptr = y + (sequence * T + t[None, :]) * X + i[:, None]
    tl.store(y_ptr, sums, mask=(i < X)[:, None] & (t < T)[None, :])


def supports(device: torch.device) -> bool:
    """Return whether `project` runs on this device."""
    return limits(device).capability >= FIRST_CAPABILITY


def image_table(images_IxX: Tensor, precision: Precision, columns: int = 64) -> Tensor:
    """Return the images as `project` reads them fastest: in the precision's type, with rows padded
    by zeros."""
    n, size = images_IxX.shape
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    table = torch.zeros(n, -(-size // columns) * columns, dtype=dtype, device=images_IxX.device)
    table[:, :size] = images_IxX
    return table


def project(
    images_IxX: Tensor,
    image_index_GxBxT: Tensor,
    task_GxB: Tensor,
    *,
    size: int,
    seed_G: Tensor | None = None,
    table_UxNxXxX: Tensor | None = None,
    row_G: Tensor | None = None,
    noise: Tensor | None = None,
    precision: Precision = "bf16",
    dtype: torch.dtype = torch.float32,
    tiles: Tiles | None = None,
) -> Tensor:
    """Compute y_GxBxTxX = A x of the sequences, which are G groups of B each.

    A is the matrix table[row_G, task] if there is a table, that of
    `core.tasks.projected_images.noise_projections` for (seed_G, task) if there is noise, and else
    that of `core.tasks.projected_images.projections` for (seed_G, task).

    Args:
        images_IxX: the images, as they are or as `image_table` returns them.
        image_index_GxBxT, task_GxB: int64, as `core.tasks.sampler.Draw` has them.
        size: X, the pixels of an image.
        seed_G: the seed of each group, where A is drawn or cut from noise.
        table_UxNxXxX: the table, float32 or bf16.
        row_G: int64, which row of the table a group reads.
        noise: as `core.tasks.projected_images.noise_table` returns it, float32 or bf16.
        precision: that of the operands of the product; sums are float32.
        dtype: that of y.
        tiles: None chooses them by the shapes.

    Raises:
        ValueError: an image has more pixels than a counter counts normals for, or the tensors are
            not all on one CUDA device.
    """
    G, B, T = image_index_GxBxT.shape
    quads = -(-size // 4)
    if tiles is None:
        drawn, long = table_UxNxXxX is None and noise is None, padded(T) > 128
        # What is loaded ahead of a long sequence's images would fill the shared memory, and exact
        # float32 products of more columns the registers.
        narrow = drawn or long or precision == "fp32"
        tiles = Tiles(columns=32 if narrow else 64, stages=2 if long else 3)
    block_i, block_t = min(tiles.rows, padded(size)), padded(T)
    block_j = min(tiles.columns, padded(size))
    if size * quads >= 2**31:
        raise ValueError(f"images of {size} pixels: more normals than a counter counts")
    index, task = image_index_GxBxT.contiguous(), task_GxB.contiguous()
    images = images_IxX if images_IxX.stride(1) == 1 else images_IxX.contiguous()
    y = torch.empty(G, B, T, size, dtype=dtype, device=images.device)
    sources: list[Tensor] = []
    if table_UxNxXxX is not None:
        assert row_G is not None, "a table is read at the rows row_G"
        source, sources = "table", [table_UxNxXxX.contiguous(), row_G.contiguous()]
    else:
        assert seed_G is not None, "A follows from the seeds seed_G"
        source, sources = ("drawn" if noise is None else "noise"), [seed_G.contiguous()]
    check_on_device(images, index, task, *sources, *([] if noise is None else [noise]))
    masked = images.shape[1] < -(-size // block_j) * block_j
    with current(y.device):
        _project[(G * B * triton.cdiv(size, block_i),)](
            y, images, index,
            None if source == "table" else sources[0],
            task,
            *(sources if source == "table" else (None, None)),
            noise,
            size, T, B,
            table_UxNxXxX.shape[1] if table_UxNxXxX is not None else 0,
            images.stride(0), quads, -2.0 * math.log(2.0) / size, size**-0.5,
            0 if noise is None else 32 - rng.noise_place_bits(noise),
            SOURCE=source, PRECISION=DOTS[precision], MASKED=masked,
            BLOCK_I=block_i, BLOCK_T=block_t, BLOCK_J=block_j,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return y

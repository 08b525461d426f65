"""The CPU's own kernels (the .c files here), built when first used by the C compiler at hand.

Where there is no compiler, `library()` is None and plain PyTorch runs: slower, the same to
rounding. The built file is kept in the user's cache, named by all that went into it.
PHASESWEEP_NATIVE=0 switches it off.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import platform
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_SOURCES = [Path(__file__).with_name(name) for name in ("blocks.c", "projections.c")]
_FLAGS = [
    *("-O3", "-std=gnu11", "-ffp-contract=fast", "-fopenmp-simd", "-fPIC", "-shared"),
    "-fno-math-errno",  # else a loop with a square root isn't vectorized
]
# The first of these that the compiler takes.
_FOR_THIS_CPU: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
_SECONDS = 120  # a compiler that takes longer is given up


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The built kernels, or None where they can't be built."""
    if os.environ.get("PHASESWEEP_NATIVE") == "0":
        return None
    try:
        kernels = ctypes.CDLL(str(_build()))
        kernels.attention_kept.restype = ctypes.c_int64
        return kernels
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("no CPU kernels, plain PyTorch instead: %s", error)
        return None


def _build() -> Path:
    compiler = os.environ.get("CC", "cc")
    cpu = platform.processor() + platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # -march=native means another thing on another machine
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    code = b"".join(source.read_bytes() for source in _SOURCES)
    key = hashlib.sha256(code + repr((compiler, cpu, _FLAGS)).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phasesweep"
    built = cache / f"kernels-{key.hexdigest()[:16]}.so"
    if built.exists():
        return built
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=cache)
    except OSError:  # a home that can't be written
        folder = tempfile.mkdtemp()
        built = Path(folder) / built.name
    made = Path(folder) / "making.so"
    for number, extra in enumerate(_FOR_THIS_CPU, start=1):
        command = [compiler, *_FLAGS, *extra, "-o", str(made), *map(str, _SOURCES), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            break
        except subprocess.CalledProcessError as error:
            if number == len(_FOR_THIS_CPU):
                raise OSError(
                    f"{compiler}: {error.stderr.decode(errors='replace')[:300]}"
                ) from None
    os.replace(made, built)  # whole or not at all, whoever else builds it now
    if built.parent != Path(folder):
        os.rmdir(folder)
    return built


def _pad(n: int) -> int:
    return -(-n // 16) * 16


def _data(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def _rows(*weights: Tensor) -> ctypes.Array:
    """Where each weight's next replica starts, floats; its own entries are contiguous."""
    for weight in weights:
        assert weight[0].is_contiguous()
    return (ctypes.c_int64 * len(weights))(*(weight.stride(0) for weight in weights))


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for a CPU kernel's buffers")


def projections(seed_M: Tensor, low_M: Tensor, high_M: Tensor, size: int, stream: int) -> Tensor:
    """`core.tasks.plain_projections`, A_MxXxX, of the words of the task numbers; `stream` is
    `core.rng.PROJECTION`."""
    a_MxXxX = torch.empty(len(seed_M), size, size)
    kernels = library()
    assert kernels is not None
    words = [t.contiguous() for t in (seed_M, low_M, high_M)]
    kernels.projections(
        ctypes.c_int64(len(seed_M)),
        ctypes.c_int64(size),
        ctypes.c_uint32(stream),
        *map(_data, words),
        ctypes.c_float(size**-0.5),
        _data(a_MxXxX),
    )
    return a_MxXxX


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("replicas", "sequences", "S", "D", "heads", "K")),
        ("stride", ctypes.c_int64),
        ("rotation", ctypes.c_void_p),
    ]


class Attention(torch.autograd.Function):
    """`core.blocks.plain_attention` for float32 on the CPU.

    Arguments are those of plain_attention, its shape spelled out: tokens of a sequence, heads, key
    size, stride, and the S x K/2 x 2 rotation or None.
    """

    @staticmethod
    def forward(ctx, h, q, kv, out, S, heads, K, stride, rotation):
        h = h.contiguous()
        R, N, D = h.shape
        Q = -(-S // stride)
        shape = _Shape(
            R, N // S, S, D, heads, K, stride, None if rotation is None else rotation.data_ptr()
        )
        kernels = library()
        assert kernels is not None
        keep = torch.empty(N // S * R * kernels.attention_kept(ctypes.byref(shape)))
        result = torch.empty(R, N // S * Q, D)
        rows = _rows(q, kv, out)
        status = kernels.attention_forward(
            ctypes.byref(shape),
            *map(_data, (h, q, kv, out)),
            rows,
            _data(keep),
            _data(result),
        )
        _check(status)
        ctx.save_for_backward(h, q, kv, out, keep, rotation)
        ctx.shape, ctx.rows = shape, rows
        return result

    @staticmethod
    def backward(ctx, grad):
        h, q, kv, out, keep, _ = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.empty(t.shape) for t in (h, q, kv, out)]
        kernels = library()
        assert kernels is not None
        status = kernels.attention_backward(
            ctypes.byref(ctx.shape),
            *map(_data, (h, q, kv, out)),
            ctx.rows,
            *map(_data, (keep, grad, *grads)),
        )
        _check(status)
        return (*grads, None, None, None, None, None)


class MLP(torch.autograd.Function):
    """`core.blocks.plain_mlp` for float32 on the CPU."""

    @staticmethod
    def forward(ctx, h, up, bias, down):
        h = h.contiguous()
        sizes = [ctypes.c_int64(n) for n in (*h.shape, up.shape[2])]
        hidden = torch.empty(math.prod(h.shape[:2]) * _pad(up.shape[2]))
        result = torch.empty_like(h)
        kernels = library()
        assert kernels is not None
        rows = _rows(up, bias, down)
        status = kernels.mlp_forward(
            *sizes, *map(_data, (h, up, bias, down)), rows, _data(hidden), _data(result)
        )
        _check(status)
        ctx.save_for_backward(h, up, down, hidden)
        ctx.sizes, ctx.rows, ctx.bias_shape = sizes, rows, bias.shape
        return result

    @staticmethod
    def backward(ctx, grad):
        h, up, down, hidden = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.empty(shape) for shape in (h.shape, up.shape, ctx.bias_shape, down.shape)]
        kernels = library()
        assert kernels is not None
        status = kernels.mlp_backward(
            *ctx.sizes,
            *map(_data, (h, up, down)),
            ctx.rows,
            *map(_data, (hidden, grad, *grads)),
        )
        _check(status)
        return tuple(grads)

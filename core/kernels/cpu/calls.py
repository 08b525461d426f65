"""Calls of the C kernels: what they compute on, and how tensors and sizes are handed over."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from metaphase.core.kernels.cpu import build

_PADDING = 16  # W of vectors.h: floats that rows are padded to


def available() -> bool:
    """Whether the kernels are built: there is a compiler, and they aren't switched off."""
    return build.library() is not None


def serves(t: Tensor) -> bool:
    """Whether the kernels compute on this tensor: float32 on the CPU, and there is a compiler."""
    return (
        t.device.type == "cpu"
        and t.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for a kernel to write to, whatever device the caller makes tensors on."""
    return torch.empty(*shape, dtype=dtype, device="cpu")


def call(name: str, *arguments: object) -> None:
    """Runs a kernel on tensors (their data; None: no such tensor), whole numbers, and what ctypes
    takes.

    Raises:
        MemoryError: there is no memory for the kernel's buffers.
    """
    kernels = build.library()
    assert kernels is not None
    status = getattr(kernels, name)(*map(_argument, arguments))
    if status:
        raise MemoryError("no memory for a CPU kernel's buffers")


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        assert value.is_cpu, f"a CPU kernel is given a tensor on {value.device}"
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.byref(value) if isinstance(value, ctypes.Structure) else value


def kept(name: str, shape: ctypes.Structure) -> int:
    """Floats that a kernel keeps of a sequence or replica for its backward pass."""
    kernels = build.library()
    assert kernels is not None
    function = getattr(kernels, name)
    function.restype = ctypes.c_int64
    return int(function(ctypes.byref(shape)))


def padded(length: int) -> int:
    """The length of a padded row."""
    return -(-length // _PADDING) * _PADDING


def replica_strides(*weights: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """How many floats after one replica's entries of each weight the next one's start. A replica's
    own entries are contiguous."""
    for weight in weights:
        assert weight[0].is_contiguous()
    return (ctypes.c_int64 * len(weights))(*(weight.stride(0) for weight in weights))


def struct(name: str, **kinds: type) -> type[ctypes.Structure]:
    """A C struct with fields of these names and types."""
    return type(name, (ctypes.Structure,), {"_fields_": list(kinds.items())})

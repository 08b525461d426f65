"""The devices that cells can be trained on, and what is said of one that can't be used."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from metaphase.core.settings import ConfigError

ALLOWED = "allowed: cpu, cuda, or one GPU of several: cuda:0, cuda:1, ..."


def training_device(name: str | torch.device | None = None) -> torch.device:
    """The device of this name, on which a first operation has run.

    Args:
        name: None is a GPU where PyTorch finds one, else the CPU.

    Raises:
        ConfigError: it is none that cells are trained on, or it can't be used: why, in one line.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(name, (str, torch.device)):  # a number is one to PyTorch: a GPU
        raise ConfigError(f"device: {name!r} is no device; {ALLOWED}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {str(name)!r} is no device; {ALLOWED}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {device} is no device that cells are trained on; {ALLOWED}")
    if device.type == "cpu":
        return torch.device("cpu")
    _check_gpu(device)
    return device


def current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a GPU the one whose streams kernels and captures go to: theirs is the current one's,
    wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def unused_gpus() -> str:
    """Why PyTorch can't use the GPUs that this machine has, in one line; empty: it can, there are
    none, or the environment hides them."""
    there = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    hidden = {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"} & {*os.environ}
    if not there or hidden or torch.cuda.is_available():
        return ""
    try:
        _check_gpu(torch.device("cuda"))
    except ConfigError as error:
        return str(error)
    return ""


_FULL = (  # cuBLAS makes its handles and workspaces when first used, and says no more than that
    *("out of memory", "ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"),
    "can't allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full. It may come from PyTorch's allocator,
    from CUDA itself, or from a library that asks CUDA for a workspace."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and says_full(str(error))
    )


def says_full(text: str) -> bool:
    """Whether the text of an error says that the device's memory is full; not that a kernel wants
    more of a kind of memory than there is, or reads what isn't its own."""
    return any(full in text for full in _FULL)


# In what PyTorch says when a device fails, or is full, which is no plug-in's fault.
_OF_DEVICES = ("memory", "CUDA", "CUBLAS", "CUDNN")


def is_of_a_device(error: BaseException) -> bool:
    """Whether an error may be a device's, rather than that of the code that it came from."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_DEVICES)
    )


def _check_gpu(device: torch.device) -> None:
    """Raises ConfigError if PyTorch can't compute on this GPU."""
    if torch.version.cuda is None and torch.version.hip is None:
        raise ConfigError(
            f"device: {device} can't be used: this PyTorch ({torch.__version__}) is built for CPUs"
        )
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {device} can't be used: {_first_line(error)}") from None
    number = device.index or 0
    if number >= count:
        there = f"there are {count}, cuda:0 to cuda:{count - 1}" if count else "there is none"
        raise ConfigError(f"device: {device} is no GPU of this machine: {there}")
    try:
        (torch.ones(1, device=device) + 1).item()
    except RuntimeError as error:
        what = _first_line(error)
        if "no kernel image" in what:
            major, minor = torch.cuda.get_device_capability(device)
            what = (
                f"this PyTorch ({torch.__version__}) has code for "
                f"{', '.join(torch.cuda.get_arch_list())}, and the GPU is sm_{major}{minor} "
                f"({torch.cuda.get_device_name(device)})"
            )
        raise ConfigError(f"device: {device} can't be used: {what}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__

"""In which precision matrix products are computed: how it is set, and how kernels learn of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from metaphase.core.cell_settings import Precision


@contextlib.contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, float32 matrix products on CUDA are tf32 if `precision` says so, else exact.

    bf16 products are autocast's affair (`core.training.stack.Stack.predict`).
    """
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def precision_on_cuda() -> Precision:
    """The precision of matrix products on CUDA at this moment."""
    if torch.is_autocast_enabled("cuda"):
        return "bf16"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"

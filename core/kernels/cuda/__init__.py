"""Triton kernels for CUDA GPUs. Each has a plain PyTorch twin elsewhere in core that defines it.

Imported only where used, because Triton is there only where PyTorch for GPUs is. With
TRITON_INTERPRET=1 in the environment before Triton is imported they run, slowly, on the CPU.
"""

from metaphase.core import caches

caches.for_triton()

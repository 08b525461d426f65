"""Kernels of our own, for the CPU (C) and for CUDA (Triton), each beside its plain twin."""

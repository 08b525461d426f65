"""How stacked tensors are computed: operations that run kernels of our own where there are any, for
the CPU (C) and for CUDA (Triton). Each kernel names its plain twin, which defines it."""

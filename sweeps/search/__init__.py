"""Sweeps that seek boundaries: which cells of a grid to train next, by what the finished ones tell.

`space` and `propose` are plain NumPy and know no files; `seeking` joins them with a sweep's
results.
"""

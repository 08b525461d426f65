"""Trains packs of cells: stacked models, optimizer, captured step, checkpoints, and what it
costs."""

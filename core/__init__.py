"""The meta-trainer: given cells, trains them as one stacked model and yields metrics.

Here belongs what decides a cell's numbers, and nothing that knows of sweeps. It imports torch,
never Ray. Importing this package alone imports neither: `core.cell`, `core.schema` and
`core.phases` are plain Python and NumPy, shared with `sweeps` and `analysis`.
"""

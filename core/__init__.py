"""The meta-trainer: given cells, trains them as one stacked model and yields metrics.

Imports torch, never Ray. Importing this package alone imports neither: `core.cell` and
`core.schema` are plain Python, shared with `sweeps` and `analysis`.
"""

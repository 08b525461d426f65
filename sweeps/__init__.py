"""The orchestrator: presets become cells, cells packs, packs trials, trials Parquet files.

`preset` reads grids, `sweep_run` trains the cells that a sweep's results lack, `run` is its command
line, and `cli` the command `metaphase`. What is planned, executed and stored has a room each:
`planning`, `execution`, `store`; `commands` holds what else can be done with a results tree.
Imports core, never analysis.
"""

"""From a sweep's Parquet files to phases, transitions, figures and reports; without torch and Ray.

At this level stand what all rooms use: `load` reads the tables, `labels` writes numbers, conditions
and titles. `phase_plot` is the command `metaphase plot`, here for `python -m analysis.phase_plot`.
Import the modules themselves (`from metaphase.analysis.statistics import phases`): this package
stays empty so that importing it is instant."""

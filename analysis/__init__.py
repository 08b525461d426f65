"""From a sweep's Parquet files to phases, transitions and figures. Imports neither torch nor Ray.

Import the modules themselves (`from metaphase.analysis.statistics import phases`): this package
stays empty so that importing it is instant."""

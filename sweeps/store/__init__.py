"""A results tree: the only code that writes one, with its files, tables, checkpoints and lease."""

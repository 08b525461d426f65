"""The commands `metaphase report` and `metaphase compare`, and what commands share.

Here belongs what reads a command line, prints, or writes files; all that is computed or drawn comes
from the other rooms. `metaphase plot` is `analysis.phase_plot`."""

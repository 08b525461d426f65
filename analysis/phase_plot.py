"""Classify a sweep's cells, draw its figures and print its phase map:

    metaphase plot results/quickstart
    metaphase plot results/quickstart --width column --format pdf --latex
    metaphase plot results/quickstart --at-step 500

writes `phases.csv` (a row a cell), `grid.csv` (a row a grid point), `transitions.csv`, a table for
each question that the sweep answers, and `figures/` into the sweep's folder. A half-finished sweep
gives a half-filled map. With --at-step all but learning curves is as of that step of training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from metaphase.analysis.commands import options
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, positive, sweep_parser


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), _run, argv)


def _run(**arguments: Any) -> None:
    from metaphase.analysis.commands import plot  # what it needs takes half a second

    plot.run(**arguments)


def _parser() -> Parser:
    parser = sweep_parser("plot", "Classify a sweep's cells and draw its phase diagrams.")
    options.add_figures(parser)
    options.add_delta(parser)
    options.add_confidence(parser)
    options.add_rule(parser)
    parser.add_argument(
        "--at-step", type=positive, metavar="N",
        help="as of step N of training: each cell at its last evaluation until then",
    )  # fmt: skip
    parser.add_argument(
        "--latex", action="store_true", help="also grid.tex and transitions.tex, for booktabs"
    )
    options.add_out(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

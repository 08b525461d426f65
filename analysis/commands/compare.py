"""A sweep beside another one, or beside published numbers (`analysis.published`):

    metaphase compare results/wide results/narrow
    metaphase compare results/figure2 --reference kirsch2022-figure2
    metaphase compare results/table2 --reference kirsch2022-table2

prints a table and writes CSV files and a figure into the (first) sweep's folder. What is compared,
and how: `analysis.statistics.paired`, `analysis.published.figure2`, `analysis.published.table2`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from metaphase.analysis.commands import options
from metaphase.analysis.published import reference
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, sweep_parser, sweep_place


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), _run, argv)


def _run(**arguments: Any) -> None:
    from metaphase.analysis.commands import comparing  # what it needs takes half a second

    comparing.run(**arguments)


def _parser() -> Parser:
    parser = sweep_parser("compare", "Put a sweep beside another one, or published numbers.")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", type=sweep_place,
        help="another sweep, paired with the first by model size, number of tasks and seed",
    )  # fmt: skip
    parser.add_argument(
        "--reference", dest="against", choices=reference.NAMES,
        help=f"published numbers (default, without another sweep: {reference.FIGURE2})",
    )  # fmt: skip
    options.add_out(parser)
    options.add_figures(parser)
    options.add_delta(parser)
    options.add_confidence(parser)
    options.add_rule(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

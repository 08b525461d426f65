"""One page with everything about a sweep, for who wasn't there:

    metaphase report results/quickstart

writes `report.html` into the sweep's folder: figures, phases, transition estimates, counts, the
settings and how to train it again. The page is one file: its figures are inside, it loads nothing,
and it runs no script. A half-finished sweep gives a page of what there is. With `--interactive` it
is another page, a map to click on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from metaphase.analysis.commands import options, output
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, place, sweep_parser


@as_command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return options.main(_parser(), _run, argv)


def _run(**arguments: Any) -> None:
    from metaphase.analysis.commands import report_page  # what it needs takes half a second

    report_page.run(**arguments)


def _parser() -> Parser:
    parser = sweep_parser("report", "Write one HTML page with a sweep's figures and numbers.")
    parser.add_argument(
        "--out", metavar="FILE", type=place,
        help=f"a file, or a folder for {output.REPORT} or interactive.html (default: the sweep's "
        "folder)",
    )  # fmt: skip
    parser.add_argument(
        "--interactive", action="store_true",
        help="write the page of `metaphase serve` instead, as one file that needs no network: a "
        "map to click, a slider over training",
    )  # fmt: skip
    options.add_delta(parser)
    options.add_confidence(parser)
    options.add_rule(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

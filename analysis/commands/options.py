"""What the command lines of this package share: options, and how a command runs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from metaphase.analysis import load
from metaphase.analysis.commands import output
from metaphase.core.phases import CONFIDENCE, DELTA
from metaphase.sweeps.commands.parser import Parser, carry_out, place


def number(low: float, high: float, closed: bool) -> Callable[[str], float]:
    """An argument's type: a number above low (or equal, if closed) and below high."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        value += 0.0  # -0.0 is 0.0
        if not (low < value < high or (closed and value == low)):
            span = f"{low:g} to below {high:g}" if closed else f"between {low:g} and {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; allowed: {span}")
        return value

    return parse


def add_delta(parser: Parser, counts: str = "accuracy difference") -> None:
    """--delta, the least effect that counts. `counts` is what it is an effect on."""
    parser.add_argument(
        "--delta", type=number(0, 1, True), default=DELTA,
        help=f"least {counts} that counts (default: %(default)s)",
    )  # fmt: skip


def add_confidence(parser: Parser) -> None:
    """--confidence, as `phases.classify` takes it."""
    parser.add_argument(
        "--confidence", type=number(0, 1, False), default=CONFIDENCE,
        help="of the intervals that decide a cell's phase (default: %(default)s)",
    )  # fmt: skip


def add_format(parser: Parser) -> None:
    """--format of the figures."""
    parser.add_argument("--format", choices=output.FORMATS, default=output.FORMATS[0])


def add_out(parser: Parser) -> None:
    """--out, a folder or a URI in place of the sweep's own."""
    parser.add_argument("--out", type=place, help="write there instead of into the sweep's folder")


def main(parser: Parser, run: Callable[..., Any], argv: Sequence[str] | None) -> int:
    """Calls `run` with the arguments; returns the exit status. Skipped files go to stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", load.ResultsWarning)
        status = carry_out(parser, run, argv, errors=load.ResultsError)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return status

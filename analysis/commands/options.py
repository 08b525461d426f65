"""What the command lines of this package share: options, and how a command runs."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from metaphase.analysis.commands import output
from metaphase.analysis.errors import ResultsError, ResultsWarning
from metaphase.core.phase_rules import RULES, Rule
from metaphase.core.phase_rules import load as load_rule
from metaphase.core.phases import CONFIDENCE, DELTA
from metaphase.sweeps.commands.parser import Parser, carry_out, place

_OBJECTS = 100_000  # new ones between searches for garbage; Python's own number is 700 to 2,000


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


def add_delta(parser: Parser) -> None:
    """--delta, the least effect that counts."""
    parser.add_argument(
        "--delta", type=number(0, 1, True), default=DELTA,
        help="least accuracy difference that counts (default: %(default)s)",
    )  # fmt: skip


def add_confidence(parser: Parser) -> None:
    """--confidence, as `phases.classify` takes it."""
    parser.add_argument(
        "--confidence", type=number(0, 1, False), default=CONFIDENCE,
        help="of the intervals that decide a cell's phase (default: %(default)s)",
    )  # fmt: skip


def add_rule(parser: Parser) -> None:
    """--rule, whose value `rule` loads."""
    parser.add_argument(
        "--rule", metavar="NAME",
        help=f"that says a cell's phase: {', '.join(RULES)}, or your own, FILE.py:NAME, whose code "
        "is run (default: by predictors where cells were compared with them, else by accuracy)",
    )  # fmt: skip


def rule(name: str | None) -> Rule | None:
    """The rule that `--rule` names; `core.phase_rules.load` says what may be wrong with it."""
    return None if name is None else load_rule(name)


def add_figures(parser: Parser) -> None:
    """--format and --width of the figures."""
    parser.add_argument(
        "--format", choices=output.FORMATS, default=output.FORMATS[0],
        help="of figures' files (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--width", choices=output.WIDTHS, default=output.WIDTHS[1],
        help="of figures: a column (3.3 inches) or a page (7) in print, or a slide (10), with text "
        "to match (default: %(default)s)",
    )  # fmt: skip


def add_out(parser: Parser) -> None:
    """--out, a folder or a URI in place of the sweep's own."""
    parser.add_argument("--out", type=place, help="write there instead of into the sweep's folder")


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
    """Hides MPLBACKEND, a notebook's or a user's choice, with which matplotlib can refuse to be
    imported; figures that are written to files need none. A matplotlib that was first imported
    meanwhile has that backend afterwards, if it can."""
    chosen, imported = os.environ.pop("MPLBACKEND", None), "matplotlib" in sys.modules
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
            if not imported and "matplotlib" in sys.modules:
                with contextlib.suppress(ValueError):
                    sys.modules["matplotlib"].rcParams["backend"] = chosen


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Garbage is looked for after `_OBJECTS` new objects only. Figures are many small objects that
    live as long as they do, and each search visits all there are: a tenth of a command's time."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def main(parser: Parser, run: Callable[..., Any], argv: Sequence[str] | None) -> int:
    """Calls `run` with the arguments; returns the exit status. Skipped files go to stderr."""
    with warnings.catch_warnings(record=True) as caught, _without_backend(), _seldom_collected():
        warnings.simplefilter("always", ResultsWarning)
        status = carry_out(parser, run, argv, errors=ResultsError)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return status

"""What the commands of this package share: one-line errors, numbers in range, whole files."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from metaphase.analysis import load
from metaphase.analysis.statistics import phases
from metaphase.sweeps.commands.parser import Parser, carry_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def add_phase_options(parser: argparse.ArgumentParser) -> None:
    """--delta and --confidence, the parameters of `phases.classify`."""
    parser.add_argument(
        "--delta", type=number(0, 1, True), default=phases.DELTA,
        help="least accuracy difference that counts (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--confidence", type=number(0, 1, False), default=phases.CONFIDENCE,
        help="of the intervals that decide a cell's phase (default: %(default)s)",
    )  # fmt: skip


def main(parser: Parser, run: Callable[..., Any], argv: Sequence[str] | None) -> int:
    """Calls `run` with the arguments; returns the exit status. Skipped files go to stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", load.ResultsWarning)
        status = carry_out(parser, run, argv, errors=load.ResultsError)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return status


def write_file(folder: str, name: str, data: bytes) -> None:
    """Write whole or not at all: under a temporary name first. `folder` may be a URI."""
    filesystem, path = load.open_folder(folder)
    filesystem.create_dir(path, recursive=True)
    temporary = f"{path}/.{name}.tmp"
    try:
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(data)
        filesystem.move(temporary, f"{path}/{name}")
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def is_folder(path: str) -> bool:
    """Whether there is a folder at this path or URI."""
    filesystem, inside = load.open_folder(path)
    return filesystem.get_file_info(inside).type == fs.FileType.Directory


def figure_bytes(figure: Figure, format: str) -> bytes:
    """The figure as a file's content: the same figure, the same bytes."""
    data = io.BytesIO()
    undated = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[format]
    figure.savefig(data, format=format, metadata={undated: None})
    return data.getvalue()


def words(condition: dict[str, object]) -> list[str]:
    """A condition of `phases.split_conditions`, for titles: lstm, learning_rate=0.003."""
    return [str(v) if k == "architecture" else f"{k}={v}" for k, v in condition.items()]


def suffix(condition: dict[str, object]) -> str:
    """What follows a file's name to tell conditions apart."""
    return "".join(f"-{re.sub(r'[^A-Za-z0-9.=_-]+', '_', word)}" for word in words(condition))


def power(value: float) -> str:
    """16 -> "2^4"; a number that is no power of two as it is."""
    whole = int(value)
    if whole == value and whole > 0 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{value:g}"

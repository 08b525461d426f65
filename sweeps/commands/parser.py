"""What all commands share: how a command line is read, what errors look like, exit statuses.

The exit status is 0 if it is done; FAILED if it can't be, or cells failed; WRONG for a command line
that can't be read: options, numbers, places; INTERRUPTED as shells have it for Ctrl-C. An error is
one line on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from metaphase.core.cell import ConfigError
from metaphase.sweeps import places

FAILED, WRONG, INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Reads a command line: options are written out, what is wrong is said in one line, and a URI
    with credentials is refused before anything can show it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        try:
            places.refuse_credentials(args)
        except ConfigError as error:
            self.error(str(error))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"error: {' '.join(message.split())}\n")


def place(text: str) -> str:
    """An argument's type: a folder or a URI."""
    return _argument(places.checked, text)


def root(text: str) -> str:
    """An argument's type: where sweeps are written."""
    return _argument(places.checked_root, text)


def sweep_place(text: str) -> str:
    """An argument's type: the folder or URI of a sweep."""
    return _argument(places.checked_sweep, text)


def folder(text: str) -> str:
    """An argument's type: a folder of this machine's file system."""
    return _argument(places.checked_folder, text)


def positive(text: str) -> int:
    """An argument's type: a whole number from 1, in the digits 0 to 9."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number from 1")
    return int(text)


def _argument(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def sweep_parser(word: str, description: str) -> Parser:
    """The parser of `metaphase <word> PATH`."""
    parser = Parser(prog=f"metaphase {word}", description=description)
    parser.add_argument(
        "path",
        metavar="PATH",
        type=sweep_place,
        help="the sweep's results, a folder or a URI: results/quickstart",
    )
    return parser


def add_places(parser: argparse.ArgumentParser) -> None:
    """--root and --data-root."""
    parser.add_argument(
        "--root", type=root, default="results", help="folder or URI for results (default: results)"
    )
    add_data_root(parser)


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """--data-root."""
    parser.add_argument(
        "--data-root",
        type=folder,
        default="data",
        help="folder of the base data sets (default: data)",
    )


def carry_out(
    parser: Parser,
    action: Callable[..., Any],
    argv: Sequence[str] | None,
    errors: type[Exception] = ConfigError,
) -> int:
    """Calls `action` with the arguments by name. Returns the exit status; `errors`, a wrong
    configuration and those of the storage are what may be wrong without a fault of the program."""
    arguments = parser.parse_args(argv)
    try:
        action(**vars(arguments))
        return 0
    except (errors, ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED

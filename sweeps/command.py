"""The command line of what takes a sweep's results and nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeps.storage import Results


def carry_out(
    argv: Sequence[str] | None, prog: str, description: str, action: Callable[[Results], None]
) -> int:
    """Does `action` with the sweep at PATH. Returns 0, or 1 with one line if it can't be done."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("path", metavar="PATH", help="the sweep: ROOT/NAME, a folder or a URI")
    arguments = parser.parse_args(argv)
    from core.config import ConfigError
    from sweeps.storage import Results

    try:
        action(Results.at(arguments.path))
    except (ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0

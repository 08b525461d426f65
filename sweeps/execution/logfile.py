"""The log of a command, in a file."""

from __future__ import annotations

import logging
from pathlib import Path


def log_to(path: Path) -> None:
    """Sends all logs of this process to a file, away from the terminal."""
    logging.basicConfig(
        filename=path,
        encoding="utf-8",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )

"""The log of a command, in a file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from metaphase.sweeps.store.folders import one_line, shown


class LogFile(logging.FileHandler):
    """Writes records to a file. Where that fails, as on a full disk, it says so in one line, once.

    Args:
        path: of the file.
        delay: whether it is made when there is something to say, not at once.
    """

    def __init__(self, path: os.PathLike, delay: bool = False):
        super().__init__(path, encoding="utf-8", delay=delay)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # it can't be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not self._told and sys.stderr is not None:
            self._told = True
            why = one_line(error) if error else "?"
            print(
                f"note: the log {shown(self.baseFilename)} can't be written: {why}", file=sys.stderr
            )


def log_to(path: Path) -> None:
    """Sends all logs of this process to a file, away from the terminal."""
    logging.basicConfig(handlers=[LogFile(path)], level=logging.INFO, force=True)

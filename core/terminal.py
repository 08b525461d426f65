"""Standard output and error of a command: what they show is only for show.

A reader that is gone (`| head`, a closed terminal) ends no command, a stream that is closed from
the start neither, and a character that the encoding lacks is written as its escape.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET)  # the reader, or the terminal


class _Shown(io.RawIOBase):
    """A descriptor that nothing is written to any more once that failed.

    Attributes:
        error: by which it failed, unless only the reader is gone.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self._descriptor, self._failed = descriptor, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return not self._failed and os.isatty(self._descriptor)

    def write(self, data) -> int:
        while not self._failed:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another process made it so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._failed = True
                if error.errno not in _GONE:
                    self.error = error
        return len(data)


def prepare() -> None:
    """Has this process' standard streams end nothing from here on. Where something else
    has replaced the streams, they stay as they are."""
    while True:  # a file opened later mustn't become standard output
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):
                stream.flush()
            shown = io.TextIOWrapper(
                io.BufferedWriter(_Shown(descriptor)),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=True,
            )
            setattr(sys, name, shown)


def finish(status: int) -> int:
    """The exit status of a command that came to `status`: 1 instead of 0 if what it printed is
    lost for another reason than that nobody reads it, which is said in one line."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Shown) or raw.error is None:
        return status
    error, raw.error = raw.error, None
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    return status or 1


def shown(main: Callable[..., int]) -> Callable[..., int]:
    """A command's main function, with standard streams that end nothing."""

    @functools.wraps(main)
    def command(*arguments: Any) -> int:
        prepare()
        return finish(main(*arguments))

    return command


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """While inside, the terminal's end (SIGHUP) ends neither this process nor those it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)

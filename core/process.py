"""Makes a command's process robust against what it finds around it: streams, home, terminal.

Standard output and error are only for show: a reader that is gone (`| head`, a closed terminal)
ends no command, nor does a stream that is closed from the start, and a character that the encoding
lacks is written as its escape. Libraries want a home and a user's name, which containers may lack.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET)  # the reader, or the terminal


class _Shown(io.RawIOBase):
    """A descriptor to which nothing more is written once a write has failed.

    Attributes:
        failed: whether that is so.
        error: the error by which a write failed, unless only the reader is gone.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self.failed = False
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return not self.failed and os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        while not self.failed:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another process made it so
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.failed = True
                if error.errno not in _GONE:
                    self.error = error
        return len(data)


def prepare() -> None:
    """Prepares this process and those that it starts. Standard streams that something else has
    replaced stay as they are."""
    if not os.path.isabs(os.path.expanduser("~")):  # neither HOME nor an entry in passwd
        os.environ["HOME"] = "/"  # as Docker has it
    try:
        getpass.getuser()
    except (OSError, KeyError):
        os.environ["USER"] = str(os.geteuid())
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
    raw = _flushed()
    if raw is None or raw.error is None:
        return status
    error, raw.error = raw.error, None
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    return status or 1


def is_lost() -> bool:
    """Whether nothing that is printed reaches anybody any more, so that a command which does
    nothing else may end."""
    raw = _flushed()
    return raw is not None and raw.failed


def _flushed() -> _Shown | None:
    """Standard output's descriptor, with all that was printed, if it is one of `prepare`'s."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Shown) else None


def as_command(main: Callable[..., int]) -> Callable[..., int]:
    """Makes of a main function a command whose standard streams end nothing."""

    @functools.wraps(main)
    def command(*arguments: Any) -> int:
        prepare()
        return finish(main(*arguments))

    return command


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Inside, the terminal's end (SIGHUP) ends neither this process nor those that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM calls `stop`; the second does what it usually does."""
    before: dict[int, Any] = {}

    def asked(number: int, frame: Any) -> None:
        for restored, handler in before.items():
            signal.signal(restored, handler)
        stop()

    for caught in (signal.SIGINT, signal.SIGTERM):
        before[caught] = signal.signal(caught, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

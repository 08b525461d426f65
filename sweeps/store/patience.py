"""Trying again what a storage fails at for a moment, and saying what won't pass at once."""

from __future__ import annotations

import errno
import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from metaphase.sweeps.store.files import Refused, StorageError
from metaphase.sweeps.store.folders import one_line

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_SECONDS = 60.0  # for which a failing storage is tried again ...
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0  # ... after such pauses
STORE_TRIES = 6  # what an object store fails at, whose client has repeated it already ...
REFUSED_TRIES = 4  # ... or refuses
_PASSING = {
    *(errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ENETDOWN),
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EREMOTEIO, errno.ENOTCONN),
}


def patiently(
    action: Callable[[], T],
    what: str,
    retry: bool = True,
    before_each: Callable[[int], None] = lambda tries: None,
) -> T:
    """What the action returns. It is tried again while the storage fails in a way that may pass,
    after pauses that grow and are partly random, for RETRY_SECONDS at most.

    Args:
        action: what to do.
        what: the action in words, for the log.
        retry: whether it is tried again at all.
        before_each: is called with the number of the try, from 1, before each; what it raises
            ends the tries.

    Raises:
        OSError: the storage still fails.
    """
    end, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
    for tries in itertools.count(1):
        before_each(tries)
        try:
            return action()
        except StorageError as error:
            if not (retry and may_pass(error, tries) and time.monotonic() < end):
                raise
            logger.warning("%s: %s; tried again", what, one_line(error))
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    raise AssertionError


def may_pass(error: StorageError, tries: int) -> bool:
    """Whether what failed so many times may go well if it is tried again. A file system says by
    number what is wrong, an object store's client by kind."""
    if error.errno is not None:
        return error.errno in _PASSING
    return tries < (REFUSED_TRIES if isinstance(error, Refused) else STORE_TRIES)


def is_full(error: OSError) -> bool:
    """Whether the disk, or what one may use of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def remedy(error: OSError) -> str:
    """What to do about a storage that has failed at last, as a sentence without its full stop."""
    goes_on = "the same command continues"
    if is_full(error):
        return f"Free some space, and {goes_on}"
    if error.errno == errno.EFBIG:
        return f"Let files be larger (ulimit -f, or another file system), and {goes_on}"
    if isinstance(error, StorageError):
        passing = may_pass(error, tries=1)
        return "The same command continues" if passing else f"Once that is mended, {goes_on}"
    return ""

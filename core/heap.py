"""The C library's heap while cells are trained on a CPU.

Every step makes and frees the same tensors. glibc gives large blocks back to the system as soon as
they are freed, and is given them anew, page by page, at the next step, which takes up to a fifth of
it. While somebody holds the heap it keeps what is freed, and gives it back after the last holder.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref

# mallopt(3): names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_MEBIBYTE = 2**20
_HELD = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 64 * _MEBIBYTE}
# What glibc itself comes to once a block of 32 MiB has been freed.
_FREE = {
    _M_MMAP_MAX: 65536,
    _M_MMAP_THRESHOLD: 32 * _MEBIBYTE,
    _M_TRIM_THRESHOLD: 64 * _MEBIBYTE,
    _M_TOP_PAD: 128 * 1024,
}
_lock = threading.Lock()
_holders = 0


def hold(holder: object) -> None:
    """Keeps freed memory in this process as long as `holder` lives. Nothing happens with another C
    library than glibc."""
    global _holders
    library = _glibc()
    if library is None:
        return
    with _lock:
        _holders += 1
        if _holders == 1:
            _set(library, _HELD)
    weakref.finalize(holder, _release, library)


def _release(library: ctypes.CDLL) -> None:
    global _holders
    with _lock:
        _holders -= 1
        if _holders == 0:
            _set(library, _FREE)
            library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is one that can be told."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (AttributeError, OSError, TypeError):
        return None
    return library

"""A run's scratch folder: what Ray and Tune write while it runs. Nothing in it is needed later.

Its driver holds a lock in it. A folder with a free lock was left by a driver that was killed: the
next run of the same user removes it, and ends the processes that still write into it (Ray's agents
outlive their Ray by half a minute).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from metaphase.core.cell import ConfigError

logger = logging.getLogger(__name__)

PREFIX = "metaphase-"
LOCK = "lock"
KILL_SECONDS = 5.0  # that a killed process may take to end
# The longest path that Ray makes in its folder, and what the kernel takes for a socket's path.
_SOCKET = "/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Makes a folder that is gone afterwards. It lies in the first place for temporary files that
    can be written and has a path short enough for Ray's sockets.

    Raises:
        ConfigError: there is no such place, in one line.
    """
    for place in _places():
        _clean(place)
    folder, lock = _make()
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _places() -> list[Path]:
    named = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    places = [Path(name).absolute() for name in named if name]
    return list(dict.fromkeys([*places, *map(Path, ("/tmp", "/var/tmp", "/dev/shm"))]))


def _make() -> tuple[Path, int]:
    """Makes the folder; returns it and its lock's descriptor. The lock gets its name once it is
    held, since nobody removes a folder without one."""
    why = []
    for place in _places():
        length = len(os.fsencode(place / f"{PREFIX}12345678")) + len(_SOCKET)
        if length > SOCKET_BYTES:
            why.append(f"{place}: sockets in it would have paths of {length} bytes")
            continue
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            lock = os.open(folder / f".{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(folder / f".{LOCK}", folder / LOCK)
            return folder, lock
        except OSError as error:
            why.append(f"{place}: {error.strerror}")
    raise ConfigError(
        f"RAY_TMPDIR: set it to a folder that can be written, with a path of at most "
        f"{SOCKET_BYTES - len(_SOCKET) - len(PREFIX) - 9} bytes, for Ray's sockets "
        f"({'; '.join(why)})"
    )


def _clean(place: Path) -> None:
    """Removes the folders of this user's dead runs. Those of live runs and of other users stay."""
    try:
        folders = sorted(place.glob(f"{PREFIX}*"))
    except OSError:
        return
    for folder in folders:
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # it is no run's, or is being removed
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            logger.info("%s was left by a run that was killed; removed", folder)
            _remove(folder)
        except OSError:  # its run lives
            pass
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Ends what still writes into the folder, and removes it. Its lock goes last, so that the next
    run removes what can't be removed now."""
    _end_writers(folder)
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name == LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
    with contextlib.suppress(OSError):
        if {entry.name for entry in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)


def _end_writers(folder: Path) -> None:
    """Kills this user's other processes that have a file of the folder open for writing, and waits
    until they are gone."""
    inside, killed = f"{os.path.realpath(folder)}/", []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid != os.geteuid() or int(process.name) == os.getpid():
                continue
            for descriptor in (process / "fd").iterdir():
                if not os.readlink(descriptor).startswith(inside):
                    continue
                flags = (process / "fdinfo" / descriptor.name).read_text().split("flags:")[1]
                if int(flags.split()[0], 8) & os.O_ACCMODE != os.O_RDONLY:
                    logger.info("process %s still writes into %s: killed", process.name, folder)
                    killed.append(os.pidfd_open(int(process.name)))
                    signal.pidfd_send_signal(killed[-1], signal.SIGKILL)
                    break
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    for process_file in killed:
        select.select([process_file], [], [], KILL_SECONDS)  # readable once the process has ended
        os.close(process_file)

"""Who runs a sweep: a lease in the results tree lets at most one driver at a time.

The file `<root>/<sweep>/driver` holds one line of JSON: the driver's id, its host and pid, since
when it runs and until when it may be taken for alive. A thread renews it every RENEW_SECONDS; a
driver that died without a word is dead EXPIRE_SECONDS after its last renewal, or at once for a
driver on the same machine, which can see that the process is gone. Clocks of machines that share a
sweep may differ by a few seconds, not by a minute.

Two drivers that start at the same moment: on a file system, a lock on the sweep's folder lets one
look and write before the other looks. In an object store a lease is replaced only if it is still
the one that was read (a conditional put): of two that read the same, the store lets one write.
Where a storage can do neither, a driver says so when it starts, writes, waits SETTLE_SECONDS, and
looks again: of two that wrote, only the one that wrote last finds its own name, unless a write took
longer than that.

A driver that was held up, and finds another one's lease when it goes on, has lost the sweep. What
its workers still write doesn't land: see `sweeps.store.files`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store.files import Changed, ClaimLost, Version
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.storage import Storage

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0  # between renewals
EXPIRE_SECONDS = 60.0  # after the last renewal a lease is over
SETTLE_SECONDS = 2.0  # where two may claim at once, between writing a lease and believing it
CLOCK_SECONDS = 600.0  # by which a clock may be ahead, and its lease still be one
ALIVE = "alive"  # in the place of a process's birth: all that is known is that it lives
LOCK_SECONDS = 10.0  # that another process may hold the lock on a file system
# That a driver waits after taking over a lease in an object store that nobody released. The workers
# of the one before notice meanwhile (twice sweeps.execution.pack_run.REMOTE_CLAIM_SECONDS), so that
# none trains in vain.
GRACE_SECONDS = 10.0

_held: set[str] = set()  # drivers of this process that run a sweep


class Lease:
    """A driver's hold on a sweep, renewed until `release`. Made by `acquire`.

    Attributes:
        driver: the driver's id; workers train as long as the lease carries it.
        ready_at: time.time() from which workers may start: those of a driver before have noticed.
        lost: whether another driver has taken over.
        stopping: whether the workers are to stop.
    """

    def __init__(self, results: Storage, seeks: bool = False):
        self.results, self._seeks = results, seeks
        self.driver = uuid.uuid4().hex
        self.ready_at = 0.0
        self.lost = False
        self._since = time.time()
        self.stopping = self._released = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def stop_workers(self) -> None:
        """Has the workers checkpoint and stop; the sweep stays ours meanwhile. This only sets a
        flag, so a signal handler may call it."""
        self.stopping = True
        self._wake.set()

    def release(self) -> None:
        """Gives the sweep back, if it is still ours."""
        self._released = True
        _held.discard(self.driver)
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _acquire(self) -> None:
        with _locked(self.results) as locked:
            try:
                exclusive = locked and self.results.claim.is_exclusive()
            except OSError as error:
                raise ConfigError(
                    f"root: can't write to {self.results}: {one_line(error)}"
                ) from None
            before, version = self.results.claim.read(retry=True)
            if before and is_live(before):
                raise ConfigError(f"{self.results} is being run: {describe(before)}")
            try:
                self._write(version, retry=True)
            except Changed:
                now = self.results.claim.lease(retry=True) or {}
                raise ConfigError(f"{self.results} is being run: {describe(now)}") from None
            except OSError as error:
                raise ConfigError(
                    f"root: can't write to {self.results}: {one_line(error)}"
                ) from None
        if not exclusive:
            print(
                f"note: {self.results} is on a storage without locks and conditional writes: it "
                "can't keep two commands from starting in the same second",
                file=sys.stderr,
            )
            time.sleep(SETTLE_SECONDS)
            now = self.results.claim.lease(retry=True) or {}
            if now.get("driver") != self.driver:
                raise ConfigError(f"{self.results} is being run: {describe(now)}")
        if before and self.results.local_path is None:
            self.ready_at = time.time() + GRACE_SECONDS
        self._thread.start()

    def _write(self, replaces: Version, retry: bool = False) -> None:
        details = {
            "host": platform.node(),
            "machine": _machine(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "since": self._since,
            "expires": time.time() + EXPIRE_SECONDS,
            "seeks": self._seeks,
        }
        self.results.claim.take(self.driver, replaces, stop=self.stopping, retry=retry, **details)

    def _renew(self) -> None:
        """Renews the lease until it is released or lost. Nothing else writes it meanwhile."""
        pause = RENEW_SECONDS
        while not self.lost:
            self._wake.wait(pause)
            self._wake.clear()
            pause, released = RENEW_SECONDS, self._released
            try:
                with _locked(self.results):
                    now, version = self.results.claim.read()
                    if now is not None and now["driver"] != self.driver:
                        self._lose(describe(now))
                    elif released:
                        self.results.claim.release(version)
                    else:
                        self._write(version)
            except ClaimLost:
                self._lose("its folder is gone")
            except Changed:  # the answer to a write was lost, or another driver's came between
                self._wake.set()
                continue
            except (OSError, ConfigError) as error:
                logger.warning("%s: the lease can't be renewed: %s", self.results, error)
                pause = RENEW_SECONDS / 5
            if released:
                return

    def _lose(self, why: str) -> None:
        self.lost = True
        logger.error("%s was taken over: %s", self.results, why)


def acquire(results: Storage, seeks: bool = False) -> Lease:
    """Makes the sweep ours.

    Args:
        seeks: whether boundaries are sought, not all cells trained, for others to know.

    Raises:
        ConfigError: it is another driver's, in one line: whose, since when, until when.
    """
    lease = Lease(results, seeks)
    _held.add(lease.driver)  # before another thread can see it
    try:
        lease._acquire()
    except BaseException:
        _held.discard(lease.driver)
        raise
    return lease


def is_live(lease: dict[str, Any]) -> bool:
    """Returns whether the driver of this lease (`Claim.lease`) is to be taken for alive. What no
    driver writes, such as an end in a year's time, is no sign of life."""
    left = _number(lease, "expires") - time.time()
    likely = left <= EXPIRE_SECONDS + CLOCK_SECONDS
    if left < 0:
        return False
    if lease.get("machine") != _machine():
        return likely
    pid, born = lease.get("pid"), lease.get("born")
    if pid == os.getpid() and lease.get("driver") not in _held:
        return False  # of a run whose storage failed at the end
    found = _born(pid) if pid else ""
    if not born or not found:
        return False
    # A process that is proven to live wrote what it did before the clock was set back.
    return likely if ALIVE in (born, found) else born == found


def describe(lease: dict[str, Any]) -> str:
    """Says in one line by whom the sweep is run, since when, and when the lease expires."""
    left = max(0.0, _number(lease, "expires") - time.time())
    try:
        local = time.localtime(_number(lease, "since"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", local)
    except (OverflowError, ValueError, OSError):
        since = "?"
    pid, host = (_shown(lease.get(name, "?")) for name in ("pid", "host"))
    return (
        f"by process {pid} on {host} since {since}; unless renewed, its lease expires in "
        f"{left:.0f} s"
    )


def _number(lease: dict[str, Any], name: str) -> float:
    value = lease.get(name)
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e18 else 0.0
    return number if math.isfinite(number) else 0.0


def _shown(value: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value)[:100])


@contextlib.contextmanager
def _locked(results: Storage) -> Iterator[bool]:
    """On a file system, keeps other drivers out of here meanwhile. Yields whether that worked, or
    isn't needed, as in an object store.

    Raises:
        ConfigError: nothing can be written there, or another process holds the lock and doesn't
            go on.
    """
    folder = results.local_path
    if folder is None:
        yield True
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"root: can't write to {results}: {reason}") from None
    try:
        yield _lock(results, lambda: fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB))
    finally:
        os.close(opened)


def _lock(results: Storage, lock: Callable[[], None]) -> bool:
    """Locks, and returns whether that could be done: a file system may have no locks."""
    latest = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            lock()
            return True
        except BlockingIOError:
            if time.monotonic() > latest:
                holder = describe(results.claim.lease() or {})
                raise ConfigError(
                    f"{results} is being run: {holder}. That process holds the lock on the folder "
                    "and doesn't go on: continue it, or end it"
                ) from None
        except OSError:
            return False
        time.sleep(0.02)


def _machine() -> str:
    """Returns what tells machines, boots and containers apart, so that pids can be compared."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str:
    """Returns when a living process began, as the kernel counts, or an empty text if it doesn't
    live. So a pid that is used again isn't taken for the same process. ALIVE where there is no
    /proc, or it hides other users' processes (its option hidepid)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:  # another user's
        pass
    return ALIVE

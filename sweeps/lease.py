"""Who runs a sweep: at most one driver at a time, by a lease in the results tree.

The file `<root>/<sweep>/driver` holds one line of JSON: the driver's id, its host and pid, since
when it runs and until when it may be taken for alive. A thread renews it every RENEW_SECONDS; a
driver that died without a word is dead EXPIRE_SECONDS after its last renewal, or at once for a
driver on the same machine, which can see that the process is gone. Clocks of machines that share a
sweep may differ by a few seconds, not by a minute.

Two drivers that start at the same moment: on a file system, a lock on the sweep's folder
lets one look and write before the other looks. An object store has no such lock, and pyarrow gives
no compare-and-swap; there a driver writes, waits SETTLE_SECONDS, and looks again: of two that
wrote, only the one that wrote last finds its own name. That leaves a gap: a driver that looked
before the other wrote, and whose own write takes longer than SETTLE_SECONDS to arrive. Then both
begin; the first finds at its workers' next look (sweeps.trial.REMOTE_CLAIM_SECONDS) that the sweep
is not its own any more, and its workers stop without writing. As results are deterministic in name
and content, even this doubles no row.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from core.config import ConfigError
from sweeps.storage import Results

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0  # between renewals
EXPIRE_SECONDS = 60.0  # after the last renewal a lease is over
SETTLE_SECONDS = 2.0  # on an object store, between writing a lease and believing it
# After taking over a lease that nobody released: what the workers of the one before may take to
# notice, on a file system and on an object store (sweeps.trial.CLAIM_SECONDS, twice).
GRACE_SECONDS, REMOTE_GRACE_SECONDS = 2.0, 10.0


class Lease:
    """A driver's hold on a sweep, renewed until `release`. Made by `acquire`.

    Attributes:
        driver: the driver's id; workers train as long as the lease carries it.
        ready_at: time.time() from which workers may write: those of a driver before have noticed.
        lost: whether another driver has taken over.
    """

    def __init__(self, results: Results):
        self.results = results
        self.driver = uuid.uuid4().hex
        self.ready_at = 0.0
        self.lost = False
        self._since = time.time()
        self._stopping = self._released = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def stop_workers(self) -> None:
        """Has the workers checkpoint and stop; the sweep stays ours meanwhile. Only sets a flag:
        a signal handler may call it."""
        self._stopping = True
        self._wake.set()

    def release(self) -> None:
        """Gives the sweep back, if it is still ours."""
        self._released = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _acquire(self) -> None:
        with _locked(self.results):
            before = self.results.read_lease(retry=True)
            if before and is_live(before):
                raise ConfigError(f"{self.results} is being run: {describe(before)}")
            try:
                self._write(retry=True)
            except OSError as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ConfigError(f"root: can't write to {self.results}: {reason}") from None
        if self.results.local_path is None:
            time.sleep(SETTLE_SECONDS)
            now = self.results.read_lease(retry=True) or {}
            if now.get("driver") != self.driver:
                raise ConfigError(f"{self.results} is being run: {describe(now)}")
        if before:
            remote = self.results.local_path is None
            self.ready_at = time.time() + (REMOTE_GRACE_SECONDS if remote else GRACE_SECONDS)
        self._thread.start()

    def _write(self, retry: bool = False) -> None:
        details = {
            "host": platform.node(),
            "machine": _machine(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "since": self._since,
            "expires": time.time() + EXPIRE_SECONDS,
        }
        self.results.claim(self.driver, stop=self._stopping, retry=retry, **details)

    def _renew(self) -> None:
        """The only writer once the lease is ours."""
        pause = RENEW_SECONDS
        while not self.lost:
            self._wake.wait(pause)
            self._wake.clear()
            pause, released = RENEW_SECONDS, self._released
            try:
                with _locked(self.results):
                    now = self.results.read_lease()
                    if now is not None and now["driver"] != self.driver:
                        self.lost = True
                        logger.error("%s was taken over: %s", self.results, describe(now))
                    elif released:
                        self.results.release()
                    else:
                        self._write()
            except (OSError, ConfigError) as error:
                logger.warning("%s: the lease can't be renewed: %s", self.results, error)
                pause = RENEW_SECONDS / 5
            if released:
                return


def acquire(results: Results) -> Lease:
    """Makes the sweep ours.

    Raises:
        ConfigError: it is another driver's, in one line: whose, since when, until when.
    """
    lease = Lease(results)
    lease._acquire()
    return lease


def is_live(lease: dict[str, Any]) -> bool:
    """Whether the driver of this lease (`Results.read_lease`) is to be taken for alive."""
    if time.time() > lease.get("expires", 0.0):
        return False
    if lease.get("machine") != _machine():
        return True
    born = lease.get("born")
    return bool(born) and born == _born(lease.get("pid", 0))


def describe(lease: dict[str, Any]) -> str:
    """One line: by whom, since when, and when it expires."""
    until = lease.get("expires", 0.0) - time.time()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lease.get("since", 0.0)))
    return (
        f"by process {lease.get('pid', '?')} on {lease.get('host', '?')} since {since}; "
        f"unless renewed, its lease expires in {max(0.0, until):.0f} s"
    )


@contextlib.contextmanager
def _locked(results: Results) -> Iterator[None]:
    """On a file system: no other driver is in here meanwhile."""
    folder = results.local_path
    if folder is None:
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"root: can't write to {results}: {reason}") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks: as on an object store
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _machine() -> str:
    """What tells machines, boots and containers apart, so that pids can be compared."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str:
    """When a living process began, as the kernel counts: a pid used again isn't the same."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return ""
    except OSError:
        return ""
    try:  # no /proc: all that can be known is whether it lives
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "alive"

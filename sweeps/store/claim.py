"""Whose a sweep is: the lease in the file `driver`, and the right to write that comes with it.

`store.lease` decides who may claim a sweep and renews the lease; here it is read and written.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from metaphase.sweeps.store.files import Changed, ClaimLost, Files, StorageError, Version
from metaphase.sweeps.store.leasefile import parse_lease
from metaphase.sweeps.store.patience import patiently

CONDITIONS = ".conditions"  # the object that conditions are tried on
FRESH_SECONDS = 5.0  # for which a look at the lease lets writes to an object store begin


class Claim:
    """The claim of one process on a sweep.

    Args:
        files: the sweep's.
        place: the sweep's place, for messages.
        driver: whose worker this process is; its writes fail once the sweep is another driver's.
            None: the process has no part in running the sweep, or will `take` it.

    Attributes:
        driver: the driver in whose name is written.
    """

    def __init__(self, files: Files, place: str, driver: str | None = None):
        self.driver = driver
        self._files, self._place = files, place
        self._seen_at = -math.inf  # when the lease was last seen to be this driver's
        if driver:
            files.use(driver)

    def take(
        self,
        driver: str,
        replaces: Version = None,
        *,
        stop: bool = False,
        retry: bool = False,
        **details: Any,
    ) -> None:
        """Says that this driver runs the sweep from now on. Workers of another one stop, and with
        `stop` its own ones too.

        Args:
            driver: its id.
            replaces: the version that `read` gave, where claims are told apart by versions.
            stop, details: what else the lease says.
            retry: whether a storage that fails is tried again.

        Raises:
            Changed: the lease isn't the one to be replaced.
            OSError: the storage fails.
        """
        if driver != self.driver:
            patiently(lambda: self._files.fence(driver), f"{self._place}: taking over", retry)
            self._files.use(driver)
        lease = {"driver": driver, "stop": stop, **details}
        self._swap(json.dumps(lease).encode(), replaces, retry)
        self.driver, self._seen_at = driver, time.monotonic()

    def release(self, replaces: Version = None) -> None:
        """Says that nobody runs the sweep: its workers checkpoint and stop, and this process
        has no part in running it any more. Raises as `take`."""
        self._swap(b"", replaces, retry=False)
        self._files.leave()
        self.driver = None

    def _swap(self, data: bytes, replaces: Version, retry: bool) -> None:
        def swap() -> None:
            try:
                self._files.swap("driver", data, replaces)
            except Changed:
                if self._files.read("driver")[0] != data:  # else only the answer was lost
                    raise

        patiently(swap, f"{self._place}: writing driver", retry)

    def is_exclusive(self) -> bool:
        """Whether the storage sees to it that of two that claim at once only one succeeds. Some
        object stores know no conditions, others don't heed them: one is tried that isn't met, on an
        empty object that stays."""
        if self._files.conditional and not self._files.local_path:
            path = CONDITIONS
            doing = f"{self._place}: writing {path}"
            patiently(lambda: self._files.write(path, b"", durable=False), doing)
            try:
                patiently(lambda: self._files.create(path, b"", durable=False), doing)
                self._files.conditional = False
            except FileExistsError:
                pass
            except StorageError:
                self._files.conditional = False
        return self._files.conditional

    def lease(self, retry: bool = False) -> dict[str, Any] | None:
        """What `take` wrote last; None if nobody has claimed the sweep, or it was released.

        Raises:
            OSError: the storage fails.
        """
        return self.read(retry)[0]

    def read(self, retry: bool = False) -> tuple[dict[str, Any] | None, Version]:
        """The lease as `lease` gives it, and its version."""
        doing = f"{self._place}: reading driver"
        try:
            data, version = patiently(lambda: self._files.read("driver"), doing, retry)
        except FileNotFoundError:
            return None, None
        lease = parse_lease(data)
        if lease and lease["driver"] == self.driver:
            self._seen_at = time.monotonic()
        return lease, version

    def is_held_by(self, driver: str) -> bool:
        """Whether this driver's workers shall go on. A storage that fails for a moment says yes."""
        try:
            lease = self.lease()
        except OSError:
            return True
        return lease is not None and lease["driver"] == driver and not lease.get("stop")

    def is_taken_from(self, driver: str) -> bool:
        """Whether the sweep is another driver's by now: this one's workers may not write."""
        try:
            lease = self.lease()
        except OSError:
            return False
        return lease is not None and lease["driver"] != driver

    def check(self, tries: int) -> None:
        """Is called before each try of a write, numbered from 1. On a file system the write itself
        fails (`store.files`).

        Raises:
            ClaimLost: the sweep is another driver's by now.
        """
        fresh = time.monotonic() - self._seen_at < FRESH_SECONDS and tries == 1
        if self.driver is None or self._files.local_path or fresh:
            return
        if self.is_taken_from(self.driver):
            raise ClaimLost(f"{self._place}: another driver has taken over")

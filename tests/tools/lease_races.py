"""Races for the lease of a sweep: several processes at once, again and again, never two owners.

    python -m tests.tools.lease_races --races 1000          # on a file system
    python -m tests.tools.lease_races --races 1000 --s3     # on an S3 half of whose writes are slow

Before a race the sweep is nobody's, was released, or its driver is dead, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results


def race(root: str, races: int, barrier: Any, queue: Any) -> None:
    """One process: all races."""
    for number in range(races):
        results = Results(root, f"race-{number}")
        barrier.wait()
        lease, why = None, ""
        try:
            lease = acquire(results)
        except ConfigError as error:
            why = str(error)
        barrier.wait()  # the owner has it until all have tried
        queue.put((number, lease.driver if lease else None, why))
        if lease:
            lease.release()


def prepare(root: str, races: int) -> None:
    """A third of the sweeps was released, a third has a dead driver."""
    for number in range(races):
        if number % 3:
            results = Results(root, f"race-{number}")
            end = {"expires": time.time() - 1, "since": 0.0}
            results.claim.take("dead", **end)
            if number % 3 == 1:
                results.claim.release(results.claim.read()[1])


def owners(root: str, races: int, processes: int) -> list[list[str]]:
    """Of each race, who got the sweep."""
    prepare(root, races)
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    arguments = (root, races, barrier, queue)
    started = [context.Process(target=race, args=arguments) for _ in range(processes)]
    for process in started:
        process.start()
    found: list[list[str]] = [[] for _ in range(races)]
    for _ in range(races * processes):
        number, driver, why = queue.get(timeout=120)
        if driver:
            found[number].append(driver)
        elif "is being run" not in why:
            print(f"race {number}: {why}")
    for process in started:
        process.join()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if no race had two owners."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args(argv)
    from tests.tools.s3 import failing_s3

    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="races-"))
        if arguments.s3:
            slow = failing_s3(0.3, faults=("slow",), slow_seconds=0.3)
            stack.enter_context(slow)
            root = "s3://bucket/races"
        began = time.monotonic()
        found = owners(root, arguments.races, arguments.processes)
    counts = [len(drivers) for drivers in found]
    print(
        f"{arguments.races} races of {arguments.processes} processes: {counts.count(1)} with one "
        f"owner, {counts.count(0)} with none, {sum(n > 1 for n in counts)} with more; "
        f"{time.monotonic() - began:.0f} s"
    )
    return int(max(counts) > 1)


if __name__ == "__main__":
    sys.exit(main())

"""Merges a sweep's many small Parquet files into few: quicker to list and to read.

    python -m metaphase.sweeps.commands.compact results/quickstart

In each of the tables cells, history and curves, the rows of all cells that are trained (done or
diverged) come to lie in `compact-*.parquet`; failed and unfinished cells keep files of their own.
Kept models stay as they are, each a file.
The sweep is claimed like by a driver meanwhile: one that runs is not disturbed, compaction refuses.
Interrupted at any moment, nothing is lost, and the next compaction clears up. Checkpoints of
trained cells, which a killed driver may leave, are removed.

What a concurrent reader sees. Our own (`Results`, `analysis.load`) see every row once at any
moment: a cell's own file goes before a merged one, and they look again when a file that they had
listed is gone. A plain `pd.read_parquet(folder)` or DuckDB knows nothing of this, so:

- On a local Linux file system the whole folder is exchanged for the merged one in one atomic step
  (renameat2), and the old one is removed LISTING_SECONDS later. A plain reader sees all rows once,
  from before or from after; if it listed the folder before and opens files after, it fails with
  "file not found". It never sees a row twice, and misses none, unless listing alone takes it
  longer than LISTING_SECONDS.
- On an object store, a file system that can't exchange folders, or where a table's folder is a
  link (which stays: its files are merged where they are), the merged file appears first,
  then the small ones are deleted one by one. In between (seconds; after a crash, until the next
  compaction) a plain reader sees rows twice; it never misses one silently: what it listed and is
  gone is an error. Deduplicate by key there, or read with `analysis.load`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import carry_out, sweep_parser
from metaphase.sweeps.store.folders import remove_folder

if TYPE_CHECKING:
    from metaphase.sweeps.store.lease import Lease
    from metaphase.sweeps.store.results import Results

logger = logging.getLogger(__name__)

CELLS_PER_FILE = 10_000
LISTING_SECONDS = 2.0  # that a reader may take to list a folder


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    text = "Merge a sweep's many small Parquet files into few."
    return carry_out(sweep_parser("compact", text), _compact_and_tell, argv)


def _compact_and_tell(path: str) -> None:
    from metaphase.sweeps.store.lease import acquire
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.store.sweepfile import read_sweep

    results = Results.at(path)
    read_sweep(results)  # it is one
    lease = acquire(results)
    try:
        time.sleep(max(0.0, lease.ready_at - time.time()))
        for table, (before, after) in compact(results, lease).items():
            print(f"{table:8} {before:6} files -> {after}")
    finally:
        lease.release()


def compact(results: Results, lease: Lease) -> dict[str, tuple[int, int]]:
    """Merges what is trained. Returns {table: (files before, files after)}.

    Raises:
        OSError: the storage fails, or the lease on the sweep was lost.
    """
    from metaphase.core import schema
    from metaphase.sweeps.store.layout import TABLES

    status = results.finished()
    trained = {id_ for id_, s in status.items() if s in (schema.DONE, schema.DIVERGED)}
    own_folder = results.own_folder

    def check() -> None:
        if lease.lost or (own_folder and not own_folder.is_dir()):
            raise OSError(f"{results}: another driver has taken over")

    for cell_id in results.left_over(status):
        results.checkpoints.remove(cell_id)
    try:
        counts = {table: _compact_table(results, table, trained, check) for table in TABLES}
    except FileNotFoundError:
        check()
        raise
    replaced = [own_folder / table for table in TABLES] if own_folder else []
    if any(folder.exists() for folder in replaced):
        time.sleep(LISTING_SECONDS)
        for folder in replaced:
            remove_folder(str(folder))
    return counts


def _compact_table(
    results: Results, table: str, trained: set[str], check: Callable[[], None]
) -> tuple[int, int]:
    """Merges one table's files. Returns (files before, files after)."""
    from metaphase.sweeps.store.tables import merged_name

    names = results.tables.names(table)
    own = {n for n in names if n.removesuffix(".parquet") in trained}
    if len(own) < 2 and not (own and len(names) > len(own)):
        return len(names), len(names)
    flawed: set[str] = set()
    tables, merged = results.tables.by_cell(table, names, trained, merged=True, flawed=flawed)
    for name in set(names) - merged:
        if name.removesuffix(".parquet") not in trained:  # its own file goes before: it failed
            tables.pop(name.removesuffix(".parquet"), None)
    ids = sorted(tables)
    files: dict[str, list[str]] = {}
    for i in range(0, len(ids), CELLS_PER_FILE):
        part = ids[i : i + CELLS_PER_FILE]
        files[merged_name(part)] = part
    gone = merged - files.keys()
    for name in sorted(merged & flawed):  # what is left out of the merged file is kept
        results.tables.keep_damaged(table, name)
    after = len(names) - len(merged) + len(files)
    check()
    folder = results.local_path / table if results.local_path else None
    own_folder = results.own_folder  # in which nothing can be exchanged once the lease is lost
    if folder and own_folder and _is_plain(folder) and _exchange_works(own_folder):
        new = own_folder / table
        new.mkdir()
        for name, part in files.items():
            path = new.relative_to(folder.parent) / name
            results.tables.write_merged(path.as_posix(), [tables[id_] for id_ in part])
        for name in {entry.name for entry in os.scandir(folder)} - merged - files.keys():
            if not name.endswith(".tmp"):  # of a crash
                os.link(folder / name, new / name, follow_symlinks=False)
        check()
        _exchange(folder, new)
        return len(names), after
    for name, part in files.items():
        results.tables.write_merged(f"{table}/{name}", [tables[id_] for id_ in part])
    check()
    for name in sorted(gone):
        results.delete(f"{table}/{name}")
    return len(names), after


def _is_plain(folder: Path) -> bool:
    """Whether everything in a folder can be linked into another: it is no link itself, to keep as
    it is, and holds no folders."""
    return not folder.is_symlink() and not any(
        entry.is_dir(follow_symlinks=False) for entry in os.scandir(folder)
    )


def _exchange_works(folder: Path) -> bool:
    """Tries it in a driver's own folder, on two empty folders, with a hard link."""
    a = b = None
    try:
        a, b = (Path(tempfile.mkdtemp(prefix=".exchange-", dir=folder)) for _ in range(2))
        (a / "file").write_bytes(b"")
        os.link(a / "file", b / "link")
        _exchange(a, b)
        return (a / "link").exists()
    except (OSError, AttributeError):
        return False
    finally:
        for made in (a, b):
            if made:
                remove_folder(str(made))


def _exchange(a: Path, b: Path) -> None:
    """Each takes the other's name, in one atomic step."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(a))


if __name__ == "__main__":
    sys.exit(main())

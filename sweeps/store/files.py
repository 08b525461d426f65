"""What a results tree asks of the place where its files lie, and how that fails.

`LocalFiles`, `ObjectFiles` and `ArrowFiles`, each in a module of its own, offer what `Files` says.
What is written is whole or not there, and a write that comes late does no harm:

- On a file system each driver writes by way of a folder of its own, `.writing/<driver>`, from which
  a finished file is moved to its place in one step. `fence` takes that folder away from all other
  drivers. Whatever their workers had begun, and however long they were held up, the step fails:
  they raise `ClaimLost`.
- `create` never replaces a file: by a hard link on a file system, by a conditional put in an object
  store, which the store checks when the request arrives, however late that is.
- `swap` replaces a file of an object store only if it is still the version that was read.

Every failure of the storage itself is a `StorageError`, with the number that a file system gives.
What isn't there is FileNotFoundError, what is there already FileExistsError, as always.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from metaphase.sweeps.store.folders import one_line

Version = Any  # of an object, as its store names it; None: there is none


class StorageError(OSError):
    """The storage fails, which says nothing about what it holds."""


class Refused(StorageError):
    """A store that doesn't let us in: credentials are missing, wrong, or have expired."""


class ClaimLost(OSError):
    """Another driver has taken over: this one's writes don't land any more."""


class Changed(Exception):
    """An object isn't the version that was to be replaced."""


class Info(NamedTuple):
    """A file: its path below the folder that was listed, and when it was written, seconds since
    1970."""

    path: str
    modified: float


class Files(Protocol):
    """The files below one folder. Paths are relative to it, with slashes."""

    local_path: Path | None

    conditional: bool
    """Whether `create` and `swap` are exact."""

    def read(self, path: str) -> tuple[bytes, Version]: ...

    def write(self, path: str, data: bytes, durable: bool) -> None:
        """Makes `path` hold `data`, at once for every reader."""

    def create(self, path: str, data: bytes, durable: bool) -> None:
        """As `write`. Raises FileExistsError if there is such a file."""

    def swap(self, path: str, data: bytes, version: Version) -> Version:
        """As `write`. Raises Changed unless the file has this version; returns the new one."""

    def delete(self, path: str) -> None:
        """None there is fine."""

    def delete_folder(self, path: str) -> None:
        """And what is in it. None there is fine."""

    def infos(self, folder: str, recursive: bool) -> list[Info]:
        """Files in a folder, and in its folders if `recursive`; none if there is no such folder.
        What is hidden by a dot is left out."""

    def kind(self, path: str) -> str | None:
        """ "file", "folder", or None if there is nothing. The folder itself is ""."""

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder."""

    def fence(self, driver: str) -> None:
        """From now on only this driver's writes land, where the storage can see to that."""

    def use(self, driver: str) -> None:
        """Writes are this driver's from now on."""

    def leave(self) -> None:
        """The sweep is released: writes are nobody's from now on."""


@contextlib.contextmanager
def failing_as_storage() -> Iterator[None]:
    """What a file system refuses to do inside is raised as a StorageError, with its number."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, ClaimLost, StorageError):
        raise
    except OSError as error:
        if error.errno is None:
            raise StorageError(one_line(error)) from error
        raise StorageError(error.errno, error.strerror, error.filename) from error

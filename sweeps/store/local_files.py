"""The files of a results tree on a file system."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from metaphase.sweeps.store.files import (
    ClaimLost,
    Info,
    StorageError,
    Version,
    failing_as_storage,
)
from metaphase.sweeps.store.folders import check_is_file, is_text, list_files

logger = logging.getLogger(__name__)

WRITING = ".writing"  # folder of the drivers' folders
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV)


class LocalFiles:
    """Files in a folder.

    Args:
        base: the folder; it need not be there.
        say: gets a line about each name that is left out of a listing.
    """

    conditional = True

    def __init__(self, base: str, say: Callable[[str], None] = logger.warning):
        self._base, self._say = base, say
        self._writing: str | None = None
        self.local_path: Path | None = Path(base)

    def use(self, driver: str) -> None:
        self._writing = f"{self._base}/{WRITING}/{driver}"

    def fence(self, driver: str) -> None:
        """The others' folders are moved away, each in one step, and then removed."""
        folder = f"{self._base}/{WRITING}"
        with failing_as_storage():
            if os.path.islink(folder):  # not ours: what it leads to stays
                os.unlink(folder)
            os.makedirs(f"{folder}/{driver}", exist_ok=True)
            for name in set(os.listdir(folder)) - {driver}:
                gone = f"{folder}/{name}"
                if not name.startswith("."):
                    gone = f"{folder}/.{secrets.token_hex(8)}"
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(f"{folder}/{name}", gone)
                with contextlib.suppress(OSError):  # what is left over goes next time
                    _remove_tree(gone)

    def leave(self) -> None:
        """The driver's folder goes, and then no write of its workers lands; unless something is in
        it: then it is in use, or goes next time."""
        if self._writing:
            with contextlib.suppress(OSError):
                os.rmdir(self._writing)
                os.rmdir(f"{self._base}/{WRITING}")
        self._writing = None

    def read(self, path: str) -> tuple[bytes, Version]:
        with failing_as_storage():
            check_is_file(f"{self._base}/{path}")
            with open(f"{self._base}/{path}", "rb") as file:
                return file.read(), None

    def write(self, path: str, data: bytes, durable: bool) -> None:
        self._place(path, data, durable, os.replace)

    def create(self, path: str, data: bytes, durable: bool) -> None:
        self._place(path, data, durable, _link)

    def swap(self, path: str, data: bytes, version: Version) -> Version:
        self.write(path, data, durable=False)  # a lock guards it (sweeps.store.lease)

    def _place(
        self, path: str, data: bytes, durable: bool, move: Callable[[str, str], None]
    ) -> None:
        target = f"{self._base}/{path}"
        folder, _, name = target.rpartition("/")
        # A dot in front: neither `*.parquet` nor pyarrow's and pandas' folder readers see it.
        temporary = f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        with failing_as_storage():
            if not os.path.isdir(folder):
                self._check_ours(path)
                os.makedirs(folder, exist_ok=True)
            try:
                made_in = self._writing or folder
                self._write_by(f"{made_in}/{temporary}", target, data, durable, move)
            except FileNotFoundError as error:
                self._check_ours(path)  # else a folder went meanwhile, and can be made again
                raise StorageError(errno.EAGAIN, error.strerror, error.filename) from error
            except OSError as error:
                if error.errno != errno.EXDEV or self._writing is None:
                    raise
                # The folder is linked to another file system, to which nothing can be moved.
                self._check_ours(path)
                self._write_by(f"{folder}/{temporary}", target, data, durable, move)

    def _check_ours(self, path: str) -> None:
        if self._writing and not os.path.isdir(self._writing):
            raise ClaimLost(f"{path}: another driver has taken over")

    @staticmethod
    def _write_by(
        temporary: str, target: str, data: bytes, durable: bool, move: Callable[[str, str], None]
    ) -> None:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            move(temporary, target)
        except OSError as error:  # of a write it doesn't say which file
            error.filename = error.filename or target
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def delete(self, path: str) -> None:
        self._remove(f"{self._base}/{path}")

    def delete_folder(self, path: str) -> None:
        self._remove(f"{self._base}/{path}")

    def _remove(self, target: str) -> None:
        """What a link leads to stays."""
        with failing_as_storage():
            gone = target
            if self._writing:
                gone = f"{self._writing}/.{secrets.token_hex(8)}"
                try:
                    os.rename(target, gone)
                except FileNotFoundError:
                    self._check_ours(target)
                    return
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    self._check_ours(target)
                    gone = target
            with contextlib.suppress(FileNotFoundError):
                _remove_tree(gone)

    def infos(self, folder: str, recursive: bool) -> list[Info]:
        with failing_as_storage():
            depth = 2 if recursive else 1
            return [Info(*f) for f in list_files(f"{self._base}/{folder}", self._say, depth)]

    def kind(self, path: str) -> str | None:
        with failing_as_storage():
            target = f"{self._base}/{path}".rstrip("/")
            if os.path.isdir(target):
                return "folder"
            return "file" if os.path.exists(target) else None

    def folders(self, path: str) -> list[str]:
        with failing_as_storage():
            entries = os.scandir(f"{self._base}/{path}")
            return [e.name for e in entries if e.is_dir() and is_text(e.name)]


def _remove_tree(path: str) -> None:
    """A file, a link, or a folder with what is in it; what links lead to stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _link(temporary: str, target: str) -> None:
    """Gives the file its name, unless that is taken."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS or error.errno == errno.EXDEV:
            raise
    if os.path.exists(target):  # no hard links here: looking first is the best that can be done
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(temporary, target)

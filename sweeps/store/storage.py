"""The files of one sweep, read and written patiently and in a driver's name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from metaphase.core.cell import ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.store.arrow_files import ArrowFiles
from metaphase.sweeps.store.claim import Claim
from metaphase.sweeps.store.files import Files, Info
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.local_files import WRITING, LocalFiles
from metaphase.sweeps.store.object_files import STORES, ObjectFiles
from metaphase.sweeps.store.patience import patiently

logger = logging.getLogger(__name__)


class Storage:
    """The files below `<root>/<sweep>`. Paths are relative to it, with slashes. What fails and may
    pass is tried again (`store.patience`).

    Args:
        root: a path or a URI, the folder that holds sweeps.
        sweep: the sweep's name.
        driver: whose worker writes; its writes raise ClaimLost once the sweep is another driver's.
            None: what writes has no part in running the sweep, or will take its `claim`.
        say: gets a line about each file that can't be listed.

    Attributes:
        root: an absolute path, or the URI as it is: workers have other working directories.
        claim: whose the sweep is.

    Raises:
        ConfigError: the URI can't be used, or holds credentials.
    """

    def __init__(
        self,
        root: str,
        sweep: str,
        driver: str | None = None,
        say: Callable[[str], None] = logger.warning,
    ):
        places.refuse_credentials([root])
        self.root = root if "://" in root else str(Path(root).expanduser().absolute())
        self.sweep = sweep
        try:
            self.files = open_files(self.root, sweep, say)
        except ConfigError as error:
            raise ConfigError(f"root: can't use {root}: {error}") from None
        self.claim = Claim(self.files, str(self), driver)

    def __str__(self) -> str:
        """Where the files are, as a user would give it."""
        return places.inside(self.root, self.sweep)

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine's file system, if that is where it is."""
        return self.files.local_path

    @property
    def own_folder(self) -> Path | None:
        """On a file system, a hidden folder of the driver that has the sweep, by which it writes
        (`store.files`): it is gone once another driver takes over."""
        folder, driver = self.local_path, self.claim.driver
        return folder / WRITING / driver if folder and driver else None

    def get(self, path: str) -> bytes:
        """The content of a file."""
        return patiently(lambda: self.files.read(path)[0], self._doing("reading", path))

    def put(self, path: str, data: bytes, durable: bool = False) -> None:
        """Makes `path` hold `data`, at once for every reader."""
        patiently(
            lambda: self.files.write(path, data, durable),
            self._doing("writing", path),
            before_each=self.claim.check,
        )

    def create(self, path: str, data: bytes) -> None:
        """Makes `path` hold `data`, unless there is such a file: then that stays."""
        try:
            patiently(
                lambda: self.files.create(path, data, durable=True),
                self._doing("writing", path),
                before_each=self.claim.check,
            )
        except FileExistsError:
            logger.info("%s/%s is there already", self, path)

    def delete(self, path: str) -> None:
        """Removes a file; none is fine."""
        patiently(
            lambda: self.files.delete(path),
            self._doing("deleting", path),
            before_each=self.claim.check,
        )

    def delete_folder(self, path: str) -> None:
        """Removes a folder with what is in it; none is fine."""
        patiently(
            lambda: self.files.delete_folder(path),
            self._doing("deleting", path),
            before_each=self.claim.check,
        )

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""
        kind = patiently(lambda: self.files.kind(path), self._doing("looking for", path))
        return kind is not None

    def infos(self, folder: str, recursive: bool = False) -> list[Info]:
        """The files in a folder, or below it; none if there is no such folder."""
        return patiently(
            lambda: self.files.infos(folder, recursive), self._doing("listing", folder)
        )

    def check_writable(self) -> None:
        """Raises ConfigError if nothing can be written there."""
        try:
            self.put(".writable", b"")
            self.delete(".writable")
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"root: can't write to {self}: {one_line(error)}") from None

    def _doing(self, verb: str, path: str) -> str:
        return f"{self}: {verb} {path}"


def open_files(root: str, sweep: str, say: Callable[[str], None]) -> Files:
    """The files of `<root>/<sweep>`; `say` gets a line about each that can't be listed.

    Raises:
        ConfigError: a URI that can't be used, in one line.
    """
    if "://" not in root:
        return LocalFiles(f"{root.rstrip('/')}/{sweep}", say)
    if root.partition("://")[0].lower() in STORES:
        return ObjectFiles(root, sweep)
    try:
        filesystem, base = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ConfigError(one_line(error)) from None
    path = f"{base.rstrip('/')}/{sweep}"
    local = isinstance(filesystem, pafs.LocalFileSystem)
    return LocalFiles(path, say) if local else ArrowFiles(filesystem, path)

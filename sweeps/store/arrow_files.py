"""The files of a results tree on a file system that pyarrow alone speaks to, such as HDFS."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pyarrow.fs as pafs

from metaphase.sweeps.store.files import Changed, Info, Version, failing_as_storage


class ArrowFiles:
    """Files of which pyarrow knows how to read and write them. There are no conditional writes:
    `create` and `swap` look first, and then write."""

    local_path: Path | None = None
    conditional = False

    def __init__(self, filesystem: pafs.FileSystem, base: str):
        self._fs, self._base = filesystem, base

    def use(self, driver: str) -> None:
        pass

    def fence(self, driver: str) -> None:
        pass

    def leave(self) -> None:
        pass

    def read(self, path: str) -> tuple[bytes, Version]:
        with failing_as_storage(), self._fs.open_input_stream(f"{self._base}/{path}") as stream:
            data = stream.read()
            return data, data

    def write(self, path: str, data: bytes, durable: bool) -> None:
        target = f"{self._base}/{path}"
        with failing_as_storage():
            self._fs.create_dir(target.rpartition("/")[0])
            with self._fs.open_output_stream(target) as stream:
                stream.write(data)

    def create(self, path: str, data: bytes, durable: bool) -> None:
        if self.kind(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self.write(path, data, durable)

    def swap(self, path: str, data: bytes, version: Version) -> Version:
        try:
            now = self.read(path)[1]
        except FileNotFoundError:
            now = None
        if now != version:
            raise Changed
        self.write(path, data, durable=False)
        return data

    def delete(self, path: str) -> None:
        with failing_as_storage(), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{path}")

    def delete_folder(self, path: str) -> None:
        with failing_as_storage(), contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(f"{self._base}/{path}".rstrip("/"))

    def infos(self, folder: str, recursive: bool) -> list[Info]:
        base = f"{self._base}/{folder}"
        selector = pafs.FileSelector(base, allow_not_found=True, recursive=recursive)
        with failing_as_storage():
            return [
                Info(info.path[len(base) + 1 :], (info.mtime_ns or 0) / 1e9)
                for info in self._fs.get_file_info(selector)
                if info.is_file and not info.base_name.startswith(".")
            ]

    def kind(self, path: str) -> str | None:
        with failing_as_storage():
            found = self._fs.get_file_info(f"{self._base}/{path}".rstrip("/")).type
        kinds = {pafs.FileType.NotFound: None, pafs.FileType.Directory: "folder"}
        return kinds.get(found, "file")

    def folders(self, path: str) -> list[str]:
        with failing_as_storage():
            below = self._fs.get_file_info(pafs.FileSelector(f"{self._base}/{path}".rstrip("/")))
        return [info.base_name for info in below if not info.is_file]

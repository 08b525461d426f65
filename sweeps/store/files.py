"""The files of a results tree, on a file system or in an object store.

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

import configparser
import contextlib
import errno
import logging
import os
import secrets
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store.folders import check_is_file, is_text, list_files

logger = logging.getLogger(__name__)

WRITING = ".writing"  # folder of the drivers' folders
STORES = ("s3", "gs", "gcs", "abfs", "abfss")  # URIs of object stores
REQUEST_SECONDS = 30.0  # for a request to a store, or a part of a large one ...
REQUEST_RETRY_SECONDS = 15.0  # ... and for its client to repeat what fails at once
PART_BYTES = 16 << 20  # in which large objects are read
_FOLDER_GONE = (errno.ENOENT, errno.ENOTDIR)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV)
Version = Any  # of an object, as its store names it; None: there is none
T = TypeVar("T")


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


def open_files(root: str, sweep: str) -> Files:
    """The files of `<root>/<sweep>`.

    Raises:
        ConfigError: a URI that can't be used, in one line; it may show what the URI holds.
    """
    if "://" not in root:
        return LocalFiles(f"{root.rstrip('/')}/{sweep}")
    if root.partition("://")[0].lower() in STORES:
        return ObjectFiles(root, sweep)
    try:
        filesystem, base = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ConfigError(_line(error)) from None
    path = f"{base.rstrip('/')}/{sweep}"
    local = isinstance(filesystem, pafs.LocalFileSystem)
    return LocalFiles(path) if local else ArrowFiles(filesystem, path)


# --- a file system ---


class LocalFiles:
    """On a file system."""

    conditional = True

    def __init__(self, base: str):
        self._base = base
        self._writing: str | None = None
        self.local_path: Path | None = Path(base)

    def use(self, driver: str) -> None:
        self._writing = f"{self._base}/{WRITING}/{driver}"

    def fence(self, driver: str) -> None:
        """The others' folders are moved away, each in one step, and then removed."""
        folder = f"{self._base}/{WRITING}"
        with _telling():
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

    def read(self, path: str) -> tuple[bytes, Version]:
        with _telling():
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
        with _telling():
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
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def delete(self, path: str) -> None:
        self._remove(f"{self._base}/{path}")

    def delete_folder(self, path: str) -> None:
        self._remove(f"{self._base}/{path}")

    def _remove(self, target: str) -> None:
        """What a link leads to stays."""
        with _telling():
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
        with _telling():
            depth = 2 if recursive else 1
            return [Info(*f) for f in list_files(f"{self._base}/{folder}", logger.warning, depth)]

    def kind(self, path: str) -> str | None:
        with _telling():
            target = f"{self._base}/{path}".rstrip("/")
            if os.path.isdir(target):
                return "folder"
            return "file" if os.path.exists(target) else None

    def folders(self, path: str) -> list[str]:
        with _telling():
            entries = os.scandir(f"{self._base}/{path}")
            return [e.name for e in entries if e.is_dir() and is_text(e.name)]


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """What a file system refuses to do is a StorageError, with its number."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, ClaimLost, StorageError):
        raise
    except OSError as error:
        if error.errno is None:
            raise StorageError(_line(error)) from error
        raise StorageError(error.errno, error.strerror, error.filename) from error


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


# --- an object store ---


class ObjectFiles:
    """In an object store: S3 and its kin, Google Cloud Storage, Azure."""

    local_path: Path | None = None

    def __init__(self, root: str, sweep: str):
        import obstore

        self._obs = obstore
        self.conditional = True  # as far as is known
        try:
            self._store, inside = _open_store(root)
        except (obstore.exceptions.BaseError, ValueError, OSError) as error:
            raise ConfigError(_line(error)) from None
        self._base = f"{inside}/{sweep}".lstrip("/")

    def use(self, driver: str) -> None:
        pass

    def fence(self, driver: str) -> None:
        """Nothing to do: what comes late is refused by its conditions."""

    def read(self, path: str) -> tuple[bytes, Version]:
        key = self._key(path)
        with self._telling():
            found = self._obs.get(self._store, key)
            meta = found.meta
            version = {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}
            if meta["size"] <= PART_BYTES:
                return bytes(found.bytes()), version
            parts = [
                self._obs.get_range(
                    self._store, key, start=start, end=min(start + PART_BYTES, meta["size"])
                )
                for start in range(0, meta["size"], PART_BYTES)
            ]
            return b"".join(bytes(part) for part in parts), version

    def write(self, path: str, data: bytes, durable: bool) -> None:
        with self._telling():
            self._obs.put(self._store, self._key(path), data)

    def create(self, path: str, data: bytes, durable: bool) -> None:
        self._put_if(path, data, "create")

    def swap(self, path: str, data: bytes, version: Version) -> Version:
        try:
            put = self._put_if(path, data, version or "create")
        except (FileExistsError, FileNotFoundError):
            raise Changed from None
        return {name: put[name] for name in ("e_tag", "version") if put.get(name)}

    def _put_if(self, path: str, data: bytes, mode: Any) -> Any:
        put = self._obs.put
        with self._telling():
            if self.conditional:
                try:
                    return put(self._store, self._key(path), data, mode=mode, use_multipart=False)
                except (NotImplementedError, self._obs.exceptions.NotSupportedError):
                    self.conditional = False
            return put(self._store, self._key(path), data)

    def delete(self, path: str) -> None:
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._obs.delete(self._store, self._key(path))

    def delete_folder(self, path: str) -> None:
        for info in self.infos(path, recursive=True):
            self.delete(f"{path}/{info.path}")

    def infos(self, folder: str, recursive: bool) -> list[Info]:
        prefix = self._key(folder)
        with self._telling():
            if recursive:
                objects = [o for part in self._obs.list(self._store, prefix) for o in part]
            else:
                objects = list(self._obs.list_with_delimiter(self._store, prefix)["objects"])
        found = []
        for item in objects:
            path = item["path"][len(prefix) + 1 :]
            # Other programs mark folders by empty objects, whose name ends in a slash.
            if path and not (item["size"] == 0 and "." not in path.rpartition("/")[2]):
                found.append(Info(path, item["last_modified"].timestamp()))
        return [info for info in found if not info.path.rpartition("/")[2].startswith(".")]

    def kind(self, path: str) -> str | None:
        key = self._key(path)
        with self._telling():
            try:
                self._obs.head(self._store, key)
                return "file"
            except FileNotFoundError:
                pass
            below = self._obs.list_with_delimiter(self._store, key)
            return "folder" if below["objects"] or below["common_prefixes"] else None

    def folders(self, path: str) -> list[str]:
        with self._telling():
            below = self._obs.list_with_delimiter(self._store, self._key(path))
        return [prefix.rpartition("/")[2] for prefix in below["common_prefixes"]]

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}".rstrip("/")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        kinds = self._obs.exceptions
        try:
            yield
        except kinds.AlreadyExistsError as error:
            raise FileExistsError(_line(error)) from None
        except kinds.PreconditionError:
            raise Changed from None
        except (kinds.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(_line(error)) from None
        except (kinds.PermissionDeniedError, kinds.UnauthenticatedError) as error:
            raise Refused(_line(error)) from None
        except (kinds.BaseError, OSError) as error:
            if isinstance(error, (FileExistsError, StorageError)):
                raise
            raise StorageError(_line(error)) from None


def _open_store(root: str) -> tuple[Any, str]:
    """(store, path in its bucket) of a URI as pyarrow takes it: `scheme`, `endpoint_override` and
    `region` may follow a question mark."""
    from obstore.store import from_url

    parts = urllib.parse.urlsplit(root)
    inside = urllib.parse.unquote(parts.path).strip("/")
    options = dict(urllib.parse.parse_qsl(parts.query))
    client: Any = {"timeout": timedelta(seconds=REQUEST_SECONDS)}
    retry: Any = {
        "max_retries": 10,
        "backoff": {"max_backoff": timedelta(seconds=2)},
        "retry_timeout": timedelta(seconds=REQUEST_RETRY_SECONDS),
    }
    url = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme.lower() != "s3":
        if parts.username == "anonymous":
            url, options = f"{parts.scheme}://{parts.hostname}", {"skip_signature": "true"}
        scheme = "gs" if parts.scheme == "gcs" else parts.scheme
        url = scheme + url[len(parts.scheme) :]
        config: Any = {key: value for key, value in options.items() if key == "skip_signature"}
        return from_url(url, config=config, client_options=client, retry_config=retry), inside
    config, provider = _s3_settings(parts, options)
    if config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    store = from_url(
        f"s3://{parts.hostname}",
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=provider,
    )
    return store, inside


def _s3_settings(parts: urllib.parse.SplitResult, options: dict[str, str]) -> tuple[Any, Any]:
    """(settings, who gives credentials or None) of an S3 store: those that pyarrow would find, and
    which the client's own look at the environment doesn't."""
    environment, config, provider = os.environ, {}, None
    endpoint = options.get("endpoint_override")
    if endpoint:
        scheme = options.get("scheme", "https")
        config["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    else:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        config["endpoint"] = next((environment[n] for n in names if environment.get(n)), "")
    if parts.username:
        config["access_key_id"] = urllib.parse.unquote(parts.username)
        config["secret_access_key"] = urllib.parse.unquote(parts.password or "")
    elif not environment.get("AWS_ACCESS_KEY_ID"):
        profile = _profile()
        named = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"} & set(profile)
        config |= {name.removeprefix("aws_"): profile[name] for name in named}
        if not named and {"sso_session", "sso_start_url", "role_arn", "credential_process"} & set(
            profile
        ):
            try:
                from obstore.auth.boto3 import Boto3CredentialProvider
            except ImportError:
                raise ValueError(
                    "the profile of AWS asks for credentials elsewhere, which takes boto3: "
                    "pip install boto3"
                ) from None
            provider = Boto3CredentialProvider()
        if profile.get("region"):
            config["region"] = profile["region"]
    region = options.get("region") or environment.get("AWS_REGION")
    region = region or environment.get("AWS_DEFAULT_REGION") or config.get("region")
    if not region and not config["endpoint"]:
        with contextlib.suppress(OSError, pa.ArrowException):  # then it is the client's default
            region = pafs.resolve_s3_region(parts.hostname)
    if region:
        config["region"] = region
    return {key: value for key, value in config.items() if value}, provider


def _profile() -> dict[str, str]:
    """The settings of AWS's files for the profile that the environment names."""
    name = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    for variable, path, section in (
        ("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(os.path.expanduser(os.environ.get(variable, path)))
        except (configparser.Error, UnicodeDecodeError):
            continue
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found


# --- what only pyarrow knows ---


class ArrowFiles:
    """On a file system that pyarrow alone speaks to, such as HDFS. It has no conditional writes:
    `create` and `swap` look first, and then write."""

    local_path: Path | None = None
    conditional = False

    def __init__(self, filesystem: pafs.FileSystem, base: str):
        self._fs, self._base = filesystem, base

    def use(self, driver: str) -> None:
        pass

    def fence(self, driver: str) -> None:
        pass

    def read(self, path: str) -> tuple[bytes, Version]:
        with _telling(), self._fs.open_input_stream(f"{self._base}/{path}") as stream:
            data = stream.read()
            return data, data

    def write(self, path: str, data: bytes, durable: bool) -> None:
        target = f"{self._base}/{path}"
        with _telling():
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
        with _telling(), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{path}")

    def delete_folder(self, path: str) -> None:
        with _telling(), contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(f"{self._base}/{path}")

    def infos(self, folder: str, recursive: bool) -> list[Info]:
        base = f"{self._base}/{folder}"
        selector = pafs.FileSelector(base, allow_not_found=True, recursive=recursive)
        with _telling():
            return [
                Info(info.path[len(base) + 1 :], (info.mtime_ns or 0) / 1e9)
                for info in self._fs.get_file_info(selector)
                if info.is_file and not info.base_name.startswith(".")
            ]

    def kind(self, path: str) -> str | None:
        with _telling():
            found = self._fs.get_file_info(f"{self._base}/{path}".rstrip("/")).type
        kinds = {pafs.FileType.NotFound: None, pafs.FileType.Directory: "folder"}
        return kinds.get(found, "file")

    def folders(self, path: str) -> list[str]:
        with _telling():
            below = self._fs.get_file_info(pafs.FileSelector(f"{self._base}/{path}".rstrip("/")))
        return [info.base_name for info in below if not info.is_file]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:300] or type(error).__name__

"""The files of a results tree in an object store: S3 and its kin, Google Cloud Storage, Azure."""

from __future__ import annotations

import configparser
import contextlib
import errno
import os
import urllib.parse
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from metaphase.core.cell import ConfigError
from metaphase.sweeps.store.client_settings import check_endpoint, check_environment, check_region
from metaphase.sweeps.store.files import Changed, Info, Refused, StorageError, Version
from metaphase.sweeps.store.folders import shown

STORES = ("s3", "gs", "gcs", "abfs", "abfss")  # schemes of their URIs
REQUEST_SECONDS = 30.0  # for a request to a store, or a part of a large one ...
REQUEST_RETRY_SECONDS = 15.0  # ... and for its client to repeat what fails at once
PART_BYTES = 16 << 20  # in which large objects are read


class ObjectFiles:
    """Files that are objects below a prefix of a bucket. Arguments as for `storage.Storage`.

    Raises:
        ConfigError: the URI can't be used; one line.
    """

    local_path: Path | None = None

    def __init__(self, root: str, sweep: str):
        import obstore

        self._obs = obstore
        self.conditional = True  # as far as is known
        try:
            with _panics_told():
                self._store, inside = _open_store(root)
        except (obstore.exceptions.BaseError, ValueError, OSError) as error:
            raise ConfigError(_said(error)) from None
        self._base = f"{inside}/{sweep}".lstrip("/")

    def use(self, driver: str) -> None:
        pass

    def fence(self, driver: str) -> None:
        """Nothing to do: what comes late is refused by its conditions."""

    def leave(self) -> None:
        pass

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
            self.delete(f"{path}/{info.path}".lstrip("/"))

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
            with _panics_told():
                yield
        except kinds.AlreadyExistsError as error:
            raise FileExistsError(_said(error)) from None
        except kinds.PreconditionError:
            raise Changed from None
        except (kinds.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(_said(error)) from None
        except (kinds.PermissionDeniedError, kinds.UnauthenticatedError) as error:
            raise Refused(_said(error)) from None
        except (kinds.BaseError, OSError) as error:
            if isinstance(error, (FileExistsError, StorageError)):
                raise
            raise StorageError(_said(error)) from None


@contextlib.contextmanager
def _panics_told() -> Iterator[None]:
    """A panic of the client, which is no Exception, is raised as a StorageError that isn't tried
    again. What the panic says may hold any setting; the client has printed it already."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # each such client has a class of its own
            raise
        text = "the store's client broke off; look at the settings that it takes, such as AWS_..."
        raise StorageError(errno.EINVAL, text) from None


def _open_store(root: str) -> tuple[Any, str]:
    """(store, path in its bucket) of a URI as pyarrow takes it: `scheme`, `endpoint_override` and
    `region` may follow a question mark."""
    from obstore.store import from_url

    parts = urllib.parse.urlsplit(root)
    check_environment(parts.scheme)
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
        scheme = "gs" if parts.scheme == "gcs" else parts.scheme
        url = scheme + url[len(parts.scheme) :]
        config: Any = {key: value for key, value in options.items() if key == "skip_signature"}
        return from_url(url, config=config, client_options=client, retry_config=retry), inside
    config, provider = _s3_settings(parts.netloc, options)
    if config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    store = from_url(
        f"s3://{parts.netloc}",
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=provider,
    )
    return store, inside


def _s3_settings(bucket: str, options: dict[str, str]) -> tuple[Any, Any]:
    """(settings, who gives credentials or None) of an S3 store: those that pyarrow would find, and
    which the client's own look at the environment doesn't."""
    environment, config, provider = os.environ, {}, None
    endpoint = options.get("endpoint_override")
    if endpoint:
        scheme = options.get("scheme", "https")
        config["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        check_endpoint("endpoint_override", config["endpoint"])
    else:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        config["endpoint"] = next((environment[n] for n in names if environment.get(n)), "")
    if not environment.get("AWS_ACCESS_KEY_ID"):
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
            region = pafs.resolve_s3_region(bucket)
    if region:
        check_region("the region in the URI, the environment or AWS's files", region)
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


def _said(error: BaseException) -> str:
    """What an error says, without the client's own representation of it below an empty line."""
    return shown(" ".join(str(error).split("\n\n")[0].split()))[:300] or type(error).__name__

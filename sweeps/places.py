"""Where results lie, as users say it: a folder, or a URI such as s3://bucket/results.

What can't be meant is refused here, before anything is opened. So are credentials in a URI: places
are printed, logged and written into reports.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from urllib.parse import parse_qsl, unquote

from metaphase.core import schema
from metaphase.core.cell import Cell, ConfigError

_VARIABLES = {  # scheme: where its client finds credentials
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    **dict.fromkeys(("abfs", "abfss"), "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"),
}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
_BUCKETS = ("s3", "gs", "gcs")  # their URIs begin with a bucket, and have no user and no port
_PATHS = ("file", "hdfs", "viewfs")  # their paths may hold any character and no credentials
_URI = re.compile(
    rf"(?P<scheme>\b(?:{'|'.join(_VARIABLES)})(?=:)|[A-Z][A-Z0-9+.-]+(?=:/)):/*(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_COLUMNS = {  # of all tables
    *(f.name for f in fields(Cell)),
    *("sweep", *schema.CELL_RESULT_COLUMNS, *schema.HISTORY_COLUMNS),
    *(*schema.CURVES_COLUMNS, *schema.YARDSTICK_COLUMNS),
}
_SECRET_NAME = re.compile("key|secret|token|pass|pwd|sig|cred|auth", re.IGNORECASE)


def refuse_credentials(words: Iterable[str]) -> None:
    """Raises ConfigError, without showing it, if one of the words holds a URI with credentials:
    `user:secret@`, escaped or not, or a parameter that is named like one."""
    for word in words:
        uri = _URI.search(word)
        if uri and _has_credentials(uri["scheme"].lower(), uri["rest"]):
            variables = _VARIABLES.get(uri["scheme"].lower(), "those that its client knows")
            raise ConfigError(
                f"a URI {uri['scheme']}://... with credentials in it would be shown and stored; "
                f"leave them out and set environment variables: {variables}"
            )


def _has_credentials(scheme: str, rest: str) -> bool:
    while rest != (rest := unquote(rest)):
        pass
    authority = re.split("[/?#]", rest)[0]
    # A secret may hold a slash that isn't escaped: then it looks like a part of the path.
    if re.search(":.*@", authority if scheme in _PATHS else rest, re.DOTALL):
        return True
    if scheme in _BUCKETS and re.search("[:@]", authority):
        return True
    names = (name for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True))
    return any(map(_SECRET_NAME.search, names))


def without_secrets(uri: str) -> str:
    """A URI of any scheme as it may be shown and stored: without user and password, and without
    parameters in which something may be a secret."""
    # A password may hold any character that isn't escaped.
    plain = re.sub("://[^/].*@", "://", uri, flags=re.DOTALL).partition("#")[0]
    place, _, query = plain.partition("?")
    pairs = (f"{name}={value}" for name, value in parse_qsl(query, keep_blank_values=True))
    return "?".join(filter(None, (place, "&".join(p for p in pairs if not _SECRET_NAME.search(p)))))


def checked(place: str) -> str:
    """Returns the folder or URI as it can be used, with `~` replaced.

    Raises:
        ConfigError: it can't be meant, or holds credentials.
    """
    refuse_credentials([place])
    if not place.strip():
        raise ConfigError(f"{place!r} is empty; give a folder or a URI")
    if not place.isprintable():
        raise ConfigError(f"{place!r} holds characters that can't be printed")
    scheme, mark, rest = place.partition("://")
    if not mark:
        if uri := _URI.match(place):
            raise ConfigError(
                f"{place!r}: a URI has two slashes, {uri['scheme']}://...; a folder of this name "
                f"is ./{place}"
            )
        return os.path.expanduser(place)
    for name in _ENDPOINTS:  # clients take a user in it for the host, and tell so
        uri = _URI.match(os.environ.get(name, ""))
        if uri and _has_credentials(uri["scheme"].lower(), uri["rest"]):
            raise ConfigError(
                f"the environment's {name} holds credentials; set {_VARIABLES['s3']} instead"
            )
    if scheme.lower() in _BUCKETS and not re.split("[/?#]", rest)[0]:
        raise ConfigError(f"{place!r} names no bucket; allowed: {scheme}://BUCKET/FOLDER")
    return place


def checked_root(place: str) -> str:
    """Checks, as `checked` does, the folder that sweeps are written into. DuckDB takes a folder
    named `column=value` for a column of the files below it (Hive's partitioning): `seed=7` would
    hide the seeds of the cells."""
    place = checked(place)
    path = _split_query(place)[0] if "://" in place else os.path.abspath(place)
    for name in path.split("/"):
        column, equals, _ = name.partition("=")
        if equals and column.lower() in _COLUMNS:
            raise ConfigError(
                f"{place!r}: DuckDB would read the folder {name!r} as the column {column!r} of the "
                "results; choose another name for it"
            )
    return place


def checked_sweep(place: str) -> str:
    """Checks, as `checked` does, a sweep's folder, `<root>/<sweep>`."""
    place = checked(place)
    if "://" in place and "/" not in _split_query(place)[0].partition("://")[2].strip("/"):
        raise ConfigError(f"{place!r} is no sweep's folder; allowed: ROOT/SWEEP")
    return place


def checked_folder(place: str) -> str:
    """Checks, as `checked` does, what must be a folder of this machine's file system."""
    place = checked(place)
    if "://" in place:
        raise ConfigError(f"{place!r} is a URI; allowed: a folder")
    return place


def inside(place: str, name: str) -> str:
    """Returns the place of a file or folder in a folder. A URI's parameters stay at its end."""
    path, query = _split_query(place)
    return f"{path.rstrip('/')}/{name}{query}"


def parent(place: str) -> tuple[str, str]:
    """Returns the folder that holds this place, and the place's name there."""
    path, query = _split_query(place)
    path = path.rstrip("/")
    if "://" not in path and os.path.basename(path) in ("", ".", ".."):
        path = os.path.abspath(place)
    folder, slash, name = path.rpartition("/")
    return (folder or slash or ".") + query, name


def _split_query(place: str) -> tuple[str, str]:
    path, mark, query = place.partition("?") if "://" in place else (place, "", "")
    return path, mark + query


def read_beginning(place: str, most: int) -> bytes:
    """The first bytes of a file at a path or a URI, at most that many.

    Raises:
        OSError: it can't be read.
    """
    if "://" not in place:
        with open(os.path.expanduser(place), "rb") as file:
            return file.read(most)
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except (pa.ArrowException, ValueError) as error:
        raise OSError(str(error)) from None
    with filesystem.open_input_file(path) as file:
        return bytes(file.read(most))

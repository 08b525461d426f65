"""What the clients of object stores take from the environment, checked before they see it: they
break off with a panic at what can't be a URL or a header of a request. No value is shown."""

from __future__ import annotations

import os
import re

_ENDPOINTS = {  # scheme: variables with a URL
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_HEADERS = {  # scheme: variables that become a part of requests' headers
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN"),
        *("AWS_REGION", "AWS_DEFAULT_REGION"),
    ),
    "gs": ("GOOGLE_BEARER_TOKEN",),
    "az": (
        *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"),
        *("AZURE_STORAGE_MASTER_KEY", "AZURE_STORAGE_TOKEN", "AZURE_STORAGE_SAS_KEY"),
        *("AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"),
    ),
}
_KINDS = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "az", "abfss": "az"}
_URL = re.compile(
    r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[a-z0-9._~%/-]*)?",
    re.IGNORECASE,
)
_REGION = re.compile("[A-Za-z0-9._-]+")


def check_environment(scheme: str) -> None:
    """Checks what the client for URIs of this scheme reads. A variable that is set but empty is
    unset here, as everybody else takes it.

    Raises:
        ValueError: the client can't use a variable; one line, with its name.
    """
    kind = _KINDS[scheme.lower()]
    for name in (*_ENDPOINTS[kind], *_HEADERS[kind]):
        value = os.environ.get(name)
        if value == "":
            del os.environ[name]
        elif value is not None and name in _ENDPOINTS[kind]:
            check_endpoint(f"the environment's {name}", value)
        elif value is not None and not value.isprintable():
            raise ValueError(
                f"the environment's {name} holds a line break or another character that can't be "
                "printed; set it without"
            )


def check_endpoint(name: str, url: str) -> None:
    """Raises ValueError, with the name, unless a client can use the URL."""
    match = _URL.fullmatch(url)
    if not match or int(match["port"] or 0) >= 2**16:
        raise ValueError(f"{name} can't be used; allowed: http://HOST:PORT, https://HOST")


def check_region(name: str, region: str) -> None:
    """Raises ValueError, with the name, unless this can be a region's name."""
    if not _REGION.fullmatch(region):
        raise ValueError(f"{name} is no region; allowed: letters, digits and -._, as us-east-1")

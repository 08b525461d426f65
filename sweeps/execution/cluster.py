"""Finds a Ray cluster that is there already: what RAY_ADDRESS names, else what `ray start` made
this machine part of.

Whether it can be used is tried by a process of its own, as Ray itself waits for minutes for what
isn't there, and may end the process that asks.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)

from metaphase.core.cell import ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.store.folders import check_is_file, shown

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # that a cluster named by the user may take to be there ...
LEFT_SECONDS = 2.0  # that a connection to one may take that `ray start` left a note of
NOTE_CHARACTERS = 300  # of a note, more than an address has
TRY_SECONDS = 15.0  # that connecting to it may take then; usual are 2
_TRY = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    ray.cluster_resources()
except BaseException as error:
    print("why:", " ".join(str(error).split()) or type(error).__name__)
    sys.exit(1)
ray.shutdown()
"""


def find_cluster() -> str | None:
    """The address of a Ray that can be used; None: there is none. Of one that `ray start` left a
    note of and that can't be used, it prints a line.

    Raises:
        ConfigError: RAY_ADDRESS names one that can't be used, in one line.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if named == "local":
        return None
    if named:
        if _has_credentials(named):
            raise ConfigError(
                "RAY_ADDRESS: an address with credentials in it would be shown and logged; "
                "allowed: HOST:PORT, ray://HOST:PORT, local"
            )
        why = _nobody_listens(named, ANSWER_SECONDS) or _why_not(named)
        if why:
            raise ConfigError(
                f"RAY_ADDRESS: no Ray that can be used is at {shown(named)}: {why}; start it "
                "there, set RAY_AUTH_MODE=token if it wants a token, or unset RAY_ADDRESS to have "
                "one started here"
            )
        return named
    os.environ.pop("RAY_ADDRESS", None)  # empty: as if it weren't set
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    for place in dict.fromkeys(place for place in places if place):
        note = Path(place) / "ray" / "ray_current_cluster"
        try:
            owner = note.stat().st_uid
            check_is_file(str(note))  # a pipe would be waited for
            with note.open(errors="replace") as file:
                address = shown(file.read(NOTE_CHARACTERS).strip())
        except OSError:
            continue
        without_token = "RAY_AUTH_MODE" not in os.environ
        if owner != os.geteuid():  # who works there works in its owner's name
            why = f"it is another user's; RAY_ADDRESS={address} uses it all the same"
        elif not _host_and_port(address):
            why = "that is no address"
        else:
            maybe_enable_token_auth_if_token_available(
                warn_if_disabled=False
            )  # as Ray itself has it
            why = _nobody_listens(address, 0.0) or _why_not(address)
        if not why:
            return address
        if without_token:
            os.environ.pop("RAY_AUTH_MODE", None)
        print(f"Ray at {address} (so says {note}) is not used: {why}", file=sys.stderr, flush=True)
    return None


def _has_credentials(address: str) -> bool:
    """Whether an address has a user or a parameter named like a secret, as none of Ray's has."""
    try:
        places.refuse_credentials([address])
    except ConfigError:
        return True
    return "@" in address


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Of host:port or ray://host:port; None if it isn't of that form."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        return None
    return host.strip("[]"), int(port)


def _nobody_listens(address: str, patience: float) -> str:
    """Why no connection can be made, tried anew for `patience` seconds; empty: it can, or the
    address is of a form that is left to Ray."""
    place, latest = _host_and_port(address), time.monotonic() + patience
    while place:
        try:
            socket.create_connection(place, timeout=max(patience, LEFT_SECONDS)).close()
            break
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= latest:
                return f"nothing answers there ({error})"
        time.sleep(0.5)
    return ""


def _why_not(address: str) -> str:
    """Why the Ray at this address can't be used, in one line; empty: it can."""
    # -P: the folder that the user is in may hold anything.
    command = [sys.executable, "-P", "-c", _TRY, address]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=TRY_SECONDS)
        except subprocess.TimeoutExpired:
            return f"it doesn't answer as a Ray within {TRY_SECONDS:.0f} s"
        finally:
            process.kill()
    if process.returncode == 0:
        return ""
    said = out.decode(errors="replace")
    logger.warning("%s: %s%s", address, said, err.decode(errors="replace"))
    _, _, why = said.rpartition("why: ")
    return why.strip().rstrip(".")[:500] or f"it doesn't answer as a Ray {ray.__version__} does"

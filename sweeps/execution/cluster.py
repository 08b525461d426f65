"""The Ray that a run uses: a cluster that is there, or one of its own on this machine.

In this order: what RAY_ADDRESS names; what `ray start` made this machine part of; else a Ray is
started here, reachable from this machine only, that ends with the run. Whether a cluster can be
used is tried by a process of its own, as Ray itself waits for minutes for what isn't there, and may
end the process that asks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ray
import torch
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from metaphase.core.cell import ConfigError
from metaphase.sweeps.planning import hardware

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # that a cluster named by the user may take to be there ...
LEFT_SECONDS = 2.0  # that a connection to one may take that `ray start` left a note of
TRY_SECONDS = 15.0  # that connecting to it may take then; usual are 2
RAY_WATCH_SECONDS = 1.0  # between looks whether our own lives
OBJECT_STORE_BYTES = 100_000_000  # nothing but the packs' settings goes through it
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


@contextlib.contextmanager
def ray_running(scratch: Path) -> Iterator[bool]:
    """Connects to Ray, or starts it; disconnects or stops it in the end. Yields whether it is a
    cluster that was there before.

    Not to any Ray that runs here (Ray's "auto"): that of another sweep ends with its command.

    Args:
        scratch: folder for the files of a Ray that is started.

    Raises:
        ConfigError: RAY_ADDRESS names what can't be used, or Ray doesn't start; one line.
    """
    with contextlib.ExitStack() as stack:
        there = ray.is_initialized()
        if not there:
            address = find_cluster()
            there = address is not None
            if address is not None:
                try:
                    ray.init(address=address, log_to_driver=False, configure_logging=False)
                except Exception as error:  # just tried; it may have died meanwhile
                    logger.exception("Ray at %s", address)
                    raise ConfigError(f"Ray at {address}: {_line(error)}") from error
                stack.callback(ray.shutdown)
            else:
                stack.enter_context(_on_loopback())
                stack.enter_context(_own_token(scratch))
                try:
                    ray.init(
                        address="local",
                        num_cpus=max(hardware.cores(), torch.cuda.device_count()),
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        log_to_driver=False,
                        configure_logging=False,
                        _memory=int(hardware.memory()),
                        _temp_dir=str(scratch / "r"),  # which Ray opens to all
                    )
                except Exception as error:  # of many kinds, as many as there are processes
                    logger.exception("Ray doesn't start")
                    raise ConfigError(f"Ray doesn't start: {_line(error).rstrip('.')}") from error
                stack.callback(ray.shutdown)
                stack.enter_context(_ends_with_ray())
        yield there


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
        why = _nobody_listens(named, ANSWER_SECONDS) or _why_not(named)
        if why:
            raise ConfigError(
                f"RAY_ADDRESS: no Ray that can be used is at {named}: {why}; start it there, or "
                "unset RAY_ADDRESS to have one started here"
            )
        return named
    os.environ.pop("RAY_ADDRESS", None)  # empty: as if it weren't set
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    for place in dict.fromkeys(place for place in places if place):
        note = Path(place) / "ray" / "ray_current_cluster"
        try:
            owner, address = note.stat().st_uid, note.read_text(errors="replace").strip()
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


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Of host:port or ray://host:port; None if it isn't of that form."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
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


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray that is started inside listens on 127.0.0.1 alone, all of its processes. This is what it
    does by itself on macOS; elsewhere it replaces a `_node_ip_address` of loopback by another."""
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name] = "0"  # for the processes that it starts
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read the variable
    try:
        yield
    finally:
        del os.environ[name]
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_token(scratch: Path) -> Iterator[None]:
    """Ray that is started inside takes orders from this run alone, by a token that others can't
    read. By itself it keeps one in the home, which may be none, or not to be written. What the user
    has set stays."""
    name = "RAY_AUTH_TOKEN_PATH"
    if {name, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"} & os.environ.keys():
        yield
        return
    path = scratch / "token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ[name] = str(path)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.pop("RAY_AUTH_MODE", None)  # set by Ray
        AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _ends_with_ray() -> Iterator[None]:
    """Should the Ray that we started die, this process ends within a second, and says so: Ray
    itself takes up to a minute, and the log of what died for an explanation."""
    node, stop = ray._private.worker._global_node, threading.Event()
    assert node is not None

    def watch() -> None:
        while not stop.wait(RAY_WATCH_SECONDS):
            dead = [kind for kind, _ in node.dead_processes() if kind in ("raylet", "gcs_server")]
            if dead and not stop.is_set():
                logger.error("Ray has died: %s", ", ".join(dead))
                print(
                    f"\nerror: Ray has died ({dead[0]}). The same command continues",
                    file=sys.stderr,
                )
                sys.stderr.flush()
                os._exit(1)  # the lease is left: it keeps the next driver off until workers notice

    threading.Thread(target=watch, name="ray", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""The life of the Ray that a run uses: a cluster that is there is joined and left (`cluster`), else
a Ray is started on this machine, reachable from it only, that ends with the run."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from metaphase.core.cell import ConfigError
from metaphase.sweeps.execution.cluster import find_cluster
from metaphase.sweeps.execution.gpus import Gpus, ask
from metaphase.sweeps.planning import hardware
from metaphase.sweeps.planning.workers import Workers, cpu_workers, gpu_workers, gpus_here
from metaphase.sweeps.store.folders import one_line

logger = logging.getLogger(__name__)

RAY_WATCH_SECONDS = 1.0  # between looks whether our own lives
OBJECT_STORE_BYTES = 100_000_000  # nothing but the packs' settings goes through it
# Read by Ray when it starts, by Tune when it runs; what the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the kernel knows better when memory is short
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON, TensorBoard: results are Parquet
    "RAY_AIR_NEW_OUTPUT": "0",  # whose quietest level still prints tables
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `interruptible` does it
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state isn't used to go on
    "TUNE_WARN_THRESHOLD_S": "5",
}


def set_environment() -> None:
    """Sets what Ray and Tune read of the environment, unless the user has set it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_running(scratch: Path, stopping: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Connects to Ray, or starts it; disconnects or stops it in the end. Yields whether it is a
    cluster that was there before.

    Not to any Ray that runs here (Ray's "auto"): that of another sweep ends with its command.

    Args:
        scratch: folder for the files of a Ray that is started.
        stopping: says whether somebody has asked this run to stop.

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
                    raise ConfigError(f"Ray at {address}: {one_line(error)}") from error
                stack.callback(ray.shutdown)
            else:
                stack.enter_context(_on_loopback())
                stack.enter_context(_own_token(scratch))
                try:
                    ray.init(
                        address="local",
                        num_cpus=max(hardware.cores(), gpus_here()),
                        num_gpus=gpus_here(),  # Ray counts what PyTorch can't use
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        log_to_driver=False,
                        configure_logging=False,
                        _memory=int(hardware.memory()),
                        _temp_dir=str(scratch / "r"),  # which Ray opens to all
                    )
                except Exception as error:  # of many kinds, as many as there are processes
                    logger.exception("Ray doesn't start")
                    raise ConfigError(
                        f"Ray doesn't start: {one_line(error).rstrip('.')}. Nothing is lost: "
                        "the same command continues once it does"
                    ) from error
                stack.callback(ray.shutdown)
                stack.enter_context(_ends_with_ray(stopping))
        yield there


def cluster_workers(planned: int | None = None) -> tuple[Workers, Gpus | None]:
    """One worker a GPU where the cluster has some, else one a CPU core; and what is known of the
    GPUs.

    Args:
        planned: GPUs that there will be.

    Raises:
        ConfigError: a GPU can't be used (`execution.gpus`).
    """
    resources = ray.cluster_resources()
    count = int(resources.get("GPU", 0))
    gpus = ask() if count else None
    if planned or gpus:
        return gpu_workers(planned or count, gpus.memory if gpus else None), gpus
    cores = max(1, int(resources.get("CPU", 1)))
    return cpu_workers(cores, resources.get("memory", 4e9)), None


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
def _ends_with_ray(stopping: Callable[[], bool]) -> Iterator[None]:
    """Should the Ray that we started die, this process ends within a second, and says so: Ray
    itself takes up to a minute, and the log of what died for an explanation. Where somebody has
    asked to stop, Ray was told too: SIGTERM reaches the whole process group (`timeout`, `kill`)."""
    node, stop = ray._private.worker._global_node, threading.Event()
    assert node is not None

    def watch() -> None:
        while not stop.wait(RAY_WATCH_SECONDS):
            dead = [kind for kind, _ in node.dead_processes() if kind in ("raylet", "gcs_server")]
            if dead and not stop.is_set():
                logger.error("Ray has died: %s", ", ".join(dead))
                asked = stopping()
                what = "Stopped" if asked else f"error: Ray has died ({dead[0]})"
                print(f"\n{what}. The same command continues", file=sys.stderr)
                sys.stderr.flush()
                # The lease is left: it keeps the next driver off until workers notice.
                os._exit(130 if asked else 1)

    threading.Thread(target=watch, name="ray", daemon=True).start()
    try:
        yield
    finally:
        stop.set()

"""Shared by all tests: where the meta-trainer runs, and small cells that train in seconds."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch

from metaphase.core import plugins
from metaphase.core.cell import Cell

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: core.kernels

# As a worker has; what is tested is too small for more, and several test workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what tests start
os.environ.setdefault("RAY_worker_niceness", "0")  # the other test worker would have their core
torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)


@pytest.fixture(autouse=True)
def plug_ins_are_forgotten() -> Iterator[None]:
    """Those that a test loads are not among the architectures that another one goes through."""
    registries = (*plugins.REGISTRIES.values(), plugins.known)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_any_order() -> None:
    """A test draws what it draws alone, whichever ran before it in this process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is what it is in a terminal; jobs in a shell's background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


# Tests that start Ray, or look at what runs on the machine: one after the other.
_RAY = ("test_run", "test_chaos", "test_nodes", "test_loopback", "test_cluster", "test_software",
        "test_surroundings", "test_cluster_launch", "test_force", "test_secrets", "test_readme",
        "test_process", "test_benchmarks", "test_gpus")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in _RAY:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: the CPU, and a GPU where there is one."""
    return torch.device(request.param)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """An S3 on loopback with an empty bucket named "bucket": a client, and its host:port. The
    environment has credentials, and no endpoint: tests say where they want it said."""
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        # What moto holds belongs to the process and outlives its servers.
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client, f"{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for Ray's sockets, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def small_cell(**settings) -> Cell:
    """A cell of the quickstart's kind, made small; any setting can be changed."""
    defaults = {
        "image_size": 4,
        "num_classes": 5,
        "sequence_length": 8,
        "model_size": 8,
        "key_size": 4,
        "batch_size": 8,
        "steps": 20,
        "warmup_steps": 5,
        "eval_every": 10,
        "eval_sequences": 24,
        "learning_rate": 3e-3,
    }
    return Cell(**{**defaults, **settings})

"""What PyTorch can do with the GPUs that a cluster says it has.

Ray believes what it is told (`--num-gpus`, a container's variables): a GPU without a driver, with
one that is too old, or one that this PyTorch has no code for is found out before packs are planned
for it, and before a cell is blamed for it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metaphase.core import fast_paths
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.settings import as_line
from metaphase.sweeps.execution import nodes, proving

logger = logging.getLogger(__name__)

SECONDS = 120.0  # that machines may take to answer: a worker starts and imports PyTorch


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a cluster, of each machine one.

    Attributes:
        memory: bytes that the smallest leaves to a process; None: none could be asked.
        kinds: for each kind, the id of a machine that has it, and its environment
            (`sweeps.execution.proving.environment`).
    """

    memory: float | None
    kinds: Sequence[tuple[str, dict[str, str]]]


def _try_gpu() -> dict[str, Any] | str:
    """Computes on the GPU that this task has: what there is to know of it, or why it can't be
    used. A part of a GPU (MIG) is a GPU."""
    import torch

    from metaphase.core.cell import ConfigError
    from metaphase.core.devices import training_device
    from metaphase.sweeps.execution import proving

    try:
        device = training_device("cuda")
    except ConfigError as error:
        return str(error)
    return {
        "memory": float(torch.cuda.mem_get_info(device)[0]),
        "environment": proving.environment(),
        "node": ray.get_runtime_context().get_node_id(),
    }


def ask() -> Gpus:
    """The GPUs of the connected cluster.

    Raises:
        ConfigError: some can't be used, in one line: which machines', and why.
    """
    asked = nodes.ask(_try_gpu, lambda has: has.get("GPU", 0) >= 1, num_gpus=1)
    told, waiting = nodes.answers(asked, SECONDS, "a worker can't open it")
    wrong = {address: why for address, why in told if isinstance(why, str)}
    usable = [gpu for _, gpu in told if not isinstance(gpu, str)]
    for task in waiting:  # others compute on it
        ray.cancel(task, force=True)
        logger.info("GPUs of %s aren't free; they are believed to be usable", asked[task])
    if wrong:
        raise ConfigError(
            "GPUs of the cluster: "
            + "; ".join(f"{address}: {what}" for address, what in sorted(wrong.items()))
            + ". Ray counts them; start it with --num-gpus=0 there to leave them out"
        )
    kinds = {tuple(sorted(gpu["environment"].items())): gpu["node"] for gpu in usable}
    return Gpus(
        min((gpu["memory"] for gpu in usable), default=None),
        [(node, dict(environment)) for environment, node in kinds.items()],
    )


def prove(gpus: Gpus, cells: Sequence[Cell], data_root: str) -> dict[str, str]:
    """{name: why it is off; empty: it is right and faster} of the fast paths, tried on each kind of
    GPU unless that was done before. Says in a line of each what has failed.

    Raises:
        ConfigError: plain PyTorch can't train these cells there either.
    """
    verdicts: dict[str, str] = {}
    for node, environment in gpus.kinds:
        run = partial(_carry_out_there, node, environment["gpu"])
        found = proving.find_out(cells, environment, data_root, run)
        tell(found)
        for name, why in found.verdicts.items():
            verdicts[name] = why or verdicts.get(name, "")
    return verdicts


def _carry_out_there(node: str, gpu: str, task: proving.Task) -> dict[str, Any] | str:
    """Carries out a task in a process of its own on a machine of the cluster; why that failed, in
    one line. Raises ConfigError as `proving.carry_out`."""
    print(f"trying kernels on {gpu} ...", flush=True)
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1, "max_calls": 1, "max_retries": 0}
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    remote = ray.remote(**options)(proving.carry_out).options(scheduling_strategy=there)
    asked = remote.remote(task)
    try:
        told: dict[str, Any] = ray.get(asked, timeout=proving.SECONDS)
        return told
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise error.cause from None
        return f"trying them failed: {as_line(error.cause)}"
    except (ray.exceptions.RayError, TimeoutError) as error:
        ray.cancel(asked, force=True)
        return f"trying them failed: {as_line(error)}"


def tell(found: proving.Found) -> None:
    """Says on the terminal what of it has failed."""
    for name, why in found.failures.items():
        line = fast_paths.warning(name, why)
        logger.warning("%s: %s", found.environment["gpu"], line)
        print(f"{found.environment['gpu']}: {line}", file=sys.stderr, flush=True)

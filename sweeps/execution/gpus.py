"""Whether PyTorch can compute on the GPUs that a cluster says it has.

Ray believes what it is told (`--num-gpus`, a container's variables): a GPU without a driver, with
one that is too old, or one that this PyTorch has no code for is found out before packs are planned
for it, and before a cell is blamed for it.
"""

from __future__ import annotations

import logging

import ray

from metaphase.core.cell import ConfigError
from metaphase.sweeps.execution import nodes

logger = logging.getLogger(__name__)

SECONDS = 120.0  # that machines may take to answer: a worker starts and imports PyTorch


def _try_gpu() -> float | str:
    """Computes on the GPU that this task has: bytes of its memory, or why it can't be used."""
    import torch

    from metaphase.core.cell import ConfigError
    from metaphase.core.devices import training_device

    try:
        device = training_device("cuda")
    except ConfigError as error:
        return str(error)
    return float(torch.cuda.get_device_properties(device).total_memory)


def gpu_memory() -> float | None:
    """Bytes of the smallest GPU of those that were tried, one a machine; None where none was free.

    Raises:
        ConfigError: some can't be used, in one line: which machines', and why.
    """
    asked = nodes.ask(_try_gpu, lambda has: has.get("GPU", 0) >= 1, num_gpus=1)
    told, waiting = nodes.answers(asked, SECONDS, "a worker can't open it")
    wrong = {address: why for address, why in told if isinstance(why, str)}
    memories = [memory for _, memory in told if not isinstance(memory, str)]
    for task in waiting:  # others compute on it
        ray.cancel(task, force=True)
        logger.info("GPUs of %s aren't free; they are believed to be usable", asked[task])
    if wrong:
        raise ConfigError(
            "GPUs of the cluster: "
            + "; ".join(f"{address}: {what}" for address, what in sorted(wrong.items()))
            + ". Ray counts them; start it with --num-gpus=0 there to leave them out"
        )
    return min(memories, default=None)

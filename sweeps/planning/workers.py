"""The workers that train packs side by side: how many, how fast, and with how much memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import Cell, grouped, stack_key, stream_key
from metaphase.sweeps.planning import hardware

GPU_MEMORY = 15e9  # assumed where it can't be asked: the smallest cloud GPUs have 16 GB
FEWEST, MOST = 2, 16  # cells of a round for each worker
MEMORY_SHARE = 0.8  # of a worker's memory that a pack may fill by estimate


@dataclass(frozen=True)
class Workers:
    """What trains packs side by side. The defaults were measured on one CPU core, widths 4 to 32.

    Attributes:
        count: workers that run at the same time.
        device: torch device of each, "cpu" or "cuda".
        memory: bytes each has for a pack.
        flops: floating-point operations a second that training reaches.
        step_seconds: what a step of a stacked model takes however small it is: launches, Python.
        example_seconds: what an example takes however narrow the model: drawing it, attention.
        normal_seconds: what a normal takes to draw.
    """

    count: int
    device: str = "cpu"
    memory: float = 4e9
    flops: float = 1.3e11
    step_seconds: float = 1.2e-3
    example_seconds: float = 1.2e-6
    normal_seconds: float = 1.3e-9

    def seconds(self, cells: Sequence[Cell], from_step: int = 0) -> float:
        """Estimated seconds to train a pack of these cells to their end; of those that are there
        and lack their last evaluation alone, a step's."""
        from metaphase.core.training import cost

        step = 0.0
        for stack in grouped(cells, stack_key).values():
            cell = stack[0]
            slowness = ARCHITECTURES[cell.architecture].slowness
            step += (self.step_seconds + len(stack) * self._replica_seconds(cell)) * slowness
        streams = len({stream_key(cell) for cell in cells})
        step += streams * cost.input_flops(cells[0]) / self.flops
        step += cost.normals_per_step(cells, self.device) * self.normal_seconds
        return max(cells[0].steps - from_step, 1) * step

    def _replica_seconds(self, cell: Cell) -> float:
        """Of a step, what one more cell of a shape adds, as fast as a Transformer is, but for its
        batches."""
        from metaphase.core.training import cost

        examples = cell.batch_size * cell.sequence_length
        flops = cost.flops_per_step(cell) - cost.input_flops(cell)
        return examples * self.example_seconds + flops / self.flops

    def round_of(self, cells: Sequence[Cell]) -> int:
        """How many of these cells are best given to all workers at once: to each as many as take as
        long, in most packs, as what a step takes however few they are. So more are nearly free."""
        alone = [self.step_seconds / self._replica_seconds(cell) for cell in cells]
        return max(1, self.count) * min(max(FEWEST, round(statistics.median(alone))), MOST)

    def hold(self, cells: Sequence[Cell]) -> bool:
        """Whether a worker's memory is enough for a pack of these cells."""
        from metaphase.core.training.cost import pack_bytes

        return pack_bytes(cells, self.device) <= MEMORY_SHARE * self.memory


def local_workers() -> Workers:
    """What Ray would find if it were started here; without starting it."""
    count = gpus_here()
    if count:
        import torch

        whole = (torch.cuda.get_device_properties(i).total_memory for i in range(count))
        return gpu_workers(count, float(min(whole)))
    return cpu_workers(hardware.cores(), hardware.memory())


def gpus_here() -> int:
    """GPUs of this machine that PyTorch can use: none without a driver that it takes, or in a build
    for CPUs. A part of a GPU (MIG) counts as one; what the environment hides doesn't count."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cpu_workers(cores: int, memory: float) -> Workers:
    """One worker a core; they share `memory`, in bytes."""
    return Workers(count=cores, memory=memory / cores)


def gpu_workers(count: int, memory: float | None = None) -> Workers:
    """One worker a GPU. Speeds are estimates for one of about 2022, from operations and bytes
    (core.kernels): none has been measured yet.

    Args:
        memory: bytes of each; None: GPU_MEMORY.
    """
    return Workers(
        count,
        "cuda",
        GPU_MEMORY if memory is None else memory,
        flops=1e14,
        step_seconds=5e-4,
        example_seconds=0.0,
        normal_seconds=1.4e-12,
    )

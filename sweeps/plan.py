"""Which cells are trained together, and in which order.

A pack is trained by one worker as one stacked model. Large packs save overhead, many packs keep
all workers busy to the end; `plan` simulates the schedule for a few sizes and takes the shortest.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.config import Cell, pack_key

TRIAL_SECONDS = 0.1  # what Ray Tune adds to a pack, workers being reused; measured on 2 cores: 0.05
UNCERTAINTY = 0.2  # by which estimates are off; what the last packs may idle the other workers
GPU_MEMORY = 15e9  # assumed where it can't be asked: the smallest cloud GPUs have 16 GB
MEMORY_SHARE = 0.8  # of a worker's memory that a pack may fill by estimate
# By which a step takes longer than its operations say, where these are many small ones; measured on
# one CPU core, widths 8 to 32, packs of 1 and 6.
SLOWNESS = {"fast_weights": 4.0, "linear_attention": 2.5, "lstm": 2.5}


@dataclass(frozen=True)
class Workers:
    """What trains packs side by side. The defaults were measured on one CPU core, widths 4 to 32.

    Attributes:
        count: workers that run at the same time.
        device: torch device of each, "cpu" or "cuda".
        memory: bytes each has for a pack.
        flops: floating-point operations a second that training reaches.
        step_seconds: what a step takes however small the pack: launches, Python.
        example_seconds: what an example takes however narrow the model: drawing it, attention.
    """

    count: int
    device: str = "cpu"
    memory: float = 4e9
    flops: float = 1.3e11
    step_seconds: float = 1.2e-3
    example_seconds: float = 1.2e-6

    def seconds(self, cell: Cell, replicas: int, from_step: int = 0) -> float:
        """Estimated seconds to train a pack of `replicas` cells like this one to its end."""
        from core.cost import flops_per_step

        examples = cell.batch_size * cell.sequence_length
        replica = examples * self.example_seconds + flops_per_step(cell) / self.flops
        step = (self.step_seconds + replicas * replica) * SLOWNESS.get(cell.architecture, 1.0)
        return (cell.steps - from_step) * step

    def most_replicas(self, cell: Cell) -> int:
        """The most cells like this one that fit into a worker's memory; at least 1."""
        from core.cost import replica_bytes

        return max(1, int(MEMORY_SHARE * self.memory / replica_bytes(cell)))


@dataclass(frozen=True)
class Pack:
    """Cells to be trained together: equal `pack_key`, all at checkpoint `step`.

    `seconds` is the estimate by which packs are ordered; only its ratios mean something.
    """

    cells: tuple[Cell, ...]
    step: int
    seconds: float


def plan(
    cells: Iterable[Cell],
    workers: Workers,
    checkpoint_steps: Mapping[str, int] | None = None,
    pack_size: int | None = None,
) -> list[Pack]:
    """Packs that hold every one of `cells` once, dearest first.

    Args:
        cells: what is to be trained.
        workers: what there is to train it.
        checkpoint_steps: {cell_id: step of its newest checkpoint}; 0 where it has none.
        pack_size: the most cells in a pack; None: what memory and balance allow.
    """
    steps = checkpoint_steps or {}
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[(pack_key(cell), min(steps.get(cell.cell_id, 0), cell.steps))].append(cell)
    if not groups:
        return []

    sized = []  # (cells, step, seconds of one cell alone, most cells in a pack)
    for (_, step), group in groups.items():
        # Neighbours share a stream of sequences, if anything does.
        group.sort(key=lambda c: (c.seed, c.num_tasks, c.learning_rate))
        limit = min(workers.most_replicas(group[0]), pack_size or len(group), len(group))
        sized.append((group, step, workers.seconds(group[0], 1, step), limit))

    total = sum(len(group) * seconds for group, _, seconds, _ in sized)
    candidates = []
    for parts in (1, 2, 3, 4, 6, 8):
        # No pack longer than 1/parts of a worker's share of all the work.
        longest = total / (workers.count * parts) if workers.count > 1 else math.inf
        packs = []
        for group, step, seconds, limit in sized:
            size = max(1, min(limit, round(longest / seconds) if longest < math.inf else limit))
            packs += [
                Pack(tuple(part), step, workers.seconds(part[0], len(part), step))
                for part in _split(group, math.ceil(len(group) / size))
            ]
        packs.sort(key=lambda pack: -pack.seconds)
        candidates.append(packs)
        if workers.count == 1:
            break
    return min(candidates, key=lambda packs: makespan(packs, workers.count))


def makespan(packs: Sequence[Pack], workers: int) -> float:
    """Estimated seconds until all packs are trained, each worker taking the next when free, with
    an allowance for the estimates of the packs that come last."""
    free = [(0.0, 0.0)] * min(workers, max(1, len(packs)))  # (when free, the last pack's seconds)
    for pack in packs:
        heapq.heapreplace(free, (free[0][0] + pack.seconds + TRIAL_SECONDS, pack.seconds))
    return max(free)[0] + UNCERTAINTY * max(last for _, last in free)


def _split(cells: Sequence[Cell], parts: int) -> list[Sequence[Cell]]:
    """`parts` runs of consecutive cells whose lengths differ by at most one."""
    bounds = [round(i * len(cells) / parts) for i in range(parts + 1)]
    return [cells[a:b] for a, b in itertools.pairwise(bounds)]


def local_workers() -> Workers:
    """What Ray would find if it were started here; without starting it."""
    import torch

    if torch.cuda.is_available():
        return gpu_workers(torch.cuda.device_count())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Workers(count=cores or 1, memory=memory / (cores or 1))


def gpu_workers(count: int) -> Workers:
    """One worker a GPU, as far as known like those of this machine."""
    return Workers(count, "cuda", _gpu_memory(), flops=2e13, step_seconds=2e-3, example_seconds=0.0)


def _gpu_memory() -> float:
    """Bytes of the smallest GPU of this machine, without opening it."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return min(float(line) for line in told.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return GPU_MEMORY

"""Which cells are trained together, and in which order.

A pack is trained by one worker, step by step on the same batches, the cells of a shape as one
stacked model. Large packs save overhead, many packs keep all workers busy to the end; packs of many
shapes make each sequence once for all of them, packs of one shape are finished one after the other.
`plan` simulates the schedule for a few choices and takes the shortest.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from metaphase.core.cell import Cell, grouped, pack_key, stack_key, stream_key
from metaphase.sweeps.planning.workers import Workers

TRIAL_SECONDS = 0.1  # what Ray Tune adds to a pack, workers being reused; measured on 2 cores: 0.05
UNCERTAINTY = 0.2  # by which estimates are off; what the last packs may idle the other workers
# Packs of many shapes must save this share of the time: their cells are all finished at the end.
LEAST_GAIN = 0.02


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
    in_order = sorted(cells, key=lambda c: (*stream_key(c), c.learning_rate))
    groups = grouped(in_order, lambda c: (pack_key(c), min(steps.get(c.cell_id, 0), c.steps)))
    if not groups:
        return []

    def fits(cells: Sequence[Cell]) -> bool:
        return len(cells) <= (pack_size or len(cells)) and workers.hold(cells)

    apart: list[Units] = []
    together: list[Units] = []
    for (_, step), group in groups.items():
        apart += [_of_shape(step, cells) for cells in grouped(group, stack_key).values()]
        together += _sharing(step, group, fits)
    best = _shortest(apart, workers, fits)
    if together == apart:
        return best
    shared = _shortest(together, workers, fits)
    allowed = (1 - LEAST_GAIN) * makespan(best, workers.count)
    return shared if makespan(shared, workers.count) <= allowed else best


@dataclass(frozen=True)
class Units:
    """What packs are made of, each of a run of them: cells of a shape, or streams with all cells
    that see them.

    Attributes:
        step: the checkpoint that all cells are at.
        units: cells, never divided between packs.
    """

    step: int
    units: list[list[Cell]]


def _of_shape(step: int, cells: Iterable[Cell]) -> Units:
    return Units(step, [[cell] for cell in cells])


def _sharing(step: int, group: list[Cell], fits: Callable[[Sequence[Cell]], bool]) -> list[Units]:
    """Streams of the cells of as many shapes as fit, and the others by shape, the largest ones."""
    shapes = sorted(grouped(group, stack_key).values(), key=lambda cells: cells[0].model_size)
    large: list[Units] = []
    while len(shapes) > 1:
        small = {stack_key(cells[0]) for cells in shapes}
        seeing = (cell for cell in group if stack_key(cell) in small)
        streams = list(grouped(seeing, stream_key).values())
        if all(map(fits, streams)):
            return [Units(step, streams), *large]
        large.append(_of_shape(step, shapes.pop()))
    return [*(_of_shape(step, cells) for cells in shapes), *large]


def _shortest(
    groups: Sequence[Units], workers: Workers, fits: Callable[[Sequence[Cell]], bool]
) -> list[Pack]:
    """Of plans with packs of different sizes the one that is done first; its dearest pack first."""
    group_seconds = [sum(workers.seconds(unit, g.step) for unit in g.units) for g in groups]
    total = sum(group_seconds)
    candidates = []
    for parts in (1, 2, 3, 4, 6, 8):
        # No pack longer than 1/parts of a worker's share of all the work.
        longest = total / (workers.count * parts)
        packs = []
        for group, seconds in zip(groups, group_seconds, strict=True):
            most = len(group.units)
            size = max(1, min(round(longest * most / seconds), most))
            packs += [
                Pack(tuple(cells), group.step, workers.seconds(cells, group.step))
                for cells in _packed(group.units, size, fits)
            ]
        packs.sort(key=lambda pack: -pack.seconds)
        candidates.append(packs)
    return min(candidates, key=lambda packs: makespan(packs, workers.count))


def _packed(
    units: Sequence[list[Cell]], size: int, fits: Callable[[Sequence[Cell]], bool]
) -> list[list[Cell]]:
    """Packs of consecutive units, as equal as can be, of `size` units or as few as fit."""
    parts = math.ceil(len(units) / size)
    while True:
        packs = [[c for unit in run for c in unit] for run in _split(units, parts)]
        if parts == len(units) or all(map(fits, packs)):
            return packs
        parts = min(len(units), parts + max(1, parts // 8))


def too_large(cells: Iterable[Cell], workers: Workers) -> list[str]:
    """A line about the cells of each shape that, alone, need more memory than a worker has."""
    from metaphase.core.training.cost import pack_bytes

    lines = []
    for alike in grouped(cells, stack_key).values():
        needed = pack_bytes(alike[:1], workers.device)
        if needed > workers.memory:
            cell = alike[0]
            lines.append(
                f"{len(alike)} cells ({cell.architecture}, model_size {cell.model_size}, "
                f"batch_size {cell.batch_size}) need {needed / 1e9:.1f} GB each, and a worker has "
                f"{workers.memory / 1e9:.1f}"
            )
    return lines


def makespan(packs: Sequence[Pack], workers: int) -> float:
    """Estimated seconds until all packs are trained, each worker taking the next when free, with
    an allowance for the estimates of the packs that come last."""
    free = [(0.0, 0.0)] * min(workers, max(1, len(packs)))  # (when free, the last pack's seconds)
    for pack in packs:
        heapq.heapreplace(free, (free[0][0] + pack.seconds + TRIAL_SECONDS, pack.seconds))
    idle = UNCERTAINTY * max(last for _, last in free) if workers > 1 else 0.0
    return max(free)[0] + idle


def _split(units: Sequence[list[Cell]], parts: int) -> list[Sequence[list[Cell]]]:
    """`parts` runs of consecutive units whose lengths differ by at most one."""
    bounds = [round(i * len(units) / parts) for i in range(parts + 1)]
    return [units[a:b] for a, b in itertools.pairwise(bounds)]

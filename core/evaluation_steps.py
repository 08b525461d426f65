"""At which steps a cell is evaluated."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

MAX_EVALUATIONS = 10**5  # of a cell: its history is kept in memory


@functools.lru_cache(maxsize=64)
def evaluation_steps(every: int, growth: float, steps: int) -> Sequence[int]:
    """The steps after which a cell is evaluated, ascending, the last of them `steps`.

    The first is `every`, and each is followed by the larger of `every` steps more and `growth`
    times as many steps, rounded: evenly spaced until they are every / (growth - 1), then in
    proportion. What comes before `steps` doesn't depend on it.
    """
    if growth == 1:
        return (*range(every, steps, every), steps)
    return (*itertools.takewhile(lambda step: step < steps, _growing(every, growth)), steps)


def count_evaluations(every: int, growth: float, steps: int) -> int:
    """How many `evaluation_steps` there are; of distances that grow at most `MAX_EVALUATIONS` + 1
    are counted."""
    if growth == 1:
        return -(-steps // every)
    within = itertools.takewhile(lambda step: step < steps, _growing(every, growth))
    return 1 + sum(1 for _ in itertools.islice(within, MAX_EVALUATIONS))


def _growing(every: int, growth: float) -> Iterator[int]:
    step = every
    while True:
        yield step
        step = max(step + every, round(step * growth))

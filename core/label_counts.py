"""What can be predicted without looking at the inputs: the level that learning has to beat.

Classes of a sequence are drawn independently with known shares p, and on a new task a uniform
permutation rho says which label a class has. What a predictor without inputs can use are the labels
before a position. Exchanging two labels exchanges two equally likely permutations, so the label
seen more often is at least as likely to be of the commoner class: naming the commonest label so far
(any of those that tie) is right most often. With equal shares it is right once in C everywhere.
Where the classes are known, or after very many labels, it names the commonest class.

Importing this module imports NumPy alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from metaphase.core.datasets import DATASETS

LAST_SHARE = 0.1  # `last` is the mean over the last tenth of the positions, at least one
SEQUENCES = 2**14  # simulated where classes are unequal; see `expected_accuracy`


def last_positions(length: int) -> int:
    """How many positions of a sequence the last tenth is."""
    return math.ceil(LAST_SHARE * length)


@functools.lru_cache(maxsize=64)
def expected_accuracy(counts: tuple[int, ...], length: int) -> tuple[float, ...]:
    """Of naming the commonest label so far, on new tasks, at each of `length` positions.

    Exact where all classes are equal. Else a mean over `SEQUENCES` simulated sequences, always the
    same ones, of the probability of being right given the labels before: the mean share of the
    classes that tie. Its error is at most half of the largest minus the smallest share, over
    sqrt(SEQUENCES): 0.0006 for SVHN.

    Args:
        counts: images of each class, or any numbers in proportion to the classes' shares.
    """
    p_C = np.array(counts, dtype=float) / sum(counts)
    if len(set(counts)) == 1:
        return (1.0 / len(counts),) * length
    uniform_TxN = np.random.Generator(np.random.Philox(0)).random((length, SEQUENCES))
    class_TxN = np.searchsorted(p_C.cumsum()[:-1], uniform_TxN, side="right")
    seen_NxC, every_N = np.zeros((SEQUENCES, len(counts)), dtype=np.int32), np.arange(SEQUENCES)
    accuracy = []
    for class_N in class_TxN:
        best_NxC = seen_NxC == seen_NxC.max(axis=1, keepdims=True)
        accuracy.append(float((best_NxC @ p_C / best_NxC.sum(axis=1)).mean()))
        seen_NxC[every_N, class_N] += 1
    return tuple(accuracy)


def level(counts: tuple[int, ...], length: int) -> float:
    """`expected_accuracy` over the last tenth of the positions."""
    accuracy = expected_accuracy(counts, length)[-last_positions(length) :]
    return math.fsum(accuracy) / len(accuracy)


def guess_loss(counts: Sequence[int]) -> float:
    """The least mean cross-entropy without inputs, nats: the entropy of the classes' shares. It
    takes knowing each task's permutation; without, at most ln C is lost."""
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


def known_level(dataset: str, num_classes: int, length: int, chance: float) -> float:
    """The level of new tasks where results don't say it: those of programs that didn't store it.

    1 / num_classes where the commonest class's share is that; else the level of the dataset's
    held-out images if their classes are known (`core.datasets.DATASETS`) and have this chance; else
    `chance`, which the level never exceeds, so that no cell is called generalizing too easily.

    Args:
        chance: the commonest class's share of the held-out images.
    """
    counts = _known_counts(dataset, num_classes, chance)
    return chance if counts is None else level(counts, length)


def level_on(dataset: str, num_classes: int, length: int) -> float:
    """The level of new tasks on the held-out images of a dataset that may be another one than a
    model was trained on; NaN where its classes' shares are unknown."""
    info = DATASETS.get(dataset)
    if info is None or num_classes > info.num_classes:
        return math.nan
    return level(info.heldout_counts[:num_classes] or (1,) * num_classes, length)


def known_guess_loss(dataset: str, num_classes: int, chance: float) -> float:
    """`guess_loss` where results don't say it, found as `known_level` is; ln(num_classes), the most
    that it can be, where classes are unknown."""
    counts = _known_counts(dataset, num_classes, chance)
    return math.log(num_classes) if counts is None else guess_loss(counts)


def _known_counts(dataset: str, num_classes: int, chance: float) -> tuple[int, ...] | None:
    if math.isclose(chance, 1 / num_classes, rel_tol=1e-9):
        return (1,) * num_classes
    info = DATASETS.get(dataset)
    counts = info.heldout_counts[:num_classes] if info else ()
    fits = len(counts) == num_classes and math.isclose(max(counts) / sum(counts), chance)
    return counts if fits else None

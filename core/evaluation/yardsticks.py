"""Yardsticks: how well do known learning algorithms predict on the very sequences a model sees?

At position t each is fitted, from nothing, to the t - 1 examples before it and predicts the t-th
label, for all sequences at once. They know nothing of the other sequences, as a general learner
would.

All but the MLP depend on inputs through their inner products alone, and the MLP's initial weights
are isotropic, so inputs longer than a sequence are replaced by their T coordinates in the space
that the sequence's inputs span: the same predictions (for the MLP: in distribution), less work.
Inputs are divided by sqrt(X), so that an input's expected squared length is about 1.

Axes beside the usual ones: P positions that are evaluated, Z coordinates of an input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import Cell
from metaphase.core.datasets.images import CellImages
from metaphase.core.evaluation import classifiers
from metaphase.core.tasks.sampler import Sampler

NEAREST, RIDGE, LOGISTIC, MLP, LABEL_COUNTS, CHANCE = YARDSTICKS = (
    "nearest_neighbour",
    "ridge",
    "logistic",
    "mlp",
    "label_counts",
    "chance",
)

# What results depend on beside the sequences: a change makes new files
# (sweeps.commands.yardsticks).
CONSTANTS = {
    "yardsticks": list(YARDSTICKS),
    "ridge_alpha": classifiers.RIDGE_ALPHA,
    "logistic_lambda": classifiers.LOGISTIC_LAMBDA,
    "mlp": [
        classifiers.MLP_HIDDEN,
        classifiers.MLP_STEPS,
        classifiers.MLP_RATE,
        classifiers.MLP_MOMENTUM,
    ],
}

CHUNK = 2**26  # numbers in the largest tensor that a chunk of sequences may need
DENSE, FURTHER = 8, 12  # positions up to the 8th are all evaluated, of the others 12 at most


def positions(length: int) -> list[int]:
    """The positions of a sequence that are evaluated, from 1: all of the first 8, then at most 12
    more, evenly spaced and counted back from the last; all if there are at most 20."""
    spacing = max(1, -(-(length - DENSE) // FURTHER))
    return [*range(1, min(DENSE, length) + 1), *range(length, DENSE, -spacing)[::-1]]


def initial_weights(seed: int, sequence_B: Tensor, size: int) -> Tensor:
    """w_BxXxM: the MLP's first hidden weights for each sequence, N(0, 2) because inputs have length
    1 (He et al. 2015). They are the same at every position, so that a curve is of one network."""
    low_B, high_B = sequence_B & 0xFFFFFFFF, torch.zeros_like(sequence_B)
    normal_BxXxM = rng.normal_matrix(
        torch.full_like(sequence_B, seed),
        rng.YARDSTICK,
        size,
        classifiers.MLP_HIDDEN,
        low_B,
        high_B,
    )
    return normal_BxXxM * math.sqrt(2.0)


def coordinates(x_BxTxX: Tensor) -> Tensor:
    """z_BxTxZ: inputs / sqrt(X) in at most T coordinates, with the lengths and angles within each
    sequence that they had."""
    T, X = x_BxTxX.shape[1:]
    x_BxTxX = x_BxTxX.float() / math.sqrt(X)
    return x_BxTxX if X <= T else torch.linalg.qr(x_BxTxX.mT, mode="r").R.mT


def correct_predictions(
    x_BxTxX: Tensor, y_BxT: Tensor, num_classes: int, seed: int, sequence_B: Tensor
) -> dict[str, Tensor]:
    """correct_BxP of each yardstick but chance, bool, at the P positions(T).

    At position 1, where there is nothing to fit, all name class 0: right once in num_classes.
    """
    z_BxTxZ = coordinates(x_BxTxX)
    w1_BxZxM = initial_weights(seed, sequence_B, z_BxTxZ.shape[2])
    algorithms: dict[str, Callable[..., Tensor]] = {
        NEAREST: classifiers.nearest_neighbour,
        RIDGE: classifiers.ridge,
        LOGISTIC: classifiers.logistic,
        MLP: functools.partial(classifiers.mlp, w1_BxXxM=w1_BxZxM),
        LABEL_COUNTS: classifiers.label_counts,
    }
    correct: dict[str, list[Tensor]] = {name: [] for name in algorithms}
    for position in positions(y_BxT.shape[1]):
        n, label_B = position - 1, y_BxT[:, position - 1]  # n examples are seen
        for name, scores in algorithms.items():
            guess_B = torch.zeros_like(label_B)
            if n:
                examples = (z_BxTxZ[:, :n], y_BxT[:, :n], z_BxTxZ[:, n], num_classes)
                guess_B = scores(*examples).argmax(dim=1)
            correct[name].append(guess_B == label_B)
    return {name: torch.stack(columns, dim=1) for name, columns in correct.items()}


def evaluate(cell: Cell, images: CellImages, split: str) -> list[dict[str, Any]]:
    """Every yardstick's accuracy on a split's evaluation sequences of a cell.

    Args:
        cell: its settings of the model, its size and its training have no influence.
        images: the cell's, on the device that computes.
        split: of `Sampler.evaluation_batch`.

    Returns:
        A row for each yardstick and position: yardstick, position, accuracy, accuracy_se, n.
    """
    parts: dict[str, list[Tensor]] = {}
    for sequence_B, x_BxTxX, y_BxT in _sequences(cell, images, split):
        found = correct_predictions(x_BxTxX, y_BxT, cell.num_classes, cell.seed, sequence_B)
        for name, correct_BxP in found.items():
            parts.setdefault(name, []).append(correct_BxP.cpu())
    rows = []
    at, n = positions(cell.sequence_length), cell.eval_sequences
    for name, chunks in parts.items():
        accuracy_P = torch.cat(chunks).double().mean(dim=0)
        error_P = (accuracy_P * (1.0 - accuracy_P) / (n - 1)).sqrt()  # sample deviation / sqrt(n)
        points = zip(at, accuracy_P.tolist(), error_P.tolist(), strict=True)
        rows += [_row(name, *point, n) for point in points]
    other = split.partition("/")[2]
    source = images.train if split == schema.TRAIN else images.heldout
    share = (images.unseen[other] if other else source).commonest_class_share()
    return rows + [_row(CHANCE, position, share, 0.0, n) for position in at]


def _row(name: str, position: int, accuracy: float, error: float, n: int) -> dict[str, Any]:
    return {
        "yardstick": name, "position": position, "accuracy": accuracy, "accuracy_se": error, "n": n,
    }  # fmt: skip


def _sequences(
    cell: Cell, images: CellImages, split: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Numbers, inputs and labels of all evaluation sequences, in chunks that fit in memory."""
    sampler = Sampler([cell], images)
    device, T, X = images.heldout.y_I.device, cell.sequence_length, cell.input_size
    features = min(T, X)
    largest = max(X * X, T * X, features * classifiers.MLP_HIDDEN, (features + 1) ** 2)
    for sequence_B in torch.arange(cell.eval_sequences, device=device).split(CHUNK // largest + 1):
        batch = sampler.evaluation_batch(split, sequence_B)
        yield sequence_B, batch.x_RxBxTxX[0], batch.y_RxBxT[0]

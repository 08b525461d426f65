"""Yardsticks on task families without images: nearest neighbour and ridge regression where targets
are real, those of images where inputs have classes, and counts of one and of two symbols where
there are no inputs.

As those of `core.evaluation.yardsticks` they are fitted to the examples before a position alone. Of
a real target `accuracy` is `core.tasks.targets.score`. What a family itself knows of its best
algorithms is more: its predictors (`core.predictors`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metaphase.core.cell import Cell
from metaphase.core.evaluation import classifiers
from metaphase.core.evaluation.yardsticks import (
    CHANCE,
    LABEL_COUNTS,
    NEAREST,
    RIDGE,
    correct_predictions,
    positions,
)
from metaphase.core.problem import Classes
from metaphase.core.tasks.sequences import open_sequences
from metaphase.core.tasks.targets import score

BIGRAMS = "bigram_counts"
_SEQUENCES_AT_ONCE = 256


def evaluate_family(cell: Cell, split: str, device: torch.device | str) -> list[dict[str, Any]]:
    """Every yardstick's accuracy on a split's evaluation sequences, rows as those of
    `core.evaluation.yardsticks.evaluate`."""
    sequences = open_sequences([cell], "", device)
    parts: dict[str, list[Tensor]] = {}
    for sequence_B in torch.arange(cell.eval_sequences, device=device).split(_SEQUENCES_AT_ONCE):
        batch = sequences.evaluation_batch(split, sequence_B)
        x_BxTxX, y_B = batch.x_RxBxTxX[0], batch.y_RxBxT[0]
        if not isinstance(cell.problem.target, Classes):
            found = _scores(cell, x_BxTxX, y_B)
        elif cell.problem.features:
            count = cell.problem.target.count
            found = correct_predictions(x_BxTxX, y_B, count, cell.seed, sequence_B)
        else:
            found = _counts(y_B, cell.problem.target.count)
        for name, score_BxP in found.items():
            parts.setdefault(name, []).append(score_BxP.double().cpu())
    rows, n = [], cell.eval_sequences
    for name, chunks in parts.items():
        score_ExP = torch.cat(chunks)
        error_P = score_ExP.std(dim=0) / math.sqrt(n)
        rows += _rows(cell, name, score_ExP.mean(dim=0).tolist(), error_P.tolist())
    points = len(positions(cell.sequence_length))
    return rows + _rows(cell, CHANCE, [sequences.levels.chance] * points, [0.0] * points)


def _rows(
    cell: Cell, name: str, accuracy_P: list[float], error_P: list[float]
) -> list[dict[str, Any]]:
    points = zip(positions(cell.sequence_length), accuracy_P, error_P, strict=True)
    return [
        {"yardstick": name, "position": t, "accuracy": a, "accuracy_se": e}
        | {"n": cell.eval_sequences}
        for t, a, e in points
    ]


def _scores(cell: Cell, x_BxTxX: Tensor, y_BxTxN: Tensor) -> dict[str, Tensor]:
    """score_BxP of estimates of real targets; where nothing was seen, of 0."""
    target = cell.problem.target
    assert not isinstance(target, Classes)
    x_BxTxX = x_BxTxX / math.sqrt(cell.problem.features)
    found: dict[str, list[Tensor]] = {NEAREST: [], RIDGE: []}
    every_B = torch.arange(len(y_BxTxN), device=y_BxTxN.device)
    for position in positions(cell.sequence_length):
        n = position - 1
        y_BxN, seen = y_BxTxN[:, n], (x_BxTxX[:, :n], y_BxTxN[:, :n], x_BxTxX[:, n])
        nearest = ridge = torch.zeros_like(y_BxN)
        if n:
            nearest = y_BxTxN[every_B, classifiers.nearest(seen[0], seen[2])]
            ridge = classifiers.ridge_estimates(*seen)
        found[NEAREST].append(score(target, nearest, y_BxN))
        found[RIDGE].append(score(target, ridge, y_BxN))
    return {name: torch.stack(columns, dim=1) for name, columns in found.items()}


def _counts(y_BxT: Tensor, count: int) -> dict[str, Tensor]:
    """correct_BxP of naming the symbol that came most often, at all or after the last one; where
    nothing was seen, symbol 0."""
    found: dict[str, list[Tensor]] = {LABEL_COUNTS: [], BIGRAMS: []}
    for position in positions(y_BxT.shape[1]):
        n, y_B = position - 1, y_BxT[:, position - 1]
        one = two = torch.zeros_like(y_B)
        if n:
            one = torch.nn.functional.one_hot(y_BxT[:, :n], count).sum(dim=1).argmax(dim=1)
            two = classifiers.bigram_counts(y_BxT[:, :n], count).argmax(dim=1)
        found[LABEL_COUNTS].append(one == y_B)
        found[BIGRAMS].append(two == y_B)
    return {name: torch.stack(columns, dim=1) for name, columns in found.items()}

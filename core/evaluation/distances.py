"""How far a model's predictions are from those of its family's predictors, on the same sequences.

For real targets a distance is the mean squared difference of their numbers (Raventos et al. 2023,
section 3), for classes the symmetrized Kullback-Leibler divergence in nats, half the sum of both
directions (Wurgaft et al. 2025, section 3). The relative distance says where a model is between M
and G: the w of the point (1 - w) M + w G that is nearest to it, 0 at M and 1 at G; beside it stands
how far off this line the model is (docs/definitions.md).

A replica is looked at alone, in float64 and in memory of its own, so that no bit depends on its
pack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metaphase.core.evaluation.predictions import Predicted
from metaphase.core.predictors import GENERALIZING, MEMORIZING
from metaphase.core.problem import Classes, Reals
from metaphase.core.schema import OFF_LINE, RELATIVE, with_standard_errors

_OF_BOTH = ("distance_difference", "distance_between", RELATIVE)
_BOTH = {MEMORIZING, GENERALIZING}
# M and G aren't told apart where the 95% interval of w, as wide as it would be without bounds, is
# wider than the line from one to the other.
_NORMAL_95 = 1.959964
_NEWTON_STEPS = 50  # at most; 5 to 8 are needed
_NEWTON_ERROR = 1e-9


@dataclass(frozen=True)
class Distances:
    """A replica on a split of E sequences.

    Attributes:
        value_E: by column, a number for each sequence; the tables have means and errors.
        plain: by column, numbers that stand for all sequences; None: it can't be told.
    """

    value_E: dict[str, Tensor]
    plain: dict[str, float | None]


def distances(target: Classes | Reals, outputs_ExTxN: Tensor, predicted: Predicted) -> Distances:
    """What is measured of a replica's outputs: logits, or estimates; float32."""
    model, points = _points(target, outputs_ExTxN, predicted)
    value_E = {f"distance_{name}": model.to(p).mean(dim=1) for name, p in points.items()}
    plain: dict[str, float | None] = {
        f"loss_{name}": p.loss(predicted.y).mean().item() for name, p in points.items()
    }
    untold = [name for name in predicted.of if name not in points]
    plain |= dict.fromkeys(f"loss_{name}" for name in untold)
    plain |= dict.fromkeys(with_standard_errors(tuple(f"distance_{name}" for name in untold)))
    if not predicted.of.keys() >= _BOTH:
        return Distances(value_E, plain)
    if not points.keys() >= _BOTH:
        plain |= dict.fromkeys((*with_standard_errors(_OF_BOTH), OFF_LINE))
    else:
        m, g = points[MEMORIZING], points[GENERALIZING]
        value_E["distance_difference"] = (
            value_E[f"distance_{MEMORIZING}"] - value_E[f"distance_{GENERALIZING}"]
        )
        value_E["distance_between"] = m.to(g).mean(dim=1)
        plain[RELATIVE], plain[f"{RELATIVE}_se"], plain[OFF_LINE] = nearest(model, m, g)
    return Distances(value_E, plain)


def by_position(
    target: Classes | Reals, outputs_ExTxN: Tensor, predicted: Predicted
) -> list[dict[str, float | None]]:
    """A replica's columns of the curves table, for each position."""
    model, points = _points(target, outputs_ExTxN, predicted)
    columns = {"loss": model.loss(predicted.y)}
    columns |= {f"loss_{name}": p.loss(predicted.y) for name, p in points.items()}
    columns |= {f"distance_{name}": model.to(p) for name, p in points.items()}
    both = points.keys() >= _BOTH
    if both:
        columns["distance_between"] = points[MEMORIZING].to(points[GENERALIZING])
    means = {name: column_ExT.mean(dim=0).tolist() for name, column_ExT in columns.items()}
    rows: list[dict[str, float | None]] = []
    for t in range(outputs_ExTxN.shape[1]):
        rows.append({name: of_T[t] for name, of_T in means.items()})
        if both:
            three = (p.at(t) for p in (model, points[MEMORIZING], points[GENERALIZING]))
            rows[t][RELATIVE] = nearest(*three)[0]
    return rows


class _Numbers:
    """Predictions of real targets, y_ExTxN."""

    def __init__(self, y_ExTxN: Tensor) -> None:
        self.y_ExTxN = y_ExTxN

    def at(self, t: int) -> _Numbers:
        """Those of one position, from 0."""
        return _Numbers(self.y_ExTxN[:, t : t + 1].contiguous())

    def to(self, other: Any) -> Tensor:
        """distance_ExT."""
        return self.loss(other.y_ExTxN)

    def loss(self, y_ExTxN: Tensor) -> Tensor:
        """loss_ExT."""
        return (self.y_ExTxN - y_ExTxN).square().mean(dim=-1)

    def score(self, m: Any, g: Any, w: float) -> tuple[Tensor, Tensor]:
        """(first_E, second_E): derivatives by w of the distance to (1 - w) m + w g, halved."""
        line = g.y_ExTxN - m.y_ExTxN
        off = m.y_ExTxN + w * line - self.y_ExTxN
        return (off * line).flatten(1).mean(dim=1), line.square().flatten(1).mean(dim=1)

    def mixed(self, other: Any, w: float) -> _Numbers:
        """(1 - w) self + w other."""
        return _Numbers(self.y_ExTxN + w * (other.y_ExTxN - self.y_ExTxN))


class _Probabilities:
    """Predictions of classes, p_ExTxC, and their logarithms."""

    def __init__(self, p_ExTxC: Tensor, log_ExTxC: Tensor | None = None) -> None:
        self.p_ExTxC = p_ExTxC
        self.log_ExTxC = p_ExTxC.log() if log_ExTxC is None else log_ExTxC

    def at(self, t: int) -> _Probabilities:
        """Those of one position, from 0."""
        both = (x[:, t : t + 1].contiguous() for x in (self.p_ExTxC, self.log_ExTxC))
        return _Probabilities(*both)

    def to(self, other: Any) -> Tensor:
        """distance_ExT, nats."""
        apart = (self.p_ExTxC - other.p_ExTxC) * (self.log_ExTxC - other.log_ExTxC)
        return apart.sum(dim=-1) / 2.0

    def loss(self, y_ExT: Tensor) -> Tensor:
        """loss_ExT, nats."""
        return -self.log_ExTxC.gather(-1, y_ExT[..., None])[..., 0]

    def score(self, m: Any, g: Any, w: float) -> tuple[Tensor, Tensor]:
        """(first_E, second_E): derivatives by w of the distance to (1 - w) m + w g.

        With q the mixture and d = g - m, whose sum is 0, they are the halves of
        sum d (log q - log p - p / q) and sum d^2 (1 / q + p / q^2), above 0: it is convex.
        """
        line = g.p_ExTxC - m.p_ExTxC
        q = m.p_ExTxC + w * line
        ratio = self.p_ExTxC / q
        first = line * (q.log() - self.log_ExTxC - ratio)
        second = line.square() / q * (1.0 + ratio)
        both = (t.flatten(1).sum(dim=1) / (2.0 * t.shape[1]) for t in (first, second))
        first_E, second_E = both
        return first_E, second_E

    def mixed(self, other: Any, w: float) -> _Probabilities:
        """(1 - w) self + w other."""
        return _Probabilities(self.p_ExTxC + w * (other.p_ExTxC - self.p_ExTxC))


_Points = _Numbers | _Probabilities


def _points(
    target: Classes | Reals, outputs_ExTxN: Tensor, predicted: Predicted
) -> tuple[_Points, dict[str, _Points]]:
    """The model's predictions, and those of the predictors by name."""
    outputs = outputs_ExTxN.clone().double()
    said = {name: p.double() for name, p in predicted.of.items() if p is not None}
    if isinstance(target, Classes):
        log_ExTxC = outputs.log_softmax(dim=-1)
        return _Probabilities(log_ExTxC.exp(), log_ExTxC), {
            name: _Probabilities(p / p.sum(dim=-1, keepdim=True)) for name, p in said.items()
        }
    return _Numbers(outputs), {name: _Numbers(y) for name, y in said.items()}


def nearest(model: _Points, m: _Points, g: _Points) -> tuple[float | None, float | None, float]:
    """(w, its standard error, distance): where on the line from m to g the point nearest to the
    model is, and how far from it.

    w minimizes the mean distance over all positions and sequences, within [0, 1]: by least squares
    for numbers, by Newton's method within a bracket for classes. Its error is that of such a
    minimum: the deviation of the sequences' first derivatives over the mean of their second ones
    (Huber 1967; the sandwich). w and error are None where this can't tell m from g.
    """
    low, high, w = 0.0, 1.0, 0.5
    if _slope(model, m, g, 0.0) >= 0.0:
        low = high = w = 0.0
    elif _slope(model, m, g, 1.0) <= 0.0:
        low = high = w = 1.0
    for _ in range(_NEWTON_STEPS):
        first_E, second_E = model.score(m, g, w)
        slope, curvature = first_E.mean().item(), second_E.mean().item()
        if low == high or not math.isfinite(slope) or curvature <= 0.0:
            break
        low, high = (w, high) if slope < 0.0 else (low, w)
        after = w - slope / curvature
        after = after if low <= after <= high else (low + high) / 2.0
        if abs(after - w) < _NEWTON_ERROR:
            break
        w = after
    off_line = model.to(m.mixed(g, w)).mean().item()
    if not math.isfinite(slope):
        return math.nan, math.nan, off_line
    deviation = first_E.std().item()
    error = deviation / curvature / math.sqrt(len(first_E)) if curvature > 0.0 else math.inf
    if 2.0 * _NORMAL_95 * error > 1.0:
        return None, None, off_line
    return w, error, off_line


def _slope(model: _Points, m: _Points, g: _Points, w: float) -> float:
    return model.score(m, g, w)[0].mean().item()

"""Noisy items with labels, of which a sequence's last one was shown before.

Wurgaft, Lubana, Park, Tanaka, Reddy and Goodman 2025, "In-Context Learning Strategies Emerge
Rationally" (arXiv 2506.17859), section 2, classification; what the text leaves open is as in the
authors' code (DanielWurgaft/rational-icl, src/code/utils.py and models.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaphase.core.families.sums import one_hot
from metaphase.core.predictors import GENERALIZING, MEMORIZING, FromContext, FromTasks, Predictor
from metaphase.core.problem import Classes, Problem
from metaphase.core.settings import STREAM, setting

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.tasks.random_numbers import Random

_LABELS = 2


@dataclass(frozen=True)
class NoisyItems:
    """A task is an item, drawn from N(0, I / D), and its label, one of two. A sequence shows T - 1
    tasks, drawn uniformly and with replacement from the N trained on (or from new ones), and at
    position T, the query, one of these once more; an input is a copy of an item with noise of
    `within_class_variance` times an item's variance, scaled to an item's variance again.

    The sequence's own task is the query's. Models are trained to predict all T labels, where the
    authors train and read the query's alone: they see an item and its label as one token, and the
    query's label as -1. Before the query no label of a new item can be told.
    """

    dimension: int = setting(8, "D, numbers of an item", STREAM, least=1, greatest=2**10)
    within_class_variance: float = setting(
        0.5,
        "variance of an item's copies over that of items",
        STREAM,
        least=1e-9,  # with much less, float64 takes two copies of an item for equal
        greatest=1e9,
    )

    def problem(self) -> Problem:
        """See `core.tasks.TaskFamily`, as for the methods below."""
        return Problem(self.dimension, Classes(_LABELS))

    def parameters(self, task: Random) -> Tensor:
        """An item and, as one more number, its label: (*batch, D + 1)."""
        import torch

        item = task.normal("item", self.dimension) / self.dimension**0.5
        return torch.cat([item, task.integers("label", _LABELS, 1).to(item.dtype)], dim=-1)

    def sequences(
        self, task: Random, sequence: Random, T: int, split: str
    ) -> tuple[Tensor, Tensor]:
        import torch

        others = self.parameters(task.others(sequence, "context", T))
        slot = sequence.integers("slot", max(T - 1, 1), 1)  # which one the query repeats
        position = torch.arange(T, device=slot.device)
        own = (position == slot) | (position == T - 1)
        shown = torch.where(own[..., None], self.parameters(task)[..., None, :], others)
        noise = (self.within_class_variance / self.dimension) ** 0.5
        x = shown[..., :-1] + noise * sequence.normal("noise", T, self.dimension)
        return x / (1.0 + self.within_class_variance) ** 0.5, shown[..., -1].long()

    def predictors(self) -> dict[str, Predictor]:
        """M weighs the items trained on by the density of the input alone; before the query that is
        exact, and at the query it leaves out that its item was shown. G weighs the items shown by
        the density of the query, under the prior of new items: exact at each position. Both are
        the authors' `LabelMemorizingClassification` and `CopyingClassification`. There is no
        oracle: who knows the query's item knows no other."""
        return {
            MEMORIZING: FromTasks(
                self._statistics,
                self._natural,
                lambda p: one_hot(p[:, -1].long(), _LABELS),
                lambda g, x, y: g,
            ),
            GENERALIZING: FromContext(self._copied),
            "no_context": FromContext(lambda x, y: _guess(y)),
        }

    # x is N(m, s2 I) with m = item / sqrt(1 + v) and s2 = v / (D (1 + v)), so that the
    # log-density is (x . m - m . m / 2) / s2, up to what is the same for all items.

    def _statistics(self, x_BxTxX: Tensor, y_BxT: Tensor) -> Tensor:
        import torch

        return torch.cat([x_BxTxX, x_BxTxX.new_ones(*y_BxT.shape, 1)], dim=-1)

    def _natural(self, p_nxP: Tensor) -> Tensor:
        import torch

        v = self.within_class_variance
        m_nxX = p_nxP[:, :-1] / (1.0 + v) ** 0.5
        half_nx1 = m_nxX.square().sum(dim=-1, keepdim=True) / 2.0
        return torch.cat([m_nxX, -half_nx1], dim=-1) * (self.dimension * (1.0 + v) / v)

    def _copied(self, x_BxTxX: Tensor, y_BxT: Tensor) -> Tensor:
        p_BxTxC = _guess(y_BxT)
        if y_BxT.shape[1] > 1:
            r = 1.0 / (1.0 + self.within_class_variance)  # correlation of two copies of an item
            off_BxJ = (x_BxTxX[:, -1:] - r * x_BxTxX[:, :-1]).square().sum(dim=-1)
            weight_BxJ = (-self.dimension / (2.0 * (1.0 - r * r)) * off_BxJ).softmax(dim=-1)
            shown_BxJxC = one_hot(y_BxT[:, :-1], _LABELS)
            p_BxTxC[:, -1] = (weight_BxJ[..., None] * shown_BxJxC).sum(dim=1)
        return p_BxTxC


def _guess(y_BxT: Tensor) -> Tensor:
    return y_BxT.double().new_full((*y_BxT.shape, _LABELS), 1.0 / _LABELS)

"""Balls drawn from an urn.

Wurgaft, Lubana, Park, Tanaka, Reddy and Goodman 2025, "In-Context Learning Strategies Emerge
Rationally" (arXiv 2506.17859), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaphase.core.families.sums import logarithm, one_hot, sums_before
from metaphase.core.predictors import (
    GENERALIZING,
    MEMORIZING,
    FromContext,
    FromTask,
    FromTasks,
    Predictor,
)
from metaphase.core.problem import Classes, Problem
from metaphase.core.settings import STREAM, setting

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.tasks.random_numbers import Random


@dataclass(frozen=True)
class BallsAndUrns:
    """Symbols drawn independently from an urn, a distribution over C symbols that is itself drawn
    from Dirichlet(1, ..., 1). There are no inputs: a symbol is predicted from those before it, the
    first from a start token."""

    symbols: int = setting(8, "C, kinds of balls", STREAM, least=2, greatest=2**10)

    def problem(self) -> Problem:
        """See `core.tasks.TaskFamily`, as for the methods below."""
        return Problem(0, Classes(self.symbols), start_token=True)

    def parameters(self, task: Random) -> Tensor:
        """The urns' distributions, (*batch, C): multiples of 2^-24."""
        return task.simplex("urn", self.symbols)

    def sequences(self, task: Random, sequence: Random, T: int, split: str) -> tuple[None, Tensor]:
        import torch

        # Multiples of 2^-24 below 1 add up exactly, in any order.
        ends = self.parameters(task).cumsum(dim=-1)[..., :-1].contiguous()
        return None, torch.searchsorted(ends, sequence.uniform("symbols", T))

    def predictors(self) -> dict[str, Predictor]:
        """M weighs the urns trained on by the probability of the symbols so far; G is the
        posterior mean under the Dirichlet prior, (count + 1) / (t + C) (section 3 of the paper)."""
        return {
            MEMORIZING: FromTasks(self._counts, logarithm, lambda p: p, lambda p, x, y: p),
            GENERALIZING: FromContext(self._laplace),
            "no_context": FromContext(
                lambda x, y: y.double().new_full((*y.shape, self.symbols), 1.0 / self.symbols)
            ),
            "oracle": FromTask(lambda p, x, y: p[:, None].expand(-1, y.shape[1], -1)),
        }

    def _counts(self, x: Tensor, y_BxT: Tensor) -> Tensor:
        """How often each symbol was seen before each position, BxTxC; there are no inputs x."""
        return sums_before(one_hot(y_BxT, self.symbols))

    def _laplace(self, x: Tensor, y_BxT: Tensor) -> Tensor:
        """The posterior mean of each symbol, BxTxC."""
        more_BxTxC = self._counts(x, y_BxT) + 1.0
        return more_BxTxC / more_BxTxC.sum(dim=-1, keepdim=True)

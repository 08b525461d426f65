"""Noisy linear regression in context.

Raventos, Paul, Chen and Ganguli 2023, "Pretraining task diversity and the emergence of
non-Bayesian in-context learning for regression" (arXiv 2306.15063), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaphase.core.families.sums import sums_before
from metaphase.core.predictors import (
    GENERALIZING,
    MEMORIZING,
    FromContext,
    FromTask,
    FromTasks,
    Predictor,
)
from metaphase.core.problem import Problem, Reals
from metaphase.core.settings import STREAM, setting

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.tasks.random_numbers import Random


@dataclass(frozen=True)
class LinearRegression:
    """y = w . x + e, with w and x standard normal in D dimensions, e ~ N(0, noise_variance)."""

    dimension: int = setting(8, "D, numbers of an input", STREAM, least=1, greatest=2**8)
    noise_variance: float = setting(
        0.25,
        "variance of the targets' noise",
        STREAM,
        least=1e-9,  # less is lost in float32 targets, and float64 can't invert what is left
        greatest=1e9,
    )

    def problem(self) -> Problem:
        """See `core.tasks.TaskFamily`, as for the methods below."""
        return Problem(self.dimension, Reals(1, variance=self.dimension + self.noise_variance))

    def parameters(self, task: Random) -> Tensor:
        """w, (*batch, D)."""
        return task.normal("w", self.dimension)

    def sequences(
        self, task: Random, sequence: Random, T: int, split: str
    ) -> tuple[Tensor, Tensor]:
        x = sequence.normal("x", T, self.dimension)
        noise = self.noise_variance**0.5 * sequence.normal("noise", T)
        y = (x * self.parameters(task)[..., None, :]).sum(dim=-1) + noise
        return x, y[..., None]

    def predictors(self) -> dict[str, Predictor]:
        """M is dMMSE, G is ridge regression with penalty noise_variance: the posterior means of
        w . x under the two priors (section 2 of the paper). Without context 0 is best, and who
        knows w says w . x."""
        return {
            MEMORIZING: FromTasks(self._statistics, self._natural, lambda w: w, _estimate),
            GENERALIZING: FromContext(self._ridge),
            "no_context": FromContext(lambda x, y: y.new_zeros(y.shape)),
            "oracle": FromTask(lambda w, x, y: x @ w[:, :, None]),
        }

    # The log-likelihood of pairs is -(sum y^2 - 2 w . sum x y + w' (sum x x') w) / (2 s2).

    def _sums(self, x_BxTxX: Tensor, y_BxTx1: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the pairs before each position of x y, BxTxX, and of x x', BxTxXxX."""
        xx_BxTxXxX = x_BxTxX[..., :, None] * x_BxTxX[..., None, :]
        return sums_before(x_BxTxX * y_BxTx1), sums_before(xx_BxTxXxX)

    def _statistics(self, x_BxTxX: Tensor, y_BxTx1: Tensor) -> Tensor:
        xy_BxTxX, xx_BxTxXxX = self._sums(x_BxTxX, y_BxTx1)
        return _joined(xy_BxTxX, xx_BxTxXxX) / self.noise_variance

    def _natural(self, w_nxX: Tensor) -> Tensor:
        square_nxXxX = w_nxX[:, :, None] * w_nxX[:, None, :]
        halves = square_nxXxX.diagonal(dim1=1, dim2=2) / 2.0
        square_nxXxX.diagonal(dim1=1, dim2=2).copy_(halves)  # the others are there twice
        return _joined(w_nxX, -square_nxXxX)

    def _ridge(self, x_BxTxX: Tensor, y_BxTx1: Tensor) -> Tensor:
        import torch

        xy_BxTxX, xx_BxTxXxX = self._sums(x_BxTxX, y_BxTx1)
        xx_BxTxXxX.diagonal(dim1=2, dim2=3).add_(self.noise_variance)
        w_BxTxX = torch.cholesky_solve(xy_BxTxX[..., None], torch.linalg.cholesky(xx_BxTxXxX))[
            ..., 0
        ]
        return _estimate(w_BxTxX, x_BxTxX, y_BxTx1)


def _estimate(w_BxTxX: Tensor, x_BxTxX: Tensor, y_BxTx1: Tensor) -> Tensor:
    return (w_BxTxX * x_BxTxX).sum(dim=-1, keepdim=True)


def _joined(vector: Tensor, square: Tensor) -> Tensor:
    """A vector's numbers, then those of a symmetric matrix on and above its diagonal."""
    import torch

    return torch.cat([vector, *(square[..., i, i:] for i in range(vector.shape[-1]))], dim=-1)

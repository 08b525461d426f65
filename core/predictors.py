"""Algorithms whose predictions a model's are compared with, as a task family brings them.

A family with known best algorithms has the method

    def predictors(self) -> dict[str, FromContext | FromTasks | FromTask]

and `parameters(task)`, what its sequences know of a task. Two names mean the same in every family,
and the relative distance lies between them: `memorizing` (M, whose prior is uniform over the tasks
trained on) and `generalizing` (G, whose prior is the distribution that tasks are drawn from).

All tensors of numbers are float64, classes are int64. A prediction at position t may depend on
inputs up to t and on targets before t: probabilities of classes, p_BxTxC, or estimates of real
numbers, y_BxTxN. Axes beside the usual ones: n tasks, K statistics, G moments. Plain Python, as
`core.cell` is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MEMORIZING = "memorizing"
GENERALIZING = "generalizing"
MOST_TASKS = 2**20  # of a stream whose posterior is computed; of more tasks M isn't told


@dataclass(frozen=True)
class FromContext:
    """Predicts from a sequence alone.

    Attributes:
        predict: (x_BxTxX, y_BxT or y_BxTxN) -> predictions.
    """

    predict: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FromTask:
    """Predicts from what a sequence's task is: the oracle.

    Attributes:
        predict: (parameters of each sequence's task, x_BxTxX, y) -> predictions.
    """

    predict: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FromTasks:
    """Predicts from the posterior over the tasks trained on, each as likely before.

    The likelihood of what is seen at a position is exp(s . k) for each task, up to a factor that is
    the same for all: an exponential family, with statistics s of what is seen and k of the task.
    Predictions depend on the task through moments g, whose posterior means are all they need.
    `core.evaluation.posterior` goes through the tasks in chunks.

    Attributes:
        statistics: (x, y) -> s_BxTxK, of the pairs before each position, and of its input where
            that tells of the task.
        natural: parameters of n tasks -> k_nxK, finite.
        moments: parameters of n tasks -> g_nxG.
        predict: (posterior means g_BxTxG, x, y) -> predictions.
    """

    statistics: Callable[[Tensor, Tensor], Tensor]
    natural: Callable[[Tensor], Tensor]
    moments: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor, Tensor, Tensor], Tensor]


Predictor = FromContext | FromTask | FromTasks

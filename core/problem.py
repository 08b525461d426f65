"""What models are given and what they predict. Plain Python, as `core.cell` is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from metaphase.core.settings import ConfigError


@dataclass(frozen=True)
class Classes:
    """Targets that are one of several classes: models give logits, the loss is cross-entropy.

    Attributes:
        count: C, the number of classes.
    """

    count: int

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a prediction."""
        return self.count

    @property
    def guess_loss(self) -> float:
        """Loss of knowing nothing, where a model's training starts: ln C nats."""
        return math.log(self.count)


@dataclass(frozen=True)
class Reals:
    """Targets that are real numbers: models give their estimates, the loss is the mean squared
    error.

    Attributes:
        count: numbers of a target.
        variance: mean square of each of these numbers over all tasks, which is the loss of
            guessing 0.
    """

    count: int = 1
    variance: float = 1.0

    @property
    def outputs(self) -> int:
        """Numbers that a model gives for a prediction."""
        return self.count

    @property
    def guess_loss(self) -> float:
        """Loss of guessing 0, where a model's training starts."""
        return self.variance


@dataclass(frozen=True)
class Problem:
    """What models are given and what they predict.

    Attributes:
        features: X, numbers of an input; 0 where there are no inputs.
        target: of each example.
        start_token: whether the first token, which shows no target, is one that is learned. Without
            inputs it is 0 else, and what layer norm makes of it has a gradient 300 times as large
            as that of others. Token format `shifted` alone has such a token.
    """

    features: int
    target: Classes | Reals
    start_token: bool = False


def check_problem(name: str, said: Any) -> None:
    """Raises ConfigError if a family's `problem` is none that models can be made for."""
    target = getattr(said, "target", None)
    features, count = getattr(said, "features", None), getattr(target, "count", None)
    least = 2 if isinstance(target, Classes) else 1
    whole = type(features) is int and features >= 0 and type(count) is int and count >= least
    sane = isinstance(said, Problem) and isinstance(target, (Classes, Reals)) and whole
    if sane and isinstance(target, Reals):
        sane = math.isfinite(target.variance) and target.variance > 0
    if not sane:
        raise ConfigError(
            f"task_family: problem() of {name} says {str(said)[:100]}; allowed: Problem(features, "
            "Classes(n)) with n of 2 or more, or Problem(features, Reals(n, variance)), variance "
            "above 0"
        )

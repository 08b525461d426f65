"""What a family's predictors say of the evaluation sequences that models see: computed once for
each stream and split, and kept, as no training changes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metaphase.core.evaluation.posterior import TASKS_AT_ONCE, posterior_means
from metaphase.core.plugin_code import failures_told
from metaphase.core.predictors import MOST_TASKS, FromContext, FromTask, FromTasks, Predictor
from metaphase.core.problem import Classes
from metaphase.core.settings import ConfigError, as_line
from metaphase.core.taken_names import check_predictors
from metaphase.core.tasks.drawn_sequences import DrawnSequences
from metaphase.core.tasks.sequences import Sequences

LEAST = 1e-9  # probabilities are at least this, so that divergences are finite
_SEQUENCES_AT_ONCE = 256
_MOST_STATISTICS = 2**24  # of a chunk of sequences: 128 MB


class Predicted(NamedTuple):
    """A stream's evaluation sequences of a split, and what is said of them.

    Attributes:
        y: the targets: int64 classes y_ExT, or float64 numbers y_ExTxN.
        of: predictions by predictor: p_ExTxC or y_ExTxN, float32; None: it can't be told.
    """

    y: Tensor
    of: dict[str, Tensor | None]


class Predictions:
    """What the predictors of a pack's family say.

    Args:
        sequences: of the pack's streams.
        count: E, evaluation sequences of a split.

    Raises:
        ConfigError: the family brings what are no predictors.
    """

    def __init__(self, sequences: DrawnSequences, count: int) -> None:
        self.sequences, self.count = sequences, count
        self.target = sequences.problem.target
        self.predictors = _of_family(sequences.family, sequences.cell.task_family)
        self._known: dict[str, list[Predicted]] = {}

    @classmethod
    def of(cls, sequences: Sequences, count: int) -> Predictions | None:
        """None of sequences whose family brings no predictors."""
        family = getattr(sequences, "family", None)
        if not isinstance(sequences, DrawnSequences) or not hasattr(family, "predictors"):
            return None
        return cls(sequences, count)

    def __call__(self, split: str) -> list[Predicted]:
        """Of each stream, in order. M of more than MOST_TASKS tasks isn't told."""
        if split not in self._known:
            streams = range(len(self.sequences.num_tasks_S))
            self._known[split] = [self._of_stream(split, stream) for stream in streams]
        return self._known[split]

    @torch.no_grad()
    def _of_stream(self, split: str, stream: int) -> Predicted:
        """Computed for each stream alone, in chunks that don't depend on the others, so that no
        bit does."""
        sequence_E = torch.arange(self.count, device=self.sequences.seed_S.device)
        targets = []
        parts: dict[str, list[Tensor] | None] = {name: [] for name in self.predictors}
        for sequence_B in sequence_E.split(self._at_once(split, stream)):
            x, y = self._examples(split, stream, sequence_B)
            task_B = self.sequences.evaluation_tasks(split, sequence_B)[stream]
            targets.append(y)
            for name, predictor in self.predictors.items():
                said = self._said(name, predictor, stream, task_B, x, y)
                of_name = parts[name]
                if said is None or of_name is None:
                    parts[name] = None
                else:
                    of_name.append(self._checked(name, said, y))
        return Predicted(
            torch.cat(targets),
            {name: None if of is None else torch.cat(of) for name, of in parts.items()},
        )

    def _examples(self, split: str, stream: int, sequence_B: Tensor) -> tuple[Tensor, Tensor]:
        """x_BxTxX and y of a stream's sequences, as predictors get them."""
        batch = self.sequences.evaluation_batch(split, sequence_B)
        x, y = batch.x_RxBxTxX[stream].double(), batch.y_RxBxT[stream]
        return x, y if isinstance(self.target, Classes) else y.double()

    def _at_once(self, split: str, stream: int) -> int:
        """Sequences of a chunk, fewer where each has many statistics."""
        first_B = torch.zeros(1, dtype=torch.int64, device=self.sequences.seed_S.device)
        x, y = self._examples(split, stream, first_B)
        counts = [
            predictor.statistics(x, y).numel()
            for predictor in self.predictors.values()
            if isinstance(predictor, FromTasks)
        ]
        return max(1, min([_SEQUENCES_AT_ONCE, *(_MOST_STATISTICS // max(n, 1) for n in counts)]))

    def _said(self, name: str, predictor: Predictor, *of: Any) -> Tensor | None:
        """As `_predict`; ConfigError where the predictor's code fails."""
        family = self.sequences.cell.task_family
        with failures_told(f"task_family: the predictor {name} of {family}"):
            return self._predict(predictor, *of)

    def _predict(
        self, predictor: Predictor, stream: int, task_B: Tensor, x: Tensor, y: Tensor
    ) -> Tensor | None:
        """BxTxO, O outputs: what it predicts of examples x_BxTxX and y, BxT classes or BxTxO
        numbers; None where it isn't computed."""
        if isinstance(predictor, FromContext):
            return predictor.predict(x, y)
        if isinstance(predictor, FromTask):
            return predictor.predict(self._parameters(stream, task_B), x, y)
        assert isinstance(predictor, FromTasks)
        if int(self.sequences.num_tasks_S[stream]) > MOST_TASKS:
            return None
        statistics_IxK = predictor.statistics(x, y).flatten(0, 1)
        mean_IxG = posterior_means(statistics_IxK, self._tasks(predictor, stream))
        return predictor.predict(mean_IxG.unflatten(0, y.shape[:2]), x, y)

    def _tasks(self, predictor: FromTasks, stream: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(k_nxK, g_nxG) of the tasks that a stream is trained on, in chunks."""
        count = int(self.sequences.num_tasks_S[stream])
        for first in range(0, count, TASKS_AT_ONCE):
            last = min(first + TASKS_AT_ONCE, count)
            task_n = torch.arange(first, last, device=self.sequences.seed_S.device)
            parameters = self._parameters(stream, task_n)
            yield predictor.natural(parameters), predictor.moments(parameters).flatten(1)

    def _parameters(self, stream: int, task_n: Tensor) -> Tensor:
        """Of a stream's tasks, by number: n x what the family's parameters are, float64."""
        random = self.sequences.tasks(stream, task_n)
        parameters: Tensor = self.sequences.family.parameters(random)  # type: ignore[attr-defined]
        return parameters.double()

    def _checked(self, name: str, said: Tensor, y: Tensor) -> Tensor:
        """What a predictor said, said_BxTxO, float32; y as for `_predict`.

        Raises:
            ConfigError: it isn't a finite number for each output.
        """
        due = (*y.shape[:2], self.target.outputs)
        finite = tuple(said.shape) != due or bool(said.isfinite().all())
        if tuple(said.shape) != due or not finite:
            given = tuple(said.shape) if finite else "not all finite"
            raise ConfigError(
                f"task_family: its predictor {name} gives {given}; needed: {due}, finite numbers"
            )
        if isinstance(self.target, Classes):
            said = said.clamp(min=LEAST)
        return said.float()


def _of_family(family: Any, named: str) -> dict[str, Predictor]:
    """The predictors that a family brings, by name."""
    try:
        found = dict(family.predictors())
    except Exception as error:
        raise ConfigError(f"task_family: predictors() of {named}: {as_line(error)}") from None
    check_predictors(found)
    for name, predictor in found.items():
        if not isinstance(predictor, Predictor):
            raise ConfigError(
                f"task_family: the predictor {name} is a {type(predictor).__name__}; make it a "
                "FromContext, FromTask or FromTasks of metaphase.core.predictors"
            )
    of_tasks = [name for name, one in found.items() if not isinstance(one, FromContext)]
    if of_tasks and not callable(getattr(family, "parameters", None)):
        raise ConfigError(
            f"task_family: the predictor {of_tasks[0]} of {named} needs parameters(task), what "
            "tells tasks apart"
        )
    return found

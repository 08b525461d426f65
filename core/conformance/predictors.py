"""Checks of the predictors that a task family brings; one that brings none passes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.core.conformance.subject import Broken, Subject, require, same
from metaphase.core.evaluation.predictions import Predictions
from metaphase.core.predictors import GENERALIZING, MEMORIZING
from metaphase.core.problem import Classes
from metaphase.core.tasks.sequences import Batch

_COUNT, _TASKS = 64, 5
_SIMULATED = 1024  # sequences on which losses are compared
_LATER = 4  # the position, from 0, from which on targets are changed


def predictors_have_shapes(subject: Subject) -> None:
    """Predictors give a finite number for each output, and probabilities that sum to 1."""
    predictions = _predictions(subject)
    if predictions is None:
        return
    for name in predictions.predictors:
        said = _said(predictions, name, schema.SEEN)
        require(
            said.dtype == torch.float64,
            f"The predictor {name} gives {said.dtype}: compute with the float64 that it is given.",
        )
        if isinstance(predictions.target, Classes):
            whole = (said.sum(dim=-1) - 1.0).abs().max().item()
            require(
                bool((said >= 0).all()) and whole < 1e-6,
                f"The predictor {name} doesn't give probabilities of classes: they must be 0 or "
                "more and sum to 1 at each position.",
            )


def predictors_do_not_look_ahead(subject: Subject) -> None:
    """Predictions at a position depend on no target from there on, and on no later input."""
    predictions = _predictions(subject)
    if predictions is None:
        return
    for name in predictions.predictors:
        before = _said(predictions, name, schema.SEEN)
        after = _said(predictions, name, schema.SEEN, _changed_later)
        require(
            same(before[:, : _LATER + 1], after[:, : _LATER + 1]),
            f"Predictions of {name} at a position change with targets from there on, or with later "
            "inputs: a predictor would see the answer. Sum over what comes before each position.",
        )


def predictors_tell_m_from_g(subject: Subject) -> None:
    """M loses no more than G on the tasks trained on, and G no more than M on new ones."""
    predictions = _predictions(subject, _SIMULATED)
    if predictions is None or not {MEMORIZING, GENERALIZING} <= predictions.predictors.keys():
        return
    for split, best, other in (
        (schema.SEEN, MEMORIZING, GENERALIZING),
        (schema.UNSEEN, GENERALIZING, MEMORIZING),
    ):
        of, y = predictions(split)[0].of, predictions(split)[0].y
        losses = []
        for name in (best, other):
            said = of[name]
            assert said is not None  # of so few tasks
            if isinstance(predictions.target, Classes):
                losses.append(-said.double().gather(-1, y[..., None])[..., 0].log().mean(dim=1))
            else:
                losses.append((said.double() - y).square().mean(dim=(1, 2)))
        more_B = losses[1] - losses[0]
        require(
            more_B.mean().item() > -4.0 * (more_B.std() / len(more_B) ** 0.5).item(),
            f"On {split} tasks {other} loses less than {best}, which should be best there: "
            f"{MEMORIZING} is the posterior over the tasks trained on, {GENERALIZING} that under "
            "the distribution they are drawn from.",
        )


def _predictions(subject: Subject, count: int = _COUNT) -> Predictions | None:
    if not subject.draws_itself:
        return None
    sequences = subject.sequences(subject.cell(num_tasks=_TASKS))
    return Predictions.of(sequences, count)


def _changed_later(batch: Batch) -> Batch:
    """Other targets from a position on, and other inputs behind it: those of the next sequence."""
    x, y = batch.x_RxBxTxX.clone(), batch.y_RxBxT.clone()
    x[:, :, _LATER + 1 :] = x.roll(1, dims=1)[:, :, _LATER + 1 :]
    y[:, :, _LATER:] = y.roll(1, dims=1)[:, :, _LATER:]
    return Batch(x, y)


def _said(
    predictions: Predictions,
    name: str,
    split: str,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Tensor:
    """What a predictor says of evaluation sequences, before it is rounded."""
    number = torch.arange(_COUNT)
    batch = change(predictions.sequences.evaluation_batch(split, number))
    x, y = batch.x_RxBxTxX[0].double(), batch.y_RxBxT[0]
    y = y if isinstance(predictions.target, Classes) else y.double()
    task = predictions.sequences.evaluation_tasks(split, number)[0]
    try:
        said = predictions._predict(predictions.predictors[name], 0, task, x, y)
        assert said is not None  # of so few tasks
        predictions._checked(name, said, y)
    except (ConfigError, RuntimeError, ValueError, TypeError, LookupError) as error:
        line = " ".join(str(error).split())[:200]
        raise Broken(f"The predictor {name} fails: {line}.") from None
    return said


CHECKS = (predictors_have_shapes, predictors_do_not_look_ahead, predictors_tell_m_from_g)

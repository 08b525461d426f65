"""Checks of the predictors that a task family brings; one that brings none passes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.core.conformance.subject import Broken, Subject, require
from metaphase.core.evaluation.predictions import Predictions
from metaphase.core.predictors import GENERALIZING, MEMORIZING
from metaphase.core.problem import Classes
from metaphase.core.tasks.sequences import Batch

_COUNT, _TASKS = 64, 5
_SIMULATED = 1024  # sequences on which losses are compared
_SIGMAS = 6.0  # of a mean over sequences, beyond which it isn't 0
_ROUNDING = 1e-9  # of float64 predictions, sums of what came before that are taken with it
_ROUNDING_32 = 1e-6  # of what is kept of them
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
        # Further on, a posterior may find that no task gives such examples.
        after = _said(predictions, name, schema.SEEN, _changed_later, positions=_LATER + 1)
        earlier, again = before[:, : _LATER + 1], after
        tolerance = _ROUNDING * max(1.0, earlier.abs().max().item())
        require(
            bool(torch.allclose(earlier, again, rtol=0.0, atol=tolerance)),
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


def memorizing_errs_on_no_side(subject: Subject) -> None:
    """M's errors on the tasks trained on have nothing to do with what it predicts.

    An expectation m under the posterior leaves errors y - m of which no function of what was seen
    tells the sign: (y - m) f has the mean 0, here for f = 1 and f = m.
    """
    predictions = _predictions(subject, _SIMULATED)
    if predictions is None or MEMORIZING not in predictions.predictors:
        return
    of, y = predictions(schema.SEEN)[0].of[MEMORIZING], predictions(schema.SEEN)[0].y
    assert of is not None  # of so few tasks
    said_BxTxN = of.double()
    classes = isinstance(predictions.target, Classes)
    y_BxTxN = torch.nn.functional.one_hot(y, said_BxTxN.shape[-1]) if classes else y
    rounding = _ROUNDING_32 * (1.0 + said_BxTxN.square().mean())
    for f_BxTxN in (torch.ones_like(said_BxTxN), said_BxTxN):
        mean_BxN = ((y_BxTxN - said_BxTxN) * f_BxTxN).mean(dim=1)
        error_N = mean_BxN.std(dim=0) / len(mean_BxN) ** 0.5
        require(
            bool((mean_BxN.mean(dim=0).abs() <= _SIGMAS * error_N + rounding).all()),
            f"{MEMORIZING} isn't the posterior over the tasks trained on: what it predicts on them "
            "is too large, or too sure. statistics . natural must be the log-likelihood of what "
            "was seen. Is a term of the task alone lacking, which counts for each example, such as "
            "-|w|^2 / (2 variance) of a regression, or a factor?",
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
    positions: int | None = None,
) -> Tensor:
    """What a predictor says of evaluation sequences, before it is rounded, at their first
    positions; None: at all."""
    number = torch.arange(_COUNT)
    batch = change(predictions.sequences.evaluation_batch(split, number))
    x, y = batch.x_RxBxTxX[0].double(), batch.y_RxBxT[0]
    y = y if isinstance(predictions.target, Classes) else y.double()
    task = predictions.sequences.evaluation_tasks(split, number)[0]
    try:
        said = predictions._predict(predictions.predictors[name], 0, task, x, y)
        assert said is not None  # of so few tasks
        if tuple(said.shape[:2]) == tuple(y.shape[:2]):
            said, y = said[:, :positions], y[:, :positions]
        predictions._checked(name, said, y)
    except (ConfigError, RuntimeError, ValueError, TypeError, LookupError) as error:
        line = " ".join(str(error).split())[:200]
        raise Broken(f"The predictor {name} fails: {line}.") from None
    return said


CHECKS = (
    predictors_have_shapes,
    predictors_do_not_look_ahead,
    predictors_tell_m_from_g,
    memorizing_errs_on_no_side,
)

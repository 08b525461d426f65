"""Checks of task families."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from metaphase.core import rng, schema
from metaphase.core.cell import ConfigError
from metaphase.core.conformance.subject import (
    Broken,
    Subject,
    alone_equals_packed,
    continues_exactly,
    repeats,
    require,
    same,
    without_a_host,
)
from metaphase.core.tasks import Classes, Reals
from metaphase.core.tasks.drawn_sequences import DrawnSequences, check_numbers
from metaphase.core.tasks.sequences import STEPS_PER_DRAW, Batch

_NUMBERS = 512  # sequences whose numbers are looked at
_OF_TASK = 512  # sequences of each of 64 tasks by which these are told apart ...
_DISTINCT = 60  # ... as far as so few can


def shapes_are_those_of_its_problem(subject: Subject) -> None:
    """Inputs and targets have the shapes, types and ranges that `problem` says."""
    cell = subject.cell()
    target = cell.problem.target
    require(
        isinstance(target, (Classes, Reals)) and target.outputs > 0 and cell.problem.features >= 0,
        f"problem() says {cell.problem}; needed: Problem(features, Classes(n) or Reals(n)).",
    )
    require(
        math.isfinite(target.guess_loss) and target.guess_loss > 0,
        f"problem() says that a guess loses {target.guess_loss}; give two classes or more, or "
        "Reals a variance above 0.",
    )
    try:
        drawn = [(f"the split {s!r}", _evaluated(subject, s)) for s in schema.SPLITS]
        drawn += [("training", batch) for batch in _trained(subject)]
        for kind, batch in drawn:
            check_numbers(cell.problem, batch, f"In {kind} its")
    except ConfigError as error:
        raise Broken(str(error)) from None
    if isinstance(target, Reals):
        variance = _evaluated(subject, schema.UNSEEN).y_RxBxT.double().square().mean().item()
        require(
            0.67 < variance / target.variance < 1.5,
            f"The mean square of targets is {variance:.3g}, problem() says {target.variance:.3g}; "
            "models' first losses, their plateau and scores are measured by it: say what it is.",
        )


def its_settings_stay(subject: Subject) -> None:
    """A family that is a dataclass is frozen."""
    if not subject.draws_itself:
        return
    drawn = subject.sequences(subject.cell())
    assert isinstance(drawn, DrawnSequences)
    parameters = getattr(drawn.family, "__dataclass_params__", None)
    require(
        parameters is None or parameters.frozen,
        "Its settings can be changed after it is made; say @dataclass(frozen=True).",
    )


def the_same_number_is_the_same_thing(subject: Subject) -> None:
    """A task or a sequence is the same in any batch, beside any others, at any time."""
    cell, other = subject.cell(seed=3), subject.cell(seed=5, num_tasks=2**20)
    numbers = torch.arange(8)
    for split in schema.SPLITS:

        def drawn(split: str = split) -> Tensor:
            return subject.sequences(cell).evaluation_batch(split, numbers).y_RxBxT

        repeats(
            drawn,
            "The same sequences are others when drawn again. All randomness must come from the "
            "Random objects that sequences() is given, none from torch, NumPy or the clock.",
        )
        alone = subject.sequences(cell).evaluation_batch(split, numbers)
        beside = subject.sequences(other, cell).evaluation_batch(split, numbers)
        few = subject.sequences(cell).evaluation_batch(split, numbers[5:6])
        for name in ("x_RxBxTxX", "y_RxBxT"):
            whole = getattr(alone, name)
            require(
                same(whole[0], getattr(beside, name)[1])
                and same(whole[:, 5:6], getattr(few, name)),
                "A sequence depends on the others of its batch. Work on the last axes alone: "
                "nothing may mix or count along the axes of the batch, and sums must not depend "
                "on how many there are.",
            )


def tasks_differ_and_decide(subject: Subject) -> None:
    """Tasks of different numbers are different, seen and unseen ones too, and so are sequences."""
    cell = subject.cell(num_tasks=16)
    splits = {split: _evaluated(subject, split) for split in schema.SPLITS}
    require(
        not same(splits[schema.TRAIN].y_RxBxT, splits[schema.SEEN].y_RxBxT),
        "Two splits have the same sequences: draw examples from the second Random, `sequence`.",
    )
    if not subject.draws_itself:
        return
    drawn = subject.sequences(cell)
    assert isinstance(drawn, DrawnSequences)
    seed_1x1, first = torch.full((1, 1), 3), 2**32
    tasks = torch.cat([torch.arange(32), first + torch.arange(32)])

    def numbers(task_B: Tensor, number_B: Tensor) -> Tensor:
        batch = drawn._sequences(seed_1x1, task_B, number_B, schema.SEEN)
        parts = batch.x_RxBxTxX.flatten(2).double(), batch.y_RxBxT.flatten(2).double()
        return torch.cat(parts, dim=2)[0]

    # The same sequences of every task, as many as tell tasks apart that differ in few labels.
    rows = numbers(tasks.repeat_interleave(_OF_TASK), torch.arange(_OF_TASK).repeat(64)).view(
        64, -1
    )
    distinct, due = rows.unique(dim=0).shape[0], _DISTINCT
    require(
        distinct > 1,
        "Sequences don't depend on their task: draw what tells tasks apart from the first Random, "
        "`task`.",
    )
    if hasattr(drawn.family, "parameters"):  # these tell all tasks apart
        due = 64
        distinct = drawn.family.parameters(drawn.tasks(0, tasks)).flatten(1).unique(dim=0).shape[0]
    require(
        distinct >= due,
        f"Of 64 tasks only {distinct} are different, and unseen tasks are among the seen ones. "
        "There must be more tasks than N; lower N can't be told from this.",
    )
    same_task = numbers(tasks[:1].expand(64), torch.arange(64))
    require(
        same_task.unique(dim=0).shape[0] > 32,
        "All sequences of a task are the same: draw examples from the second Random, `sequence`.",
    )


def the_batch_size_does_not_show(subject: Subject) -> None:
    """Evaluation sequences are the same whatever the size of a training step's batch."""
    numbers = torch.arange(2)
    a, b = (
        subject.sequences(subject.cell(batch_size=size)).evaluation_batch(schema.SEEN, numbers)
        for size in (4, 2)
    )
    require(
        same(a.y_RxBxT, b.y_RxBxT) and same(a.x_RxBxTxX, b.x_RxBxTxX),
        "Sequences depend on the size of the batch they are drawn in.",
    )


def nothing_is_read_back(subject: Subject) -> None:
    """A step's sequences are drawn without looking at numbers on the host."""
    if not subject.draws_itself:
        return
    cell = subject.cell()
    with without_a_host("sequences()"):
        pretended = DrawnSequences([cell], subject.sequences(cell).family, "meta")  # type: ignore[attr-defined]
        step_J = torch.arange(rng.SHUFFLE_ROUNDS, device="meta")
        batch = pretended.training_batch(pretended.draw_training(step_J), step_J[:1])
        require(
            batch.y_RxBxT.is_meta and batch.x_RxBxTxX.is_meta,
            "sequences() gives tensors on the CPU whatever the device of its random numbers; make "
            "further tensors on that device.",
        )


def a_model_of_it_is_itself_in_any_pack(subject: Subject) -> None:
    """A cell trained alone equals the cell trained beside others, to the bit."""
    alone_equals_packed(subject)


def a_checkpoint_continues_exactly(subject: Subject) -> None:
    """Training that is stopped and goes on equals training that isn't."""
    continues_exactly(subject)


def _evaluated(subject: Subject, split: str) -> Batch:
    cell = subject.cell(num_tasks=16)
    return subject.sequences(cell).evaluation_batch(split, torch.arange(_NUMBERS))


def _trained(subject: Subject) -> Iterator[Batch]:
    """The sequences of the first training steps."""
    sequences, step_J = subject.sequences(subject.cell()), torch.arange(STEPS_PER_DRAW)
    draw = sequences.draw_training(step_J)
    for j in step_J:
        yield sequences.training_batch(draw, j[None])


CHECKS = (
    shapes_are_those_of_its_problem,
    its_settings_stay,
    the_same_number_is_the_same_thing,
    tasks_differ_and_decide,
    the_batch_size_does_not_show,
    nothing_is_read_back,
    a_model_of_it_is_itself_in_any_pack,
    a_checkpoint_continues_exactly,
)

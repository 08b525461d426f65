"""States from which a cell's training can't continue, though they have the right form."""

import math

import pytest

from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


@pytest.fixture(scope="module")
def half_trained():
    trainer = PackTrainer([small_cell(metrics=("confidence",))])
    trainer.advance()
    return trainer.cells[0], trainer.states()[0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"n": 10**30}, "its history's n is out of range"),
        ({"n": -5}, "its history's n is out of range"),
        ({"n": 2.5}, "of another type"),
        ({"n": True}, "of another type"),
        ({"step": 10.0}, "of another type"),
        ({"loss": 10**30}, "of another type"),
        ({"confidence": 10**400}, "of another type"),
        ({"first": 1.5}, "its history's first is out of range"),
        ({"last_se": -0.1}, "its history's last_se is out of range"),
        ({"improvement": -math.inf}, "its history's improvement is out of range"),
    ],
)
def test_a_history_that_no_table_could_hold_is_refused(changed, why, half_trained):
    cell, state = half_trained
    check_state(cell, state)
    first, *rest = state["history"]
    with pytest.raises(ValueError, match=why):
        check_state(cell, {**state, "history": [{**first, **changed}, *rest]})


def test_what_diverged_has_no_numbers(half_trained):
    cell, state = half_trained
    first, *rest = state["history"]
    nothing = {key: math.nan for key, value in first.items() if isinstance(value, float)}
    check_state(cell, {**state, "history": [{**first, **nothing}, *rest]})
    check_state(cell, {**state, "history": [{**first, "loss": math.inf}, *rest]})


@pytest.mark.parametrize("seconds", [10**400, 2**60, math.inf, math.nan, -1.0, "1", True])
def test_seconds_that_cannot_be_are_refused(seconds, half_trained):
    cell, state = half_trained
    with pytest.raises(ValueError, match="its wall_seconds is no number of seconds"):
        check_state(cell, {**state, "wall_seconds": seconds})

import pytest

from metaphase.core.training import early_stopping
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


def history(*evaluations, n=512):
    """Rows of evaluations (train loss, unseen last above 0.2, its error), 10 steps apart."""
    return [
        {
            "step": 10 * i, "split": split, "loss": loss, "n": n,
            "last": 0.2 + gain, "last_se": error,
        }
        for i, (loss, gain, error) in enumerate(evaluations, start=1)
        for split in ("train", "seen", "unseen")
    ]  # fmt: skip


GENERALIZES, PLATEAU, SOLVED = (1.0, 0.3, 0.02), (1.6, 0.01, 0.02), (0.01, 0.0, 0.02)


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([], False),
        ([GENERALIZES], False),
        ([GENERALIZES, GENERALIZES], True),
        ([GENERALIZES, PLATEAU], False),
        ([PLATEAU, GENERALIZES], False),
        ([PLATEAU, GENERALIZES, GENERALIZES], True),
        ([(1.0, 0.09, 0.02)] * 2, False),  # not yet DELTA away with confidence
        ([PLATEAU] * 5, False),
        ([SOLVED] * 2, True),
        ([(0.1, 0, 0.02)] * 2, False),
        ([(0.01, 0.06, 0.02)] * 2, False),  # solved, but perhaps about to generalize
    ],
)
def test_the_rule(evaluations, expected):
    assert early_stopping.decided(history(*evaluations), 5, unseen_level=0.2) is expected


def test_sequences_that_hardly_differ_decide_no_more_than_the_phases_intervals_say():
    """The errors are far too small where few sequences are all alike."""
    alike = (1.0, 0.1, 0.0)
    assert early_stopping.decided(history(alike, alike, n=2048), 5, unseen_level=0.2)
    assert not early_stopping.decided(history(alike, alike, n=16), 5, unseen_level=0.2)
    assert not early_stopping.decided(history(alike, alike, n=2048), 5, unseen_level=0.26)
    unmoved = (0.01, 0.0, 0.0)
    assert early_stopping.decided(history(unmoved, unmoved), 5, unseen_level=0.2)


def test_a_decided_cell_leaves_its_pack_and_changes_no_other():
    settings = {"stop_when_decided": True, "steps": 600, "eval_every": 100, "model_size": 32}
    settings |= {"eval_sequences": 64, "num_layers": 1, "seed": 1}
    cells = [small_cell(num_tasks=n, **settings) for n in (1, 2**20)]
    trainer = PackTrainer(cells)
    while not any(trainer.finished_cells()):
        trainer.advance()
    assert trainer.finished_cells() == [True, False]
    assert trainer.step < 600
    row, curves = trainer.results()[0]
    assert row["steps_trained"] == trainer.step
    assert curves
    again = PackTrainer(cells, states=trainer.states())  # a crash before the result was written
    assert again.finished_cells() == [True, False]
    assert again.results() == trainer.results()
    rest = PackTrainer(cells[1:], states=trainer.states()[1:])
    alone = PackTrainer(cells[1:])
    for one in (rest, alone):
        while not one.finished:
            one.advance()
    assert rest.history == alone.history
    assert rest.results()[0][0]["steps_trained"] == alone.results()[0][0]["steps_trained"]


def test_it_is_off_by_default():
    trainer = PackTrainer([small_cell(steps=300, eval_every=100, model_size=32)])
    while not trainer.finished:
        trainer.advance()
    assert trainer.step == 300


def test_where_m_is_not_computed_nothing_is_settled():
    """A model that reads context a little is above the level of a guess, long before it is G."""
    rows = history(GENERALIZES, GENERALIZES)
    for at in rows:
        at |= {"distance_memorizing": None, "distance_between": None}
    assert not early_stopping.decided(rows, 5, unseen_level=0.2)


@pytest.mark.parametrize(
    ("from_m", "no_context", "expected"),
    [
        ([0.003, 0.003], 0.4, True),
        ([0.003, 0.01], 0.4, False),  # not M yet
        ([0.003, 0.003], None, False),  # compared with M's distance from G instead
        ([0.0001, 0.0001], None, True),
    ],
)
def test_where_m_is_known_a_model_is_done_when_it_is_m(from_m, no_context, expected):
    """However well it generalizes: that may pass."""
    rows = history(GENERALIZES, GENERALIZES)
    for at in rows:
        at |= {"distance_memorizing": from_m[at["step"] // 10 - 1], "distance_between": 0.01}
        at |= {"distance_no_context": no_context} if no_context else {}
    assert early_stopping.decided(rows, 5, unseen_level=0.2) is expected

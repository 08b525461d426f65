"""Cells evaluated in weights and in context, and trained on skewed and bursty sequences."""

import pytest
import torch

from metaphase.core import schema
from metaphase.core.trained import TrainedModel
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


def trained(*cells):
    trainer = PackTrainer(cells)
    while not trainer.finished:
        trainer.advance()
    return trainer


def test_a_task_known_by_heart_is_told_by_weights_and_not_by_labels():
    cell = small_cell(
        num_tasks=1, steps=120, eval_every=120, batch_size=16, eval_sequences=128, in_weights=True,
        sequence_length=10, model_size=16, key_size=8, learning_rate=1e-2,
    )  # fmt: skip
    trainer = trained(cell)
    [(row, curves)] = trainer.results()
    assert row["in_weights_last"] > 0.7
    assert row["in_weights_first"] == row["seen_first"]  # where no label has been seen
    assert row["in_context_last"] < 0.35
    assert set(schema.RELABELLED_COLUMNS) <= row.keys()
    assert {point["split"] for point in curves} == {*schema.SPLITS, *schema.RELABELLED}
    assert [r["split"] for r in trainer.history[0]] == [*schema.SPLITS, *schema.RELABELLED]
    [state] = trainer.states()
    check_state(cell, state)
    model = TrainedModel(cell, state)
    x, shown = model.sequences(schema.IN_WEIGHTS, range(128))
    predicted = model.predict(x, shown).argmax(dim=2)
    answers = model.answers(schema.IN_WEIGHTS, range(128))
    right = (predicted == answers).double()[:, -1].mean()
    assert right == pytest.approx(row["in_weights_last"])
    assert not torch.equal(shown, answers)
    x, y = model.sequences(schema.SEEN, range(8))
    assert torch.equal(model.answers(schema.SEEN, range(8)), y)


def test_columns_are_null_where_nobody_asks():
    [(row, curves)] = trained(small_cell(steps=2, eval_every=2)).results()
    assert all(row[name] is None for name in schema.RELABELLED_COLUMNS)
    assert {point["split"] for point in curves} == set(schema.SPLITS)


def test_cells_that_draw_differently_train_in_a_pack_as_they_would_alone():
    own = [
        {"zipf_exponent": 1.0, "num_tasks": 2**32},
        {"zipf_exponent": 2.0, "burstiness": 0.5, "num_tasks": 16},
        {"num_tasks": 16},
        {"num_tasks": 16, "label_noise": 0.5, "burstiness": 1.0, "burst_classes": 1},
    ]
    cells = [small_cell(**o, steps=4, eval_every=4, in_weights=True) for o in own]
    pack = trained(*cells)
    for cell, state, (row, curves) in zip(pack.cells, pack.states(), pack.results(), strict=True):
        alone = trained(cell)
        assert torch.equal(alone.states()[0]["theta"], state["theta"])
        [(alone_row, alone_curves)] = alone.results()
        same = {name: v for name, v in row.items() if name != "wall_seconds"}
        assert {name: alone_row[name] for name in same} == same
        assert alone_curves == curves

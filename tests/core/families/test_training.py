"""What models trained on the families become, beside the predictors: minutes on one core."""

import pytest

from metaphase.core.cell import Cell
from metaphase.core.training.trainer import PackTrainer

pytestmark = pytest.mark.slow


def trained(settings, tasks):
    """The last evaluation of cells with these numbers of tasks, by split, one a cell."""
    cells = [Cell.from_dict({**settings, "num_tasks": n}) for n in tasks]
    trainer = PackTrainer(cells)
    while not trainer.finished:
        trainer.advance()
        for cell, rows in zip(trainer.cells, trainer.history, strict=True):
            for row in rows[-3:]:
                shown = {k: round(v, 4) for k, v in row.items() if isinstance(v, float)}
                print(cell.num_tasks, row["step"], row["split"], shown)
    by_cell = dict(zip(trainer.cells, trainer.history, strict=True))
    return [{row["split"]: row for row in by_cell[cell][-3:]} for cell in cells]


def test_regression_with_one_task_is_dmmse_and_with_fresh_tasks_nearly_ridge():
    """Distances are of a mean square of 2.25 of the targets, 2 without noise."""
    one, fresh = trained(
        {
            **{"task_family": "linear_regression", "dimension": 2, "sequence_length": 8},
            **{"model_size": 32, "num_layers": 2, "num_heads": 2, "learning_rate": 0.003},
            **{"batch_size": 64, "steps": 2500, "eval_every": 500, "eval_sequences": 256},
            "learning_rate_schedule": "linear",
        },
        (1, 2**24),
    )
    for split in ("seen", "unseen"):
        assert one[split]["distance_memorizing"] < 0.02
        assert one[split]["relative_distance"] < 0.05
    ridge = fresh["unseen"]  # 0.42, 0.32, 0.21, 0.19 after 500, 1,000, 2,000, 2,500 steps
    assert ridge["distance_generalizing"] < 0.25
    assert ridge["distance_generalizing"] < 0.3 * ridge["distance_no_context"]
    assert ridge["loss"] < ridge["loss_generalizing"] + 0.25


def test_urns_go_from_memorizing_to_generalizing_with_their_number():
    few, many = trained(
        {
            **{"task_family": "balls_and_urns", "symbols": 8, "sequence_length": 32},
            **{"token_format": "shifted", "model_size": 32, "num_layers": 1, "num_heads": 1},
            **{"batch_size": 32, "steps": 1500, "eval_every": 300, "eval_sequences": 256},
            **{"learning_rate": 0.003, "gradient_clip": 1},
        },
        (4, 512),
    )
    assert few["unseen"]["relative_distance"] + 2 * few["unseen"]["relative_distance_se"] < 0.3
    assert many["unseen"]["relative_distance"] - 2 * many["unseen"]["relative_distance_se"] > 0.6
    assert few["unseen"]["distance_difference"] < 0 < many["unseen"]["distance_difference"]

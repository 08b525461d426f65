"""Packs that were given up: who is to blame, who goes on, and what the same command tries again."""

import types

import pytest

from metaphase.core import schema
from metaphase.sweeps.execution.rounds import judge
from metaphase.sweeps.execution.tune_progress import _last_error
from metaphase.sweeps.planning.missing import missing_cells
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.store.results import LOST_WORKER, Results
from tests.sweeps.store.test_results import history, row, state

TEXT = "cell: {steps: 10, warmup_steps: 5, image_size: 8}\ngrid: {seed: [0, 1, 2, 3, 4, 5]}\n"
SWEEP = parse_preset(TEXT, default_name="sweep")
CELLS = SWEEP.cells


@pytest.fixture
def results(tmp_path):
    return Results(str(tmp_path), "sweep")


def blame(results, *packs):
    errors = dict.fromkeys(range(len(packs)), "it broke")
    return judge(results, [Pack(p, 0, 1.0) for p in packs], errors, results.finished())


def test_a_pack_that_got_further_goes_on_whole(results):
    results.checkpoints.write(state(5, CELLS[0].cell_id))
    assert blame(results, CELLS[:1]) == ([CELLS[0]], None)
    assert blame(results, CELLS) == (list(CELLS), None)
    results.write_result(row(CELLS[2]), history(), [])
    assert blame(results, CELLS[1:4]) == ([CELLS[1], CELLS[3]], None)
    assert schema.FAILED not in results.finished().values()


def test_one_that_did_not_is_divided_until_the_cell_to_blame_is_alone(results):
    assert blame(results, CELLS) == (list(CELLS), 1)
    assert blame(results, CELLS[:1], CELLS[1:]) == (list(CELLS[1:]), 1)
    assert results.finished() == {CELLS[0].cell_id: schema.FAILED}


def test_what_tune_notes_is_told_apart(tmp_path):
    trial = types.SimpleNamespace(error_file=tmp_path / "error.txt")
    assert _last_error(trial) == LOST_WORKER
    raised = "Failure # 1 (occurred at now)\nray::train()\n  File\nValueError: x\n"
    trial.error_file.write_text(raised)
    assert _last_error(trial) == "ValueError: x"
    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: PackTrial\n"
    trial.error_file.write_text(f"{raised}Failure # 2 (occurred at now)\n{died}")
    assert _last_error(trial) == f"{LOST_WORKER}: {died.splitlines()[0]}"
    born = "The actor died because of an error raised in its creation task, ray::x\nOSError: y"
    trial.error_file.write_text(f"Failure # 2 (occurred at now)\n{born}\n")
    assert _last_error(trial) == "OSError: y"
    short = (
        "Traceback\nray.exceptions.OutOfMemoryError: the node was running low on memory\nRefer to"
    )
    trial.error_file.write_text(f"Failure # 3 (occurred at now)\n{short}\n")
    assert _last_error(trial).startswith(LOST_WORKER)


def test_a_cell_of_which_rows_were_lost_is_not_taken_for_finished(results):
    """Its worker dies before it is whole again: it is missing, also to a pack's blame."""
    results.write_result(row(CELLS[0]), history(), [])
    results.reopen({CELLS[0].cell_id})
    results.checkpoints.write_history(CELLS[0].cell_id, history()[:1])
    assert results.finished() == {}
    assert not results.is_trained(CELLS[0].cell_id)
    assert blame(results, CELLS[:2]) == (list(CELLS[:2]), 1)


def test_the_same_command_tries_cells_again_whose_workers_were_lost(results):
    results.write_failure(CELLS[0], "ValueError: x")
    results.write_failure(CELLS[1], f"{LOST_WORKER}: The actor died unexpectedly")
    results.write_result(row(CELLS[2]), history(), [])
    status = results.finished()
    assert missing_cells(SWEEP, results, status, False) == [CELLS[1], *CELLS[3:]]
    assert missing_cells(SWEEP, results, status, True) == [*CELLS[:2], *CELLS[3:]]

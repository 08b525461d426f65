"""A run that has nothing to train."""

import json

import pytest

from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.local_files import WRITING
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import has_settings, write_settings
from metaphase.sweeps.sweep_run import SweepRun
from tests.sweeps.store.test_results import complete, history, state

SWEEP = parse_preset("cell: {image_size: 8}\ngrid: {seed: [0, 1, 2]}", default_name="sweep")
DONE, LATER, FAILED = SWEEP.cells


@pytest.fixture
def results(tmp_path):
    """All finished; a checkpoint of a trained cell, evaluations of another, and a checkpoint of a
    failed one are left."""
    made = Results(str(tmp_path), "sweep")
    write_settings(made, SWEEP.settings)
    for cell in (DONE, LATER):
        made.write_result(*complete(cell))
    made.write_failure(FAILED, "it broke")
    for cell in (DONE, FAILED):
        made.checkpoints.write(state(250, cell.cell_id))
    made.checkpoints.write_history(LATER.cell_id, history())
    return made


def tidied(results):
    run = SweepRun(SWEEP, results, say=lambda *words, **options: None)
    assert run.nothing_to_do()
    run.tidy_up()
    return results


def test_what_a_killed_run_left_of_its_last_cells_goes(results):
    assert tidied(results).checkpoints.cell_ids() == {FAILED.cell_id}
    assert results.finished().keys() == {cell.cell_id for cell in SWEEP.cells}
    (results.local_path / "driver").unlink()
    tidied(results)
    assert not (results.local_path / "driver").exists()  # nothing to do, nothing written


def test_so_do_the_half_written_files_of_a_driver_that_did_not_release_the_sweep(results):
    tidied(results)
    (results.local_path / WRITING / "killed" / ".a").mkdir(parents=True)
    (results.local_path / "driver").write_text(json.dumps({"driver": "killed", "expires": 1}))
    tidied(results)
    assert not (results.local_path / WRITING).exists()
    assert results.claim.lease() is None


def test_where_another_driver_runs_all_stays(results):
    lease = acquire(Results(results.root, "sweep"))
    assert len(tidied(results).checkpoints.cell_ids()) == 3
    lease.release()


def test_a_preset_is_stored_where_there_is_none(results):
    (results.local_path / "sweep.yaml").unlink()
    assert has_settings(tidied(results))
    assert results.checkpoints.cell_ids() == {FAILED.cell_id}

"""Progress: one line that says how many cells, which phases, how far, how long."""

import dataclasses
import types

import pytest

from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.sweeps.execution import progress
from metaphase.sweeps.execution.pack_run import Report
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.tune_progress import TuneProgress
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.results import Results

CELLS = [Cell(seed=seed, steps=100) for seed in range(4)]


@pytest.fixture
def following(tmp_path):
    results = Results(str(tmp_path), "sweep")
    packs = [Pack(tuple(CELLS[:2]), 0, 3.0), Pack(tuple(CELLS[2:]), 50, 1.0)]
    return TuneProgress(results, packs, 6, {})


def report(following, pack, fraction, finished=()):
    told = Report(
        done=fraction == 1,
        fraction=fraction,
        finished={cell.cell_id: "memorizing" for cell in finished},
        training_seconds=2.0,
    )
    result = dataclasses.asdict(told)
    trial = types.SimpleNamespace(config={"pack": pack}, error_file=None)
    following.on_trial_result(1, [], trial, result)
    return trial


def test_the_share_of_work_is_weighted_by_cost_and_counts_only_this_run(following):
    assert following.share == 0
    report(following, 0, 0.5)
    assert following.share == pytest.approx(1.5 / 4)
    report(following, 1, 0.5)  # where its checkpoint was
    assert following.share == pytest.approx(1.5 / 4)
    report(following, 1, 1.0, CELLS[2:])
    assert following.share == pytest.approx(2.5 / 4)
    report(following, 0, 1.0, CELLS[:2])
    assert following.share == 1
    assert following.training_seconds == 8.0


def test_the_line_counts_cells_and_phases(following, monkeypatch):
    report(following, 0, 1.0, CELLS[:2])
    now = following._started + 75
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    assert following.line() == "2/6 cells  2 memorizing  75%  1:15 gone, about 0:25 left"
    following.said = "round 2: 4 cells"  # a search: whether more are trained nobody knows
    assert following.line() == "2/6 cells  2 memorizing  1:15 gone  round 2: 4 cells"


def test_cells_finished_before_are_counted_by_their_rows(tmp_path):
    results = Results(str(tmp_path), "sweep")
    results.write_failure(CELLS[0], "x")
    cell = CELLS[1]
    row = {**cell.to_dict(), "cell_id": cell.cell_id, "status": schema.DONE, "n": 1000}
    row |= {f"{split}_{s}": 0.5 for split in schema.SPLITS for s in ("first", "last")}
    row |= {f"{split}_improvement": 0.0 for split in schema.SPLITS}
    row |= {f"{split}_{s}_se": 0.01 for split in schema.SPLITS for s in schema.STATISTICS}
    row |= {"unseen_first": 0.2, "unseen_last": 0.2}
    results.write_result({**row, "chance": 0.2}, [], [])
    following = Progress(results, [], 6, results.finished())
    assert following.phase_counts() == "1 memorizing, 1 failed"


def test_elsewhere_than_in_a_terminal_lines_are_few(following, monkeypatch, capsys):
    start = following._started
    for second in range(100):
        monkeypatch.setattr(progress.time, "monotonic", lambda t=second: start + t)
        report(following, 0, second / 100)
        following.on_step_end(second, [])
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 10
    assert all(line.startswith("0/6 cells") for line in lines)


def test_in_a_terminal_one_line_is_drawn_again(following, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    following._shown_at -= 1
    following.on_step_end(1, [])
    following.on_step_end(2, [])  # too soon
    following.close()
    out = capsys.readouterr().out
    assert "\n" not in out
    assert out.count("0/6 cells") == 1
    assert out.endswith("\r")


def test_errors_of_given_up_packs_are_kept_in_one_line(following, tmp_path):
    trial = report(following, 1, 0.5)
    following.on_trial_error(1, [], trial)
    assert following.errors == {1: "its worker was lost"}
    trial.error_file = tmp_path / "error.txt"
    trial.error_file.write_text("Traceback\n  ...\nSomeError: x\n\n")
    following.on_trial_error(1, [], trial)
    assert following.errors == {1: "SomeError: x"}


def test_a_machine_that_lacks_something_is_named_and_no_pack_is_given_up(following, tmp_path):
    trial = report(following, 1, 0.5)
    trial.error_file = tmp_path / "error.txt"
    trial.error_file.write_text(
        "ray::PackTrial.__init__() (pid=12, ip=10.0.0.7, actor_id=3)\n"
        "ModuleNotFoundError: No module named 'sweeps'\n"
    )
    following.on_trial_error(1, [], trial)
    assert following.config_error == "10.0.0.7 lacks something: No module named 'sweeps'"
    assert following.errors == {}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that time.monotonic() tells, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def with_packs(tmp_path, count):
    packs = [Pack((cell,), 0, 1.0) for cell in CELLS[:1] * count]
    return Progress(Results(str(tmp_path), "sweep"), packs, count, {}, shown=False)


def test_packs_that_fail_alike_end_nothing_while_others_may_be_training(tmp_path, clock):
    """A pack says nothing before its first evaluation, which may be minutes away."""
    made = with_packs(tmp_path, 6)
    for index in (0, 5, 1, 2, 3):
        made.begin(index)
    clock[0] += 5
    for index in (0, 5, 1):
        made.begin(index)  # another try
    clock[0] += 4
    for index in (0, 5, 1):
        made.end(index, "ValueError: no such luck")
    assert made.config_error is None
    made.note(2, dataclasses.asdict(Report(done=True, fraction=1.0, training_seconds=60.0)))
    made.end(2)
    made.end(3, "ValueError: no such luck")
    assert made.config_error is None
    assert set(made.errors) == {0, 5, 1, 3}


def test_packs_that_fail_alike_end_it_though_another_has_just_begun(tmp_path, clock):
    made = with_packs(tmp_path, 6)
    for index in (0, 5, 1):
        made.begin(index)
        clock[0] += 5
        made.begin(2)
        made.end(index, "RuntimeError: no CUDA GPUs")
    assert "the first 3 packs all failed alike" in made.config_error
    assert made.errors == {}


def test_packs_that_fail_alike_are_of_both_ends_of_the_order(tmp_path, clock):
    made = with_packs(tmp_path, 6)
    for index in (0, 1, 2, 3):
        made.begin(index)
        made.end(index, "ValueError: no such luck")
    assert made.config_error is None
    made.begin(5)
    made.end(5, "ValueError: no such luck")
    assert made.config_error

"""A search on a sweep's results: the same cells however often it is stopped, and a grid at last."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase.core.cell import NUMERICS, ConfigError
from metaphase.sweeps import run
from metaphase.sweeps.commands.status import report
from metaphase.sweeps.execution.rounds import Outcome
from metaphase.sweeps.planning.workers import Workers, cpu_workers
from metaphase.sweeps.preset import load_preset, parse_preset
from metaphase.sweeps.search.propose import TARGET, propose
from metaphase.sweeps.search.seeking import SPENT, Seeking
from metaphase.sweeps.search.space import Known
from metaphase.sweeps.search.spending import Purse, Took
from metaphase.sweeps.search_settings import Search, parse, with_budget
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import NAME, Round, read_rounds, write_rounds
from metaphase.sweeps.store.sweepfile import write_settings
from metaphase.sweeps.sweep_run import SweepRun
from tests.sweeps.execution.test_worker import assert_same
from tests.tools.synthetic import write_cell

PRESET = """
cell: {num_classes: 5, sequence_length: 16, steps: 100, eval_every: 50, num_heads: 1}
grid:
  model_size: [4, 8, 16]
  num_tasks: [1, 2, 4, 8, 16, 32, 64, 128, 256]
  seed: [0, 1, 2]
"""
SWEEP = parse_preset(PRESET, default_name="sweep")
BEGINS = {4: 99.0, 8: 5.5, 16: 3.5}  # log2 number of tasks, by model size


def truth(cell):
    there = cell.num_tasks > 2 ** BEGINS[cell.model_size]
    return "generalizing" if there else "memorizing"


WIDE = Search(budget=0.9)
WORKERS = cpu_workers(2, 8e9)  # whose rounds are of 4 cells


class Slow(Workers):
    def seconds(self, cells, from_step=0):
        return 3600.0 * len(cells)


def train(root, search=WIDE, sweep=SWEEP, stop_after=None, shuffle=None, **options):
    """Trains what is proposed, as executors do, but writes made-up results; stops after so many
    cells. Returns the batches that it was given.

    Args:
        shuffle: seed of the order in which cells are finished and more are asked for; None: as they
            come, and as often as can be.
    """
    results = Results(str(root), sweep.name)
    batches = []
    chance = random.Random(shuffle)

    def executor(results, cells, *, lease, total, before, propose):
        given, running = {}, []
        done = 0
        while True:
            while cells or not running or shuffle is None or chance.random() < 0.5:
                proposed, said = (cells, "") if cells else propose(WORKERS, given)
                cells = []
                if proposed or not running:
                    batches.append([cell.cell_id for cell in proposed])
                if not proposed:
                    break
                assert not {cell.cell_id for cell in proposed} & given.keys()
                running += proposed
                given |= {cell.cell_id: False for cell in proposed}
            if not running:
                return Outcome(search=said)
            if done == stop_after:
                return Outcome(interrupted=True)
            cell = running.pop(0 if shuffle is None else chance.randrange(len(running)))
            write_cell(results.local_path, cell, truth(cell), n=128)
            given[cell.cell_id] = True
            done += 1

    seeking = Seeking(search, sweep.cells, sweep.axes)
    for table in ("cells", "history", "curves"):
        (results.local_path / table).mkdir(parents=True, exist_ok=True)
    outcome = SweepRun(sweep, results, seeking=seeking, **options).train(executor)
    return batches, outcome


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    given, outcome = train(root)
    return root, given, outcome


def test_a_search_ends_where_phases_begin(undisturbed):
    root, given, outcome = undisturbed
    results = Results(str(root), "sweep")
    assert outcome.search.startswith(TARGET)
    assert sum(map(len, given)) == len(results.finished()) < len(SWEEP.cells) * 0.7
    rounds = read_rounds(results)
    assert [list(one.octaves) for one in rounds] == given
    for said in rounds[-1].standings:
        begins = BEGINS[int(said["row"].split()[1])]
        assert said["done"]
        assert said["low"] is None or said["low"] <= begins
        assert said["high"] is None or begins <= said["high"]


@pytest.mark.parametrize(
    "stops", [[3, 9, 1], [5, 0, 2, 7], pytest.param([8, 17], marks=pytest.mark.slow)]
)
def test_stopped_and_gone_on_with_it_trains_the_same_cells(undisturbed, tmp_path, stops):
    root, given, _ = undisturbed
    for number, stop in enumerate(stops):  # and cells of two rounds are finished in any order
        train(tmp_path, stop_after=stop, shuffle=number)
    train(tmp_path, shuffle=len(stops))
    results = Results(str(tmp_path), "sweep")
    assert set(results.finished()) == {cell_id for batch in given for cell_id in batch}
    assert read_rounds(results) == read_rounds(Results(str(root), "sweep"))


def prepared(tmp_path, search=WIDE):
    """A search, its results, and what writes made-up results of cells."""
    results = Results(str(tmp_path), "sweep")
    for table in ("cells", "history", "curves"):
        (results.local_path / table).mkdir(parents=True, exist_ok=True)

    def finish(cells):
        for cell in cells:
            write_cell(results.local_path, cell, truth(cell), n=128)

    return Seeking(search, SWEEP.cells, SWEEP.axes), results, finish


def test_the_next_round_waits_for_none_of_the_last_ones_cells(tmp_path):
    proposed = []
    for name, number in (("none", 0), ("some", 2), ("all", 4)):
        seeking, results, finish = prepared(tmp_path / name)
        first, _ = seeking.next_round(results, WORKERS, {})
        given = {cell.cell_id: False for cell in first}
        second, said = seeking.next_round(results, WORKERS, given)  # of the first nothing is known
        assert said.startswith("round 2: 4 cells; ")
        finish(first)
        given = dict.fromkeys(given, True) | {cell.cell_id: False for cell in second}
        finish(second[:number])
        third, _ = seeking.next_round(results, WORKERS, given)
        assert not set(third) & {*first, *second}
        proposed.append((third, read_rounds(results)))
    assert proposed[0] == proposed[1] == proposed[2]


def test_rounds_before_the_last_are_waited_for(tmp_path):
    seeking, results, finish = prepared(tmp_path)
    first, _ = seeking.next_round(results, WORKERS, {})
    given = {cell.cell_id: False for cell in first}
    second, _ = seeking.next_round(results, WORKERS, given)
    given |= {cell.cell_id: False for cell in second}
    finish([*first[:3], *second])
    given |= {cell.cell_id: True for cell in [*first[:3], *second]}
    assert seeking.next_round(results, WORKERS, given) == ([], "")
    assert len(read_rounds(results)) == 2
    # stopped now, it goes on with the one that is left
    left, said = seeking.next_round(results, WORKERS, {})
    assert left == first[3:]
    assert said.startswith("round 1: 1 cells; ")


def test_no_cell_is_given_twice_though_its_round_is_lost(tmp_path):
    """As by another driver that was stopped while it proposed, and lost the sweep meanwhile."""
    seeking, results, _ = prepared(tmp_path)
    first, _ = seeking.next_round(results, WORKERS, {})
    given = {cell.cell_id: False for cell in first}
    rounds = read_rounds(results)
    second, _ = seeking.next_round(results, WORKERS, given)
    given |= {cell.cell_id: False for cell in second}
    write_rounds(results, rounds)
    assert seeking.next_round(results, WORKERS, given)[0] == []
    assert list(read_rounds(results)[1].octaves) == [cell.cell_id for cell in second]


def test_a_budget_counts_cells_that_are_under_way(tmp_path):
    seeking, results, finish = prepared(tmp_path, Search(budget=3 / 81))
    first, _ = seeking.next_round(results, WORKERS, {})
    given = {cell.cell_id: False for cell in first}
    second, _ = seeking.next_round(results, WORKERS, given)
    assert (len(first), len(second)) == (2, 1)
    given |= {cell.cell_id: False for cell in second}
    finish(first)
    given |= {cell.cell_id: True for cell in first}
    nothing = seeking.next_round(results, WORKERS, given)  # the second may tell that it is over
    assert nothing == ([], "")
    assert not read_rounds(results)[-1].reason
    finish(second)
    given |= {cell.cell_id: True for cell in second}
    cells, said = seeking.next_round(results, WORKERS, given)
    assert cells == []
    assert said.startswith(SPENT)
    assert read_rounds(results)[-1].reason == SPENT


def test_rounds_of_earlier_programs_go_on(tmp_path):
    """Theirs were of four cells a worker, and one was under way."""
    seeking, results, finish = prepared(tmp_path)
    known, _ = seeking.known(results)
    choices = propose(seeking.space, known, 8).choices
    cells = [seeking.cells[choice.cell] for choice in choices]
    write_rounds(results, [Round({cell.cell_id: 1.0 for cell in cells})])
    finish(cells[:5])
    left, said = seeking.next_round(results, WORKERS, {})
    assert set(left) == set(cells[5:])
    assert said.startswith("round 1: 3 cells; ")
    _, outcome = train(tmp_path)
    assert outcome.search.startswith(TARGET)
    assert list(read_rounds(results)[0].octaves) == [cell.cell_id for cell in cells]


def test_without_its_file_or_with_a_broken_one_it_goes_on_by_the_results(undisturbed, tmp_path):
    train(tmp_path, stop_after=12)
    file = tmp_path / "sweep" / NAME
    file.write_text(file.read_text()[:100])
    _, outcome = train(tmp_path)
    assert outcome.search.startswith(TARGET)


def test_cells_of_other_numerics_are_renewed_in_a_search_that_is_over(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    results = Results(str(tmp_path), SWEEP.name)
    path = next((results.local_path / "cells").glob("*.parquet"))
    cells = pq.read_table(path)
    at = cells.column_names.index("numerics")
    older = pa.array([NUMERICS - 1] * cells.num_rows, pa.int64())
    pq.write_table(cells.set_column(at, "numerics", older), path)

    def run_with(choice):
        seeking = Seeking(WIDE, SWEEP.cells, SWEEP.axes)
        return SweepRun(SWEEP, results, seeking=seeking, other_numerics=choice)

    assert run_with("keep").nothing_to_do() == TARGET
    assert run_with("renew").nothing_to_do() == ""


def test_forced_cells_of_a_search_that_is_over_are_trained_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    results = Results(str(tmp_path), SWEEP.name)
    finished = set(results.finished())
    forced = [cell for cell in SWEEP.cells if cell.cell_id in finished][:3]
    ids = [cell.cell_id for cell in forced]
    given, _ = train(tmp_path, stop_after=1, forced=forced)
    assert given == [ids]
    assert len(results.finished()) == len(finished) - 2
    given, _ = train(tmp_path)  # as the line says that continues, which lacks --force
    assert given == [ids[1:], []]
    assert set(results.finished()) == finished


@pytest.mark.parametrize("stop_after", [None, 0])
def test_failed_cells_of_a_search_that_is_over_are_tried_again(undisturbed, tmp_path, stop_after):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    results = Results(str(tmp_path), SWEEP.name)
    finished = set(results.finished())
    failed = [cell for cell in SWEEP.cells if cell.cell_id in finished][:2]
    results.remove_results({cell.cell_id for cell in failed})
    for cell in failed:
        results.write_failure(cell, "RuntimeError: no")
    seeking = Seeking(Search(budget=0.01), SWEEP.cells, SWEEP.axes)
    run = SweepRun(SWEEP, results, seeking=seeking, retry_failed=True)
    assert run.nothing_to_do() == ""
    assert SweepRun(SWEEP, results, seeking=seeking).nothing_to_do() == TARGET
    train(tmp_path, seeking.search, retry_failed=True, stop_after=stop_after)
    train(tmp_path, seeking.search)
    assert set(results.finished()) == finished
    assert set(results.finished().values()) == {"done"}


@pytest.mark.parametrize("kind", ["cells", "operations"])
def test_a_budget_is_kept(tmp_path, kind):
    search = Search(budget=0.15, kind=kind)
    _, outcome = train(tmp_path, search)
    assert outcome.search.startswith(SPENT)
    seeking = Seeking(search, SWEEP.cells, SWEEP.axes)
    known, took = seeking.known(Results(str(tmp_path), "sweep"))
    purse = Purse(search, seeking.space, took, np.zeros(len(SWEEP.cells)))
    assert 0.1 < purse.spent(known.finished_C) <= 0.15
    assert seeking.is_over(Results(str(tmp_path), "sweep")) == SPENT
    more = Seeking(dataclasses.replace(search, budget=0.25), SWEEP.cells, SWEEP.axes)
    assert more.is_over(Results(str(tmp_path), "sweep")) == ""


def test_hours_of_workers_are_a_budget(tmp_path):
    _, outcome = train(tmp_path, Search(budget=10 / 3600, kind="hours"))  # a cell says 1 second
    assert outcome.search.startswith(SPENT)
    assert len(Results(str(tmp_path), "sweep").finished()) == 10


def test_hours_that_are_not_known_yet_are_those_that_are_planned():
    """Else all that begins together would count as nothing."""
    seeking = Seeking(Search(budget=3.5, kind="hours"), SWEEP.cells, SWEEP.axes)
    known, took = Known.nothing(len(SWEEP.cells), 1), Took.nothing(len(SWEEP.cells))
    assert len(seeking.proposal(known, took, 8, Slow(2)).choices) == 3
    none = dataclasses.replace(seeking.search, budget=0.001)  # estimates may be far off
    first = Seeking(none, SWEEP.cells, SWEEP.axes).proposal(known, took, 8, Slow(2))
    assert len(first.choices) == 1


def test_nobody_knows_what_a_failed_cell_took(tmp_path):
    seeking, results, finish = prepared(tmp_path, Search(budget=10, kind="hours"))
    finish(SWEEP.cells[:1])
    results.write_failure(SWEEP.cells[1], "out of memory")
    _, took = seeking.known(results)
    assert np.isfinite(took.hours_C[:2]).tolist() == [True, False]
    purse = Purse(seeking.search, seeking.space, took, np.zeros(len(SWEEP.cells)))
    first = np.arange(len(SWEEP.cells)) == 0
    assert purse.spent(np.arange(len(SWEEP.cells)) < 2) > purse.spent(first)


def test_what_is_too_dear_keeps_no_other_cell_back(tmp_path):
    grid = {"model_size": [8, 64, 1024], "num_tasks": [2**k for k in range(13)], "seed": [0, 1]}
    sweep = parse_preset(f"grid: {grid}", default_name="sweep")
    seeking = Seeking(Search(budget=0.035, kind="operations"), sweep.cells, sweep.axes)
    known, took = Known.nothing(len(sweep.cells), 1), Took.nothing(len(sweep.cells))
    while choices := (found := seeking.proposal(known, took, 4)).choices:
        cells = [choice.cell for choice in choices]
        known.finished_C[cells] = True
        known.reached_PxC[0, cells] = seeking.space.x_C[cells] > 6.5
    assert found.reason == SPENT
    widths = [standing.width for standing in found.standings]
    assert max(widths[:2]) < 1.5  # as their cells were trained all the same
    assert widths[2] > 5


def test_steps_that_were_not_trained_are_not_spent(tmp_path):
    seeking = Seeking(Search(), SWEEP.cells, SWEEP.axes)
    results = Results(str(tmp_path), "sweep")
    for table in ("cells", "history", "curves"):
        (results.local_path / table).mkdir(parents=True)
    cells = [cell for cell in SWEEP.cells if cell.seed == 0]
    for cell in cells:
        write_cell(results.local_path, cell, truth(cell), n=128)
    whole = seeking.share_of_operations(results)
    assert 0.3 < whole < 0.4  # a seed of three, and streams
    for path in (results.local_path / "cells").glob("*.parquet"):
        table = pq.read_table(path)
        at = table.column_names.index("steps_trained")
        half = pa.array([table["steps"][0].as_py() // 2], table.schema[at].type)
        pq.write_table(table.set_column(at, table.schema[at], half), path)
    assert seeking.share_of_operations(results) == pytest.approx(whole / 2)


def test_settings_that_follow_from_an_axis_make_no_rows_and_no_families():
    seeking = Seeking(Search(), (cells := load_preset("figure2-laptop").cells), ["model_size",
                      "num_tasks", "seed", "steps"])  # fmt: skip
    assert len({cell.steps for cell in cells}) == 3  # more where there are more tasks
    assert seeking.rows == [f"model_size {size}" for size in (8, 16, 32, 64)]
    assert [len(x_K) for x_K, _ in seeking.space.points] == [9] * 4
    by_size = """
grid:
- {model_size: [8], num_tasks: [1, 8, 64], learning_rate: [0.01]}
- {model_size: [32], num_tasks: [1, 8, 64], learning_rate: [0.001]}
"""
    sweep = parse_preset(by_size, default_name="sweep")
    seeking = Seeking(Search(), sweep.cells, sweep.axes)
    assert seeking.rows == ["model_size 8", "model_size 32"]
    assert seeking.space.family_R.tolist() == [0, 0]
    # one that varies at each is a family's
    sweep = parse_preset(
        "grid: {model_size: [8, 32], num_tasks: [1, 8, 64], learning_rate: [0.01, 0.001]}",
        default_name="sweep",
    )
    assert Seeking(Search(), sweep.cells, sweep.axes).space.family_R.tolist() == [0, 1, 0, 1]


def test_a_row_that_is_too_short_is_named():
    grids = """
grid:
- {model_size: [8, 16], num_tasks: [1, 8, 64]}
- {model_size: [32], num_tasks: [1, 64]}
"""
    sweep = parse_preset(grids, default_name="sweep")
    with pytest.raises(ConfigError, match=r"num_tasks: 2 in the grid at model_size 32, .* give at"):
        Seeking(Search(), sweep.cells, sweep.axes)


def test_what_a_grid_has_trained_counts(undisturbed, tmp_path):
    _, given, _ = undisturbed
    results = Results(str(tmp_path), "sweep")
    for table in ("cells", "history", "curves"):
        (results.local_path / table).mkdir(parents=True)
    finished = [cell for cell in SWEEP.cells if cell.num_tasks in (1, 16, 256)]
    for cell in finished:
        write_cell(results.local_path, cell, truth(cell), n=128)
    others, outcome = train(tmp_path)
    assert outcome.search.startswith(TARGET)
    assert not {cell.cell_id for cell in finished} & {
        cell_id for batch in others for cell_id in batch
    }
    assert sum(map(len, others)) < sum(map(len, given))


def test_what_it_expects_to_need_is_near_what_it_needs(undisturbed, tmp_path):
    root, given, _ = undisturbed
    seeking = Seeking(Search(budget=0.9), SWEEP.cells, SWEEP.axes)
    start, needed, operations = seeking.expected(Results(str(tmp_path), "sweep"), WORKERS)
    assert [cell.cell_id for cell in start] == given[0]
    assert not (tmp_path / "sweep" / NAME).exists()
    assert 0.4 < needed / sum(map(len, given)) < 2.5
    assert 0 < operations < 1
    # at the end nothing is left
    assert seeking.expected(Results(str(root), "sweep"), WORKERS)[0] == []
    # a cell takes an hour of this estimate, or a little more beside others
    brief = Seeking(Search(budget=7.5, kind="hours"), SWEEP.cells, SWEEP.axes)
    assert brief.expected(Results(str(tmp_path), "sweep"), Slow(2))[1] in (6, 7)


def test_status_says_what_was_proposed_and_why_it_ended(undisturbed, tmp_path):
    root, given, _ = undisturbed
    results = Results(str(root), "sweep")
    write_settings(results, SWEEP.settings)
    text = "\n".join(report(results))
    proposed = f"{len(given) - 1} rounds, {sum(map(len, given))} cells proposed"  # and an end
    assert f"Sought boundaries: {proposed}; {TARGET}." in text
    assert "As of its last round:\n  generalizing begins, model_size 4: 2^ above " in text
    assert "  it trained model_size" in text
    # trained as a grid meanwhile, it has nothing of the search's intervals
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    results = Results(str(tmp_path), "sweep")
    for cell in SWEEP.cells:
        write_cell(results.local_path, cell, truth(cell), n=128)
    text = "\n".join(report(results))
    assert f"Sought boundaries: {proposed}; {TARGET}." in text
    assert "begins, model_size" not in text
    assert "  it trained" not in text


def test_status_says_what_is_under_way(tmp_path):
    train(tmp_path, stop_after=3)
    results = Results(str(tmp_path), "sweep")
    write_settings(results, SWEEP.settings)
    text = "\n".join(report(results))
    assert "Seeks boundaries: 2 rounds, 8 cells proposed." in text
    assert text.count("  it trained model_size") == 3
    assert text.count("  it trains model_size") == 5
    assert "  generalizing begins, model_size 8: anywhere (8.0 octaves)" in text


def test_a_row_is_what_differs_in_neither_tasks_nor_seed():
    text = PRESET + "  learning_rate: [0.001, 0.003]\n"
    sweep = parse_preset(text, default_name="sweep")
    seeking = Seeking(Search(), sweep.cells, sweep.axes)
    assert seeking.rows[0] == "model_size 4, learning_rate 0.001"
    assert len(seeking.rows) == 6
    assert seeking.space.family_R.tolist() == [0, 1, 0, 1, 0, 1]


def test_what_cannot_be_sought_is_refused():
    few = parse_preset("cell: {}\ngrid: {num_tasks: [1, 2], model_size: [8, 16]}", default_name="s")
    with pytest.raises(
        ConfigError, match=r"num_tasks: 2 in the grid at model_size 8, .* give at least 3"
    ):
        Seeking(Search(), few.cells, few.axes)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("everything", "search: 'everything' is not one of boundary"),
        (
            {"budgt": 1},
            "search: 'budgt': unknown key; known keys: boundary, target_octaves, budget",
        ),
        ({"boundary": "memorizing"}, "search: boundary: 'memorizing' is not one of identifying"),
        ({"boundary": []}, r"search: boundary: \[\]: name each phase once"),
        ({"target_octaves": 0}, "search: target_octaves: 0 is not a number above 0"),
        ({"target_octaves": float("inf")}, "search: target_octaves: inf is not a finite number"),
        ({"budget": 1.5}, "search: budget: cells: 1.5 is not a number above 0, at most 1"),
        ({"budget": True}, "search: budget: cells: True is not a number"),
        ({"budget": {"days": 1}}, "search: budget: .* is not one of cells, operations, hours"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(said, error):
    with pytest.raises(ConfigError, match=error) as raised:
        parse(said)
    assert "\n" not in str(raised.value)


def test_presets_say_searches_and_pass_them_on(tmp_path):
    assert parse(None) is None
    assert parse("boundary") == Search()
    said = {"boundary": ["generalizing", "identifying"], "budget": {"hours": 2}}
    assert parse(said) == Search(("identifying", "generalizing"), budget=2.0, kind="hours")
    assert with_budget(Search(), "operations=0.1", "--budget") == Search(
        budget=0.1, kind="operations"
    )
    base = tmp_path / "base.yaml"
    base.write_text("search: boundary\n" + PRESET)
    above = parse_preset(f"base: {base}", default_name="above")
    assert above.settings["search"] == "boundary"
    assert [c.cell_id for c in above.cells] == [c.cell_id for c in SWEEP.cells]
    plain = parse_preset(f"base: {base}\nsearch: null", default_name="above")
    assert "search" not in plain.settings
    with pytest.raises(ConfigError, match="preset: search: 'x' is not one of boundary"):
        parse_preset("search: x" + PRESET, default_name="s")


TINY = """
cell: {image_size: 4, num_classes: 5, sequence_length: 8, batch_size: 8, steps: 20, eval_every: 10,
       eval_sequences: 16, warmup_steps: 5, num_heads: 1}
grid: {model_size: [4], num_tasks: [1, 8, 64, 512], seed: [0, 1]}
"""


def test_a_grid_finished_later_is_as_if_it_had_been_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset = tmp_path / "tiny.yaml"
    preset.write_text(TINY)
    command = [str(preset), "--executor", "local"]
    assert run.main([*command, "--boundary", "--dry-run"]) == 0
    assert "a search for where generalizing begins" in capsys.readouterr().out
    assert run.main([*command, "--boundary", "--budget", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "4 of 8 cells are trained" in said
    assert "generalizing begins at 2^: model_size 4" in said
    assert json.loads((tmp_path / "results/tiny" / NAME).read_text())["rounds"]
    search = [*command, "--boundary", "--budget", "0.5"]
    assert run.main(search) == 0
    assert "Nothing to do: the budget is spent." in capsys.readouterr().out
    forced = [*search, "--force", next(iter(Results("results", "tiny").finished()))]
    assert run.main([*forced, "--dry-run"]) == 0
    assert "1 cells are trained again first" in capsys.readouterr().out
    assert run.main(forced) == 0
    said = capsys.readouterr().out
    assert "tiny: 1 cells again, and a search among 8 cells" in said
    assert "4 of 8 cells are trained" in said
    assert "--no-boundary trains the others" in said
    assert run.main(command) == 0
    capsys.readouterr()
    assert run.main(search) == 0
    assert "--no-boundary" not in capsys.readouterr().out
    assert run.main([*command, "--root", "whole"]) == 0
    assert_same(Results("results", "tiny"), Results("whole", "tiny"))
    assert run.main([*command, "--budget", "0.5"]) == 1
    assert "--budget: 0.5 is of a search; allowed: with --boundary" in capsys.readouterr().err

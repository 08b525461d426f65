"""Rounds of a search: none waits for the last cell of the one before, whatever becomes of cells."""

import dataclasses
import threading
import types

import pytest

import metaphase as mp
from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.sweeps.execution import local, pack_run
from metaphase.sweeps.execution.pack_run import Report
from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.execution.rounds import More, Outcome, Rounds
from metaphase.sweeps.planning.packs import plan
from metaphase.sweeps.planning.workers import Workers
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.searchfile import read_rounds
from tests.sweeps.execution.test_worker import assert_same

CELL = {
    "image_size": 4, "num_classes": 5, "sequence_length": 8, "batch_size": 8, "steps": 20,
    "eval_every": 10, "eval_sequences": 16, "warmup_steps": 5,
}  # fmt: skip
GRID = {"model_size": [4, 8], "num_tasks": [1, 4, 16, 64, 256, 1024], "seed": [0, 1]}
SWEEP = mp.Sweep("sweep", CELL, GRID, search={"budget": 0.6})  # 14 cells: rounds of 3, 2 at last
WAIT = 120.0  # seconds, where something is wrong


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "cores", lambda: 2)
        mp.run(SWEEP, root, progress=False)
    return Results(str(root), "sweep")


def advancing(monkeypatch, meet):
    """Has `meet`, given a pack's cells and the number of their round, called before each part of
    their training."""
    real = pack_run.PackTrainer.advance
    numbers = {}

    def advance(self, should_stop=None):
        for number, one in enumerate(read_rounds(numbers["results"]), 1):
            numbers.update(dict.fromkeys(one.octaves, number))
        meet(self.cells, max(numbers[cell.cell_id] for cell in self.cells))
        return real(self, should_stop)

    def of(results):
        numbers["results"] = results
        monkeypatch.setattr(pack_run.PackTrainer, "advance", advance)
        return results

    return of


def test_a_straggler_keeps_nobody_waiting(tmp_path, monkeypatch, undisturbed):
    later, held = threading.Event(), []

    def meet(cells, number):
        if number == 3:
            later.set()
        if number == 2 and not held:
            held.append(cells)
            held.append(later.wait(WAIT))  # a cell of the next round is trained beside it

    results = advancing(monkeypatch, meet)(Results(str(tmp_path), "sweep"))
    mp.run(SWEEP, tmp_path, progress=False, pack_size=1)
    assert held[1:] == [True]
    assert read_rounds(results) == read_rounds(undisturbed)
    assert [len(one.octaves) for one in read_rounds(results)] == [3, 3, 3, 3, 2, 0]
    assert_same(results, undisturbed)


@pytest.mark.parametrize("pack_size", [1, 2])
def test_a_pack_that_is_given_up_is_judged_and_the_search_goes_on(tmp_path, monkeypatch, pack_size):
    bad = []

    def meet(cells, number):
        if number == 2 and not bad:
            bad.append(cells[0])
        if set(bad) & set(cells):
            raise ValueError("no such luck")

    results = advancing(monkeypatch, meet)(Results(str(tmp_path), "sweep"))
    outcome = mp.run(SWEEP, tmp_path, progress=False, pack_size=pack_size)
    finished = results.finished()
    assert [id_ for id_, said in finished.items() if said == schema.FAILED] == [bad[0].cell_id]
    rounds = read_rounds(results)
    assert len(outcome.cells) == len(finished) == sum(len(one.octaves) for one in rounds) == 14
    assert [len(one.octaves) for one in rounds] == [3, 3, 3, 3, 2, 0]


def test_stopped_while_two_rounds_are_under_way_it_goes_on_with_both(
    tmp_path, monkeypatch, undisturbed
):
    stopped, leaving, held = threading.Event(), threading.Event(), []

    def meet(cells, number):
        if number == 3:
            stopped.set()
        if number == 2 and not held:
            held.append(cells)
            leaving.wait(WAIT)

    results = advancing(monkeypatch, meet)(Results(str(tmp_path), "sweep"))
    real_follow, real_join = local._Threads.follow, local._Threads.join

    def follow(self, progress):  # as Ctrl-C
        if stopped.is_set():
            raise KeyboardInterrupt
        return real_follow(self, progress)

    def join(self):
        leaving.set()
        real_join(self)

    with monkeypatch.context() as patched:
        patched.setattr(local._Threads, "follow", follow)
        patched.setattr(local._Threads, "join", join)
        with pytest.raises(KeyboardInterrupt):
            mp.run(SWEEP, tmp_path, progress=False, pack_size=1)
    finished = results.finished().keys()
    assert [bool(one.octaves.keys() - finished) for one in read_rounds(results)] == [0, 1, 1]
    mp.run(SWEEP, tmp_path, progress=False)
    assert read_rounds(results) == read_rounds(undisturbed)
    assert_same(results, undisturbed)


def test_fast_paths_are_tried_for_all_that_a_search_may_choose(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(local, "_prove", lambda cells, *rest: tried.extend(cells) or {})
    mp.run(SWEEP, tmp_path, progress=False, time_limit=0)
    assert tried == list(SWEEP.cells)


@pytest.fixture
def asking(tmp_path):
    """What asks a search for more, its progress, and what the search was asked."""
    cells = list(SWEEP.cells)
    asked, answers = [], [cells[2:4], [], cells[4:5]]

    class Search:
        cells = SWEEP.cells

        def __call__(self, workers, given):
            asked.append(dict(given))
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer, f"{len(answer)} cells"

    results = Results(str(tmp_path), "sweep")
    lease = types.SimpleNamespace(lost=False)
    stop = threading.Event()
    workers = Workers(2)
    packs = plan(cells[:2], workers)
    rounds = Rounds(results, lease, "data", len(cells), {}, outcome=Outcome())
    progress = Progress(results, packs, len(cells), {}, shown=False)
    more = More(rounds, Search(), workers, None, stop.is_set, packs)
    return types.SimpleNamespace(
        more=more, progress=progress, asked=asked, answers=answers, stop=stop, lease=lease,
        cells=cells, packs=len(packs),
    )  # fmt: skip


def tell(progress, index, **said):
    progress.note(index, dataclasses.asdict(Report(done=True, fraction=1.0, **said)))


def test_a_search_is_asked_when_something_has_finished(asking):
    progress, cells = asking.progress, asking.cells
    added = asking.more(progress)
    assert added[0] == asking.packs
    assert [c for i in added for c in progress.packs[i].cells] == cells[2:4]
    assert progress.said == "2 cells"
    assert list(asking.more(progress)) == []
    assert list(asking.more(progress)) == []  # nothing has finished: it isn't asked
    assert len(asking.asked) == 2
    tell(progress, 0, finished={cells[0].cell_id: "memorizing"}, training_seconds=1.0)
    assert len(asking.more(progress)) == 1
    assert asking.asked[-1] == {cell.cell_id: cell is cells[0] for cell in cells[:4]}


@pytest.mark.parametrize(
    "why", ["error", "left", "config_error", "lost", "stop", "storage", "tree"]
)
def test_there_is_no_more_once_something_has_to_be_judged(asking, why):
    progress = asking.progress
    if why == "error":
        progress.end(0, "ValueError: no such luck")
    elif why == "left":
        tell(progress, 0, poisoned=True)
    elif why == "config_error":
        tell(progress, 0, config_error="the disk is full")
    elif why == "lost":
        asking.lease.lost = True
    elif why == "stop":
        asking.stop.set()
    else:
        error = OSError("no network") if why == "storage" else ConfigError("cells: is a file")
        asking.answers.insert(0, error)
    for _ in range(2):
        assert list(asking.more(progress)) == []
        assert len(asking.asked) == (why in ("storage", "tree"))


def test_packs_that_are_added_count_in_the_share_of_work(asking):
    progress = asking.progress
    for index in range(asking.packs):
        tell(progress, index)
    assert progress.share == 1.0
    asking.more(progress)
    assert 0.3 < progress.share < 0.7

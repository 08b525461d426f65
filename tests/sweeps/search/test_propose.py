"""Proposals: a pure function, towards the boundary, cheap cells and shared streams first."""

import time

import numpy as np
import pytest

from metaphase.sweeps.search.family import Family, Rows, ends
from metaphase.sweeps.search.propose import HOPELESS, MOST_OF_A_ROW, NOTHING, TARGET, propose
from metaphase.sweeps.search.space import Known, Space


def space(sizes=(8, 16, 32, 64), octaves=17, seeds=3, cost=None, shared=0.0):
    axes = (range(len(sizes)), range(octaves), range(seeds))
    row, k, seed = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    costs = np.ones(len(sizes)) if cost is None else np.array(cost, dtype=float)
    return Space(row, k.astype(float), costs[row], k * seeds + seed, np.full(len(row), shared),
                 np.zeros(len(sizes), int), np.array(sizes))  # fmt: skip


def seek(one, reached, most=8, target=1.0, rounds=100):
    """The cells that were trained until it stops, and its last proposal."""
    known, trained = Known.nothing(len(one.row_C), 1), []
    for _ in range(rounds):
        proposal = propose(one, known, most, target)
        cells = [choice.cell for choice in proposal.choices]
        if not cells:
            break
        assert len(cells) <= most
        assert not known.finished_C[cells].any()
        assert len(set(cells)) == len(cells)
        known.finished_C[cells] = True
        known.reached_PxC[0, cells] = reached(cells)
        trained += cells
    return trained, proposal


def test_a_step_is_found_with_a_part_of_the_cells():
    one = space()
    theta = np.array([5.5, 6.5, 7.5, 8.5])
    trained, proposal = seek(one, lambda cells: one.x_C[cells] > theta[one.row_C[cells]])
    assert proposal.reason == TARGET
    assert len(trained) < 0.4 * len(one.row_C)
    for standing in proposal.standings:
        assert standing.done
        assert standing.width <= 1.2  # a gap, and the distance of thetas
        assert standing.low <= theta[standing.row] <= standing.high
        assert abs(standing.middle - theta[standing.row]) < 0.6


def test_a_row_in_which_no_cell_has_a_phase_is_left_alone():
    one = space(sizes=(8, 16))

    def reached(cells):
        return np.where(one.row_C[cells] == 0, np.nan, one.x_C[cells] > 6.5)

    trained, proposal = seek(one, reached, most=len(one.row_C))
    assert proposal.reason == NOTHING
    widths = [standing.width for standing in proposal.standings]
    assert widths[0] > 5
    assert widths[1] < 1.3
    without = (one.row_C[trained] == 0).sum()
    assert HOPELESS <= without < HOPELESS + MOST_OF_A_ROW


def test_the_next_cells_are_a_function_of_what_is_known():
    one = space()
    known = Known.nothing(len(one.row_C), 1)
    first = propose(one, known, 10)
    assert propose(one, known, 10).choices == first.choices
    # fewer of them are the same ones: the best is proposed first
    assert propose(one, known, 4).choices == first.choices[:4]


def test_what_becomes_of_pending_cells_is_unknown():
    one = space()
    known = Known.nothing(len(one.row_C), 1)
    first = [choice.cell for choice in propose(one, known, 6).choices]
    pending = np.isin(np.arange(len(one.row_C)), first)
    proposals = []
    for reached in (np.nan, 0.0, 1.0):  # not finished, and finished
        known.finished_C[first] = np.isfinite(reached)
        known.reached_PxC[0, first] = reached
        proposals.append(propose(one, known.with_pending(pending), 6))
    assert proposals[0] == proposals[1] == proposals[2]
    second = [choice.cell for choice in proposals[0].choices]
    assert len(second) == 6
    assert not set(first) & set(second)
    # as if both had been chosen at once, but for what streams cost
    alone = space(seeds=1)
    both = [choice.cell for choice in propose(alone, Known.nothing(len(alone.row_C), 1), 8).choices]
    known = Known.nothing(len(alone.row_C), 1)
    known = known.with_pending(np.isin(np.arange(len(alone.row_C)), both[:4]))
    assert [choice.cell for choice in propose(alone, known, 4).choices] == both[4:]


def test_a_row_with_many_pending_cells_waits_for_them():
    one = space()
    pending = (one.row_C == 0) & (np.arange(len(one.row_C)) % 2 == 0)  # 26 of them
    known = Known.nothing(len(one.row_C), 1).with_pending(pending)
    assert 0 not in {int(one.row_C[choice.cell]) for choice in propose(one, known, 12).choices}


def test_without_a_transition_it_stops_and_says_so():
    one = space()
    trained, proposal = seek(one, lambda cells: np.zeros(len(cells)))
    assert proposal.reason == TARGET
    assert len(trained) < 0.4 * len(one.row_C)
    assert all(s.high == np.inf and np.isnan(s.middle) for s in proposal.standings)


def test_cells_without_a_phase_are_finished_and_say_nothing():
    one = space(octaves=9, seeds=1)
    trained, proposal = seek(one, lambda cells: np.full(len(cells), np.nan), most=3)
    assert all(HOPELESS <= n < 9 for n in np.bincount(one.row_C[trained]))
    assert proposal.reason == NOTHING  # intervals are as wide as ever
    assert {s.width for s in proposal.standings} == {8.0}


def test_where_nothing_is_told_it_looks_elsewhere():
    one = space(sizes=(8,), seeds=8)
    known = Known.nothing(len(one.row_C), 1)
    middle = propose(one, known, 1).choices[0].cell
    nearby = np.flatnonzero(abs(one.x_C - one.x_C[middle]) < 1.5)
    known.finished_C[nearby[::2]] = True  # and none of them has a phase
    assert abs(one.x_C[propose(one, known, 1).choices[0].cell] - one.x_C[middle]) > 1.5


def test_cheap_rows_come_first_and_dear_ones_are_not_forgotten():
    one = space(cost=[1, 1, 1, 60])
    known = Known.nothing(len(one.row_C), 1)
    assert 3 not in {int(one.row_C[c.cell]) for c in propose(one, known, 6).choices}
    trained, _ = seek(one, lambda cells: one.x_C[cells] > 7.5)
    number = np.bincount(one.row_C[trained], minlength=4)
    assert 0 < number[3] <= number[:3].min()


def test_a_stream_that_the_batch_has_is_preferred():
    one = space(seeds=4, shared=0.9)
    known = Known.nothing(len(one.row_C), 1)
    known.finished_C[(one.row_C == 0) & (one.stream_C % 4 == 0)] = True  # row 0 begins with seed 1
    cells = [c.cell for c in propose(one, known, 8).choices]
    at_first = [c for c in cells if one.x_C[c] == one.x_C[cells[0]]]
    assert len(at_first) > 1
    assert len({one.stream_C[c] for c in at_first}) == 1


def test_gaps_of_the_grid_are_no_fault():
    one = space(sizes=(8, 16))
    gapped = Space(one.row_C, 4 * one.x_C, one.cost_C, one.stream_C, one.shared_C,
                   one.family_R, one.size_R)  # fmt: skip
    _, proposal = seek(gapped, lambda cells: gapped.x_C[cells] > 30)
    assert proposal.reason == TARGET
    assert all(1 < s.width <= 4 for s in proposal.standings)


def test_two_phases_are_sought_at_once():
    one = space()
    known = Known.nothing(len(one.row_C), 2)
    for _ in range(40):
        cells = [c.cell for c in propose(one, known, 8).choices]
        if not cells:
            break
        known.finished_C[cells] = True
        known.reached_PxC[:, cells] = [one.x_C[cells] > 3.5, one.x_C[cells] > 9.5]
    found = propose(one, known, 8).standings
    assert [s.phase for s in found] == [0] * 4 + [1] * 4
    assert all(abs(s.middle - (3.5, 9.5)[s.phase]) < 0.6 for s in found)


def test_families_have_boundaries_of_their_own():
    one = space()
    apart = Space(one.row_C, one.x_C, one.cost_C, one.stream_C, one.shared_C,
                  np.array([0, 0, 1, 1]), np.array([8, 16, 8, 16]))  # fmt: skip
    theta = np.array([3.5, 3.5, 11.5, 11.5])
    _, proposal = seek(apart, lambda cells: apart.x_C[cells] > theta[apart.row_C[cells]])
    assert [s.middle for s in proposal.standings] == pytest.approx(theta, abs=0.6)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held, rng, one = [], np.random.default_rng(0), space(octaves=14)
    for _ in range(6):
        theta = 6.5 + np.cumsum(rng.normal(0, 1, 4))
        reached = rng.random(len(one.x_C)) < 1 / (1 + np.exp(-(one.x_C - theta[one.row_C]) / 0.5))
        _, proposal = seek(one, lambda cells, of=reached: of[cells], rounds=5)
        held += [s.low <= theta[s.row] <= s.high for s in proposal.standings]
    assert np.mean(held) > 0.8  # 24 of them


def test_five_thousand_candidates_take_less_than_two_seconds():
    one = space(sizes=tuple(2**k for k in range(10)), octaves=50, seeds=10)
    assert len(one.row_C) == 5000
    began = time.process_time()
    assert len(propose(one, Known.nothing(5000, 1), 40).choices) == 40
    assert time.process_time() - began < 2 * 3  # beside other work, three times as long


def test_sizes_of_many_seeds_that_contradict_each_other_leave_numbers():
    """What one row rules out another may need: not all may come to nothing."""
    x = tuple(map(float, range(26)))
    for seeds in (20, 60, 100):
        yes = [[seeds * share * (k > theta) for k in x] for share, theta in ((1, 3), (0.5, 6))]
        no = [[seeds - n for n in row] for row in yes]
        rows = Rows((8.0, 16.0), (x, x), tuple(map(tuple, yes)), tuple(map(tuple, no)))
        assert np.isfinite(ends(rows)).all()
        family = Family(rows, ((1.0,) * 26,) * 2, (0.1, 0.1))
        for cell in range(4):
            family.choose(cell, cell % 2, 5 + cell)
            family.look()
        assert np.isfinite(family.octaves).all()


def test_a_median_beyond_the_grid_says_on_which_side():
    one = space()
    known = Known.nothing(len(one.row_C), 1)
    high = np.flatnonzero(one.x_C >= 13)
    known.finished_C[high], known.reached_PxC[0, high] = True, 0.0
    for standing in propose(one, known, 1).standings:
        assert np.isnan(standing.middle)
        assert standing.median > 16

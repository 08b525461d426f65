"""Plans: every cell once, in packs that can be trained together, busy workers, dearest first."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaphase.core.cell import Cell, pack_key, stack_key, stream_key
from metaphase.core.training.cost import normals_per_step, pack_bytes
from metaphase.sweeps.planning.packs import makespan, plan
from metaphase.sweeps.planning.workers import (
    FEWEST,
    MEMORY_SHARE,
    MOST,
    Workers,
    cpu_workers,
    gpu_workers,
)
from metaphase.sweeps.preset import load_preset

QUICKSTART = load_preset("quickstart").cells


def grid(widths, tasks, seeds, **settings):
    return [
        Cell(model_size=w, num_tasks=n, seed=s, **settings)
        for w, n, s in itertools.product(widths, tasks, seeds)
    ]


@settings(max_examples=30, deadline=None)
@given(
    widths=st.sets(st.sampled_from([4, 8, 16, 64, 256]), min_size=1),
    tasks=st.sets(st.integers(1, 2**32), min_size=1, max_size=6),
    seeds=st.sets(st.integers(0, 9), min_size=1, max_size=3),
    workers=st.integers(1, 40),
    pack_size=st.none() | st.integers(1, 5),
    memory=st.sampled_from([1e6, 1e8, 1e11]),
    data=st.data(),
)
def test_every_cell_is_in_one_pack(widths, tasks, seeds, workers, pack_size, memory, data):
    cells = grid(widths, tasks, seeds)
    steps = {
        c.cell_id: data.draw(st.sampled_from([0, 250, 500])) for c in cells if c.seed == min(seeds)
    }
    packs = plan(cells, Workers(workers, memory=memory), steps, pack_size)
    planned = [cell for pack in packs for cell in pack.cells]
    assert sorted(c.cell_id for c in planned) == sorted(c.cell_id for c in cells)
    for pack in packs:
        assert len({pack_key(cell) for cell in pack.cells}) == 1
        assert {steps.get(cell.cell_id, 0) for cell in pack.cells} == {pack.step}
        assert len(pack.cells) <= (pack_size or len(cells))
        needed = pack_bytes(pack.cells, "cpu")
        assert len(pack.cells) == 1 or needed <= MEMORY_SHARE * memory
    assert [p.seconds for p in packs] == sorted((p.seconds for p in packs), reverse=True)


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_the_quickstart_keeps_all_cores_busy(workers):
    packs = plan(QUICKSTART, Workers(workers))
    shared = sum(pack.seconds for pack in packs) / workers
    assert makespan(packs, workers) < 1.15 * shared + 3


def test_one_worker_trains_each_shape_in_one_pack_where_batches_cost_little():
    packs = plan(QUICKSTART, Workers(1, memory=80e9))
    assert len(packs) == len({stack_key(cell) for cell in QUICKSTART})


@pytest.mark.parametrize(("count", "memory"), [(1, 80e9), (1, 24e9), (4, 80e9)])
def test_widths_share_their_batches_where_those_are_dear(count, memory):
    """Drawing projections of 28 x 28 pixels costs more than small models do."""
    cells = load_preset("figure2").cells
    workers = gpu_workers(count, memory)
    packs = plan(cells, workers)
    widths = len({cell.model_size for cell in cells})
    for pack in packs:
        assert workers.hold(pack.cells)
        assert len(pack.cells) == widths * len({stream_key(cell) for cell in pack.cells})
    assert makespan(packs, count) < 1.3 * sum(pack.seconds for pack in packs) / count
    of_width = [[c for c in cells if c.model_size == w] for w in {c.model_size for c in cells}]
    apart = sum(workers.seconds(shape) for shape in of_width)
    assert sum(pack.seconds for pack in packs) < 0.98 * apart


def test_a_shape_too_large_to_share_is_trained_by_itself():
    cells = load_preset("figure2", overrides=["seed=[0]", "num_tasks=[16777216, 33554432]"]).cells
    workers = gpu_workers(1, 8e9)
    packs = plan(cells, workers)
    assert all(len(pack.cells) == 1 or workers.hold(pack.cells) for pack in packs)
    sizes = [sorted({cell.model_size for cell in pack.cells}) for pack in packs]
    assert [512] in sizes
    assert [2, 4, 8, 16, 32, 64, 128, 256] in sizes


@pytest.mark.parametrize("workers", [1, 2])
def test_packs_hold_no_more_seeds_than_their_table_of_projections(workers):
    """With all eight seeds in a pack, tasks would be drawn: 256 MB hold 1,747 of 14 x 14 pixels."""
    cells = grid([8], [256, 512, 1024], range(8), dataset="MNIST", image_size=14)
    assert normals_per_step(cells, "cpu") > 0
    packs = plan(cells, Workers(workers))
    assert sum(normals_per_step(pack.cells, "cpu") for pack in packs) == 0


def test_a_pack_takes_less_memory_than_its_shapes_by_themselves():
    cells = grid([8, 64], [4, 2**30], [0, 1], dataset="MNIST")
    for device in ("cpu", "cuda"):
        whole = pack_bytes(cells, device)
        parts = [pack_bytes([c for c in cells if c.model_size == w], device) for w in (8, 64)]
        assert max(parts) < whole < sum(parts)
        assert whole > pack_bytes(cells[:-1], device)


def test_more_steps_done_is_less_work():
    cells = grid([8], [1], [0, 1])
    packs = plan(cells, Workers(2), {cells[1].cell_id: 750})
    assert [pack.cells for pack in packs] == [(cells[0],), (cells[1],)]
    assert packs[0].seconds > 3 * packs[1].seconds


def test_nothing_to_plan():
    assert plan([], Workers(2)) == []


def test_five_thousand_cells_take_seconds():
    cells = grid([4, 8, 16, 32, 64], [2**i for i in range(20)], range(50))
    packs = plan(cells, Workers(64))
    assert sum(len(pack.cells) for pack in packs) == 5000
    assert len(packs) < 1500


def test_a_round_gives_each_worker_as_many_cells_as_are_nearly_free():
    narrow, wide = (grid([w], [1, 64], [0, 1], batch_size=512) for w in (8, 512))
    for count in (1, 3):
        assert cpu_workers(count, 8e9).round_of(QUICKSTART) == FEWEST * count
        assert gpu_workers(count).round_of(narrow) == MOST * count
        assert gpu_workers(count).round_of(wide) == FEWEST * count
    # where a step takes as long as 5 cells however few they are, more than 5 are hardly cheaper
    assert Workers(1, flops=1e30, step_seconds=5e-6 * 512 * 100, example_seconds=1e-6).round_of(
        grid([8], [1], [0], batch_size=512, sequence_length=100)
    ) == 5  # fmt: skip
    # most packs decide
    assert gpu_workers(1).round_of([*narrow, *narrow, *wide]) == MOST
    assert gpu_workers(1).round_of([*narrow, *wide, *wide]) == FEWEST

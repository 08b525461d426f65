"""Bytes counted on tensors without numbers, and the formulas that plan by them."""

import dataclasses

import pytest
import torch

from metaphase.core.cell import Cell
from metaphase.core.training import cost
from tests.benchmarks import bytes as counting
from tests.benchmarks.throughput import PAPER
from tests.conftest import small_cell


def paper(width, precision, **settings):
    shape = {"batch_size": 512, "model_size": width, "precision": precision}
    return Cell(**PAPER | shape | settings)


def test_what_an_operation_reads_and_writes_is_counted():
    counter = counting.Counted()
    a = torch.empty(10, 4, device="meta")
    b = torch.empty(4, 5, dtype=torch.bfloat16, device="meta")
    with counter:
        a.mul_(2.0)
        c = a.T.contiguous() + b.sum(dim=1)[:, None]
        c.copy_(a.view(4, 10))
        d = torch.empty(1, 4, device="meta").expand(10, 4).exp()
    moved = dict(counter.moved)
    assert moved["mul_"] == 2 * 160
    assert moved["clone"] == 2 * 160
    assert moved["sum"] == 40 + 8
    assert moved["add"] == 160 + 8 + 160
    assert moved["copy_"] == 2 * 160  # what is copied over isn't read
    assert moved["exp"] == 16 + 160  # what is expanded isn't in memory
    assert set(moved) == {"mul_", "clone", "sum", "add", "copy_", "exp"}
    assert counter.live == 160 + 160  # c and d
    del d
    assert counter.live == 160
    assert counter.peak >= 160 + 160 + 8


@pytest.mark.parametrize(
    ("width", "precision", "before", "now"),
    [  # GB a step and replica at a batch of 512, before and after two copies fewer and bf16 units
        (2, "bf16", 4.17, 3.47),
        (512, "bf16", 51.69, 34.50),
        (64, "tf32", 13.36, 11.79),
    ],
)
def test_a_step_moves_what_it_is_planned_to(width, precision, before, now):
    cell = paper(width, precision)
    step = counting.count(cell)
    assert step.moved / 1e9 == pytest.approx(now, rel=0.01)
    assert step.moved / 1e9 < 0.95 * before
    assert cost.bytes_per_step(cell, kernels=False) == pytest.approx(step.moved, rel=0.15)
    held = cost._stack_bytes([cell], "cuda")
    copies = 12 * cost.num_parameters(cell)  # while it is captured
    assert 0.95 < (sum(held) - copies) / step.counter.peak < 1.4


@pytest.mark.parametrize(
    ("width", "precision", "at_most", "now"),
    [  # GB a step and replica at a batch of 512, by our own kernels
        (64, "bf16", 3.5, 1.33),
        (256, "bf16", 14.0, 12.32),
        (512, "bf16", 24.0, 22.28),
    ],
)
def test_our_kernels_move_less(width, precision, at_most, now):
    pytest.importorskip("triton")
    cell = paper(width, precision)
    step = counting.count(cell, fused=True)
    assert step.moved / 1e9 == pytest.approx(now, rel=0.03)
    assert step.moved / 1e9 <= at_most
    assert cost.bytes_per_step(cell) == pytest.approx(step.moved, rel=0.15)
    names = set(step.counter.moved)
    assert "adam_adam" in names
    assert ("attention_forward" in names) == ("mlp_backward" in names) == (width <= 64)
    assert ("rows_activate" in names) == ("mixing_mix_backward" in names) == (width > 64)


ODD = [
    ({"model_size": 16, "batch_size": 16}, "bf16", True),  # fewer sequences than programs
    ({"model_size": 64, "num_heads": 1, "key_size": 16}, "tf32", True),
    ({"model_size": 64, "num_heads": 16, "key_size": 4}, "tf32", True),
    ({"model_size": 64, "mlp_ratio": 8}, "tf32", True),
    ({"model_size": 64, "num_heads": 2, "key_size": 128}, "bf16", True),  # MLPs alone are ours
    ({"model_size": 128, "num_heads": 2, "key_size": 128}, "tf32", True),
    ({"model_size": 16, "sequence_length": 200}, "bf16", True),
    ({"model_size": 64, "architecture": "mlp"}, "bf16", False),
    ({"model_size": 64, "num_heads": 1, "key_size": 16}, "tf32", False),
    ({"model_size": 64, "position_encoding": "rotary"}, "bf16", False),
    ({"model_size": 32, "position_encoding": "rotary", "num_heads": 2}, "tf32", False),
    ({"model_size": 8, "architecture": "lstm", "sequence_length": 10}, "bf16", True),
    ({"model_size": 16, "architecture": "lstm", "sequence_length": 10}, "fp32", True),
]


@pytest.mark.parametrize(("settings", "precision", "fused"), ODD)
def test_odd_shapes_move_and_hold_what_they_are_planned_to(settings, precision, fused):
    pytest.importorskip("triton")
    cell = paper(0, precision, **{"batch_size": 64, "num_layers": 2} | settings)
    step = counting.count(cell, fused=fused)
    assert cost.bytes_per_step(cell, kernels=fused) == pytest.approx(step.moved, rel=0.15)
    held = sum(cost._stack_bytes([cell], "cuda")) - 12 * cost.num_parameters(cell)
    number = 2 if precision == "bf16" else 4
    inputs = cell.batch_size * cell.sequence_length * (number * cell.input_size + 8)
    assert held > 0.95 * (step.counter.peak - inputs)


def test_narrow_blocks_that_dont_fit_on_the_chip_are_fused_as_layers():
    pytest.importorskip("triton")
    cell = paper(64, "tf32", batch_size=16, num_layers=1)
    names = set(counting.count(cell, fused=True).counter.moved)
    assert {"mixing_mix_backward", "rows_activate"} <= names
    assert "attention_forward" not in names


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_wide_models_at_small_batches_hold_what_they_are_planned_to(replicas, fused):
    """Where weights and Adam's intermediates are most of it."""
    pytest.importorskip("triton")
    cell = paper(512, "bf16", batch_size=4)
    cells = [dataclasses.replace(cell, seed=seed) for seed in range(replicas)]
    step = counting.count(cell, replicas, fused)
    held = sum(cost._stack_bytes(cells, "cuda")) - 12 * replicas * cost.num_parameters(cell)
    assert 0.95 < held / step.counter.peak < 1.4


@pytest.mark.parametrize(("width", "fused", "launches"), [(8, False, 148), (8, True, 22)])
def test_a_layer_of_an_lstm_is_a_few_launches(width, fused, launches):
    pytest.importorskip("triton")
    settings = {"architecture": "lstm", "sequence_length": 4}
    one, two = (
        counting.count(paper(width, "tf32", **settings, num_layers=layers), fused=fused)
        for layers in (1, 2)
    )
    assert sum(two.counter.calls.values()) - sum(one.counter.calls.values()) == launches
    tokens, weights = 512 * 4 * width * 4, width * 4 * width * 4
    if fused:  # in: what the input adds; out: gates, cell and hidden states; and back
        assert one.counter.moved["lstm_forward"] == 10 * tokens + weights
        assert one.counter.moved["lstm_backward"] == 10 * tokens + weights


@pytest.mark.parametrize(
    ("width", "precision", "fused"), [(8, "tf32", True), (300, "bf16", True), (32, "bf16", False)]
)
def test_an_lstm_moves_and_holds_what_it_is_planned_to(width, precision, fused):
    pytest.importorskip("triton")
    settings = {"architecture": "lstm", "sequence_length": 10, "num_layers": 2}
    cell = paper(width, precision, **settings)
    step = counting.count(cell, fused=fused)
    assert cost.bytes_per_step(cell, kernels=fused) == pytest.approx(step.moved, rel=0.15)
    if width == 300:  # where the ends count less
        held = sum(cost._stack_bytes([cell], "cuda")) - 12 * cost.num_parameters(cell)
        assert 0.95 < held / step.counter.peak < 1.9


def test_what_a_kernel_changes_in_place_counts_twice():
    pytest.importorskip("triton")
    from metaphase.core.kernels.cuda import adam

    counter = counting.Counted()
    t = torch.empty(10, device="meta")
    launch = counting._Launches(counter, "step", adam._adam, ("theta",))[(1,)]
    launch(t, t, t[:5], decay_r=None, P=10)  # finite, theta, moment1
    assert counter.moved == {"step": 40 + 2 * 40 + 20}


@pytest.mark.parametrize("fused", [False, True])
def test_it_is_linear_in_replicas(fused):
    cell = small_cell(precision="bf16", model_size=80 if fused else 8, token_format="shifted")
    one, three = (counting.count(cell, R, fused).moved for R in (1, 3))
    assert three == pytest.approx(one, rel=0.05)  # they share rates, too


@pytest.mark.parametrize("settings", [{"token_format": "interleaved"}, {"architecture": "lstm"}])
def test_other_cells_are_counted_too(settings):
    assert counting.count(small_cell(**settings)).moved > 0


@pytest.mark.parametrize(("width", "fused"), [(64, False), (128, True)])
def test_an_evaluation_stands_beside_a_captured_step(width, fused):
    cell = paper(width, "bf16", eval_sequences=1024)
    counter = counting.Counted()
    with counting.pretending(cell, counter, fused), torch.no_grad():
        stack = counting.Stack([cell], counting.META)
        shape = cell.batch_size, cell.sequence_length
        x = torch.empty(1, *shape, cell.input_size, dtype=torch.bfloat16, device="meta")
        y = torch.empty(1, *shape, dtype=torch.int64, device="meta")
        with counter:
            stack.predict(counting.Batch(x, y))
    assert counter.peak < cost._forward_bytes([cell]) < 3 * counter.peak
    on_cpu = cost.pack_bytes([cell], "cpu")
    assert cost.pack_bytes([cell], "cuda") != on_cpu


def test_what_fits_no_gpu_is_told():
    from metaphase.sweeps.planning.packs import too_large
    from metaphase.sweeps.planning.workers import gpu_workers

    cells = [paper(256, "tf32", batch_size=size, seed=s) for size in (512, 4096) for s in (0, 1)]
    [line] = too_large(cells, gpu_workers(1, 24e9))
    assert line.startswith("2 cells (transformer, model_size 256, batch_size 4096) need ")
    assert line.endswith("each, and a worker has 24.0")
    assert too_large(cells, gpu_workers(1, 80e9)) == []

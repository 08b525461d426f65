"""The optimizer beside PyTorch's, in float64; its kernels beside their plain twins."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from metaphase.core.cell import Cell
from metaphase.core.kernels import cpu
from metaphase.core.kernels.cpu import build
from metaphase.core.training.optimizer import clip, plain_adam, plain_clip, scheduled, warm_up
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell

needs_compiler = pytest.mark.skipif(not cpu.available(), reason="no C compiler here")

STEPS, WARM_UP = 24, 8
CELLS = [  # replicas of one stack
    {"learning_rate_end": 0.0},
    {"learning_rate_end": 0.1, "weight_decay": 0.3, "gradient_clip": 2.0},
    {"learning_rate_end": 1.0, "weight_decay": 3.0, "gradient_clip": 0.0, "learning_rate": 3e-2},
    {"learning_rate_end": 0.5, "gradient_clip": 1e-3, "adam_epsilon": 1e-3},
]


def torchs_schedule(optimizer, cell):
    """Warm-up and what follows it, by PyTorch's schedulers, each stepped once a step."""
    length, end = cell.steps - cell.warmup_steps, cell.learning_rate_end
    rising = LinearLR(optimizer, 1 / cell.warmup_steps, 1.0, total_iters=cell.warmup_steps - 1)
    if cell.learning_rate_schedule == "constant":
        return rising
    if cell.learning_rate_schedule == "cosine":
        after = CosineAnnealingLR(optimizer, length, eta_min=end * cell.learning_rate)
    else:
        after = LinearLR(optimizer, 1.0, end, total_iters=length)
    return SequentialLR(optimizer, [rising, after], [cell.warmup_steps])


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "triangle"])
def test_training_is_adamw_with_clipped_gradients_and_torchs_schedules_in_float64(schedule):
    cells = [
        Cell(steps=STEPS, warmup_steps=WARM_UP, learning_rate_schedule=schedule, seed=i, **settings)
        for i, settings in enumerate(CELLS)
    ]
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(STEPS, len(cells), 32, generator=generator, dtype=torch.float64)
    start = torch.randn(len(cells), 32, generator=generator, dtype=torch.float64)
    expected = []
    for r, cell in enumerate(cells):
        theta = start[r].clone().requires_grad_()
        optimizer = torch.optim.AdamW(
            [theta], lr=cell.learning_rate, weight_decay=cell.weight_decay, eps=cell.adam_epsilon
        )
        schedule_ = torchs_schedule(optimizer, cell)
        for step in range(STEPS):
            theta.grad = gradients[step, r].clone()
            if cell.gradient_clip:
                torch.nn.utils.clip_grad_norm_([theta], cell.gradient_clip)
            optimizer.step()
            schedule_.step()
        expected.append(theta.detach())

    def of_cells(name):
        return torch.tensor([getattr(cell, name) for cell in cells], dtype=torch.float64)

    [cell, *_], theta = cells, start.clone()
    moments = torch.zeros_like(theta), torch.zeros_like(theta)
    for number in range(STEPS):
        step, gradient = torch.tensor(number), gradients[number].clone()
        rate_R = of_cells("learning_rate") * min(1.0, (number + 1) / cell.warmup_steps)
        assert warm_up(step, cell.warmup_steps) == pytest.approx(
            min(1.0, (number + 1) / cell.warmup_steps), rel=1e-6
        )
        if schedule != "constant":
            rate_R *= scheduled(step, cell, of_cells("learning_rate_end"))
        plain_clip(gradient, of_cells("gradient_clip"))
        finite_R = plain_adam(
            *(theta, *moments, gradient),
            step=step,
            betas=(0.9, 0.999),
            rate_R=rate_R,
            rate_P=torch.ones(32, dtype=torch.float64),
            epsilon_R=of_cells("adam_epsilon"),
            alive_R=torch.ones(len(cells), dtype=torch.bool),
            decay_R=rate_R * of_cells("weight_decay"),
        )
        assert finite_R.all()
    torch.testing.assert_close(theta, torch.stack(expected), rtol=1e-12, atol=1e-14)


def test_a_triangle_is_a_line_after_a_warm_up_of_half_the_steps():
    triangle = small_cell(learning_rate_schedule="triangle", steps=20)
    line = small_cell(learning_rate_schedule="linear", steps=20, warmup_steps=10)
    assert triangle.warmup_steps == 10
    assert triangle.cell_id != line.cell_id
    ours, twin = PackTrainer([triangle]), PackTrainer([line])
    for trainer in (ours, twin):
        trainer.train(20)
    assert torch.equal(ours.stacks[0].theta_RxP, twin.stacks[0].theta_RxP)


@needs_compiler
def test_clipping_is_its_plain_twin():
    gradient = torch.randn(6, 48)
    gradient[4] *= 1e30  # whose squares float32 doesn't hold
    gradient[5, 3] = math.inf
    limit_R = torch.tensor([1.0, 0.0, 100.0, 1e-30, 1.0, 1.0])
    ours, twin = gradient.clone(), gradient.clone()
    clip(ours, limit_R)
    plain_clip(twin, limit_R)
    torch.testing.assert_close(ours, twin, rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(ours[1:3], gradient[1:3])  # no limit, and one that is far
    assert ours[4].norm() == pytest.approx(1.0)
    assert ours[5].isnan().any()  # so the replica diverges


@pytest.mark.parametrize("kernels", ["own", "plain"])
def test_settings_of_neighbours_change_no_bit_of_a_cell_without_them(kernels, monkeypatch):
    if kernels == "plain":  # as where there is no compiler
        monkeypatch.setattr(build, "library", lambda: None)
    plain = small_cell(seed=1)
    others = [small_cell(weight_decay=1.0, gradient_clip=0.01), small_cell(gradient_clip=0.1)]
    trainers = [PackTrainer([plain]), PackTrainer([others[0], plain, others[1]])]
    for trainer in trainers:
        trainer.train(20)
    alone, packed = (trainer.stacks[0].theta_RxP for trainer in trainers)
    assert torch.equal(alone[0], packed[1])
    assert not torch.equal(packed[0], packed[2])


def test_a_gradient_without_bounds_is_a_divergence_for_clipped_cells_too():
    trainer = PackTrainer([small_cell(gradient_clip=1.0), small_cell(gradient_clip=1.0, seed=1)])
    [stack] = trainer.stacks
    trainer.train(2)
    stack.grad_RxP[1, 0] = math.inf
    with torch.no_grad():
        stack._update(torch.tensor([1.0, 1.0]), torch.tensor(2))
    assert stack.diverged_at_R.tolist() == [-1, 2]

import math

import pytest
import torch
from scipy import stats

from metaphase.core import rng
from metaphase.core.tasks.projected_images import (
    FIRST_UNSEEN,
    noise_overlap,
    noise_projections,
    noise_table,
    permutations,
    projections,
)
from metaphase.core.tasks.projected_inputs import SeenTasks


@pytest.fixture
def seed(device):
    return torch.tensor(11, device=device)


@pytest.mark.parametrize("size", [3, 16, 49])
def test_a_task_is_the_same_matrix_in_any_batch_and_order(seed, size):
    tasks = torch.tensor([0, 1, 5, 2**32 - 1, FIRST_UNSEEN, FIRST_UNSEEN + 7], device=seed.device)
    together = projections(seed, tasks, size)
    backwards = projections(seed, tasks.flip(0), size).flip(0)
    assert torch.equal(together, backwards)
    for i, task in enumerate(tasks):
        assert torch.equal(projections(seed, task, size), together[i])
        seeds = torch.stack([seed + 1, seed, seed + 2])
        assert torch.equal(projections(seeds, task, size)[1], together[i])


def test_tasks_and_seeds_differ(seed):
    tasks = torch.tensor(
        [0, 1, 2**31, 2**32 - 1, FIRST_UNSEEN, FIRST_UNSEEN + 1], device=seed.device
    )
    matrices = torch.cat([projections(seed, tasks, 8), projections(seed + 1, tasks, 8)])
    distance = torch.cdist(matrices.flatten(1), matrices.flatten(1))
    off_diagonal = distance[~torch.eye(len(matrices), dtype=torch.bool, device=seed.device)]
    assert off_diagonal.min() > 1.0


def test_projection_entries_have_the_right_mean_variance_and_independence():
    size, count = 16, 4000
    a = projections(torch.tensor(2), torch.arange(count), size).double() * math.sqrt(size)
    entries = a.flatten(1)
    assert abs(entries.mean()) < 5 / math.sqrt(entries.numel())
    assert abs(entries.var() - 1) < 5 * math.sqrt(2 / entries.numel())
    # entries of one task, over tasks: 256 x 255 / 2 correlations, each N(0, 1/count) if independent
    off_diagonal = torch.corrcoef(entries.T)[torch.triu_indices(256, 256, 1).unbind()]
    assert stats.kstest((off_diagonal * math.sqrt(count)).numpy(), "norm").pvalue > 1e-3
    # one entry in neighbouring tasks, and tasks of neighbouring seeds
    neighbours = (entries[1:] * entries[:-1]).mean(dim=0) * math.sqrt(count - 1)
    assert stats.kstest(neighbours.numpy(), "norm").pvalue > 1e-3
    other = projections(torch.tensor(3), torch.arange(count), size).double().flatten(1)
    across = (entries * other * math.sqrt(size)).mean(dim=0) * math.sqrt(count)
    assert stats.kstest(across.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("num_classes", [2, 4, 5, 10])
def test_permutations_are_permutations_and_uniform(num_classes):
    count = 24_000
    rho = permutations(torch.tensor(4), torch.arange(count), num_classes)
    assert torch.equal(rho.sort(dim=1).values, torch.arange(num_classes).expand(count, -1))
    for label in range(num_classes):
        counts = torch.bincount(rho[:, label], minlength=num_classes)
        assert stats.chisquare(counts.double()).pvalue > 1e-4
    if num_classes == 4:  # all 24 orders, equally often
        digits = rho @ torch.tensor([64, 16, 4, 1])
        counts = digits.unique(return_counts=True)[1]
        assert len(counts) == 24
        assert stats.chisquare(counts.double()).pvalue > 1e-4


def test_permutations_are_the_same_alone(seed):
    tasks = torch.tensor([0, 3, FIRST_UNSEEN + 3], device=seed.device)
    together = permutations(seed, tasks, 10)
    for i, task in enumerate(tasks):
        assert torch.equal(permutations(seed, task, 10), together[i])


def test_the_table_of_seen_tasks_changes_no_number(device):
    seed_G = torch.tensor([0, 1, 0, 1], device=device)
    num_tasks_G = torch.tensor([4, 10, 30, 2**32], device=device)
    task_GxB = torch.tensor([[0, 3, 3], [9, 0, 4], [29, 1, 0], [2**32 - 1, 7, 0]], device=device)
    expected = projections(seed_G[:, None], task_GxB, 5)
    one_task = 2 * 5 * 5 * 4  # bytes, for both seeds
    for room, length in [(0, 0), (4, 4), (29, 10), (30, 30)]:
        tasks = SeenTasks(seed_G, num_tasks_G, 5, table_bytes=room * one_task)
        assert tasks.length == length
        assert torch.equal(tasks.projections(task_GxB), expected)
    only = SeenTasks(seed_G[:2], num_tasks_G[:2], 5, table_bytes=2**20)
    assert [source.name for source in only.sources] == ["table"]
    assert torch.equal(only.projections(task_GxB[:2]), expected[:2])


def test_a_noise_projection_is_rows_of_noise_from_anywhere(seed):
    size, bits = 12, 9
    noise = noise_table(size, bits, seed.device)
    assert rng.noise_place_bits(noise) == bits - 3
    assert noise.dtype == torch.bfloat16
    tasks = torch.arange(FIRST_UNSEEN - 5, FIRST_UNSEEN + 5, device=seed.device)
    matrices = noise_projections(seed, tasks, size, noise)
    assert torch.equal(matrices[3], noise_projections(seed, tasks[3], size, noise))
    pieces = noise.float().unfold(0, size, 8)[: 2 ** (bits - 3)] / math.sqrt(size)
    same = (matrices.flatten(0, 1)[:, None] == pieces).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    other = noise_projections(seed + 1, tasks, size, noise)
    assert (matrices != other).any(dim=2).float().mean() > 0.9


def test_noise_is_standard_normal(seed):
    noise = noise_table(784, 20, seed.device).float()
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    assert abs(noise.var() - 1) < 5 * (2 / len(noise)) ** 0.5
    assert stats.kstest(noise[::16].cpu().numpy(), "norm").pvalue > 1e-3  # blind to bf16's steps
    for distance in (1, 2, 8, 28, 784):
        assert abs((noise[:-distance] * noise[distance:]).mean()) < 5 / len(noise) ** 0.5


@pytest.mark.parametrize(("size", "bits"), [(16, 12), (49, 14)])
def test_rows_of_noise_start_anywhere_and_overlap_as_often_as_is_said(seed, size, bits):
    """With its places for noise, a projection tells where its rows were cut."""
    places = torch.arange(len(noise_table(size, bits)), device=seed.device).float()
    tasks = torch.arange(6_000 // size, device=seed.device)
    start = noise_projections(seed, tasks, size, places)[..., 0] * math.sqrt(size)
    slot = (start.flatten() / 8).round().long()
    counts = torch.bincount(slot, minlength=2 ** (bits - 3)).double()
    assert len(counts) == 2 ** (bits - 3)
    assert stats.chisquare(counts.cpu().numpy()).pvalue > 1e-3
    # Pairs of rows that overlap, of one task and of different ones.
    share = ((start.flatten()[:, None] - start.flatten()).abs() < size - 0.5).double().mean()
    assert abs(share / noise_overlap(size, places) - 1) < 0.03


def test_overlapping_rows_of_noise_are_the_same_numbers_shifted_and_others_uncorrelated(seed):
    size, bits = 64, 12
    noise = noise_table(size, bits, seed.device)
    places = torch.arange(len(noise), device=seed.device).float()
    tasks = torch.arange(8, device=seed.device)
    rows = noise_projections(seed, tasks, size, noise).flatten(0, 1) * math.sqrt(size)
    start = noise_projections(seed, tasks, size, places).flatten(0, 1)[:, 0] * math.sqrt(size)
    shift = (start[:, None] - start).round().long()
    product = (rows @ rows.T) / size
    for distance in (8, 56):
        pairs = (shift == distance).nonzero()
        assert len(pairs) > 20
        for later, earlier in pairs[:20]:
            gap = (rows[later, : size - distance] - rows[earlier, distance:]).abs().max()
            assert gap < 1e-4
    apart = product[shift.abs() >= size]
    assert abs(apart.mean()) < 0.01
    assert abs(apart.var() * size - 1) < 0.1
    # One number, the chance of overlap, says how far A's rows are from independent: at 28 x 28
    # pixels and 2^24 entries, 28 of the 307,000 pairs of rows of one task.
    big = torch.empty(2**24 + 784, device="meta")
    assert abs(noise_overlap(784, big) * 784 * 783 / 2 - 28.5) < 1

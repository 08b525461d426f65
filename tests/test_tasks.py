import math

import pytest
import torch
from scipy import stats

from core.tasks import FIRST_UNSEEN, SeenTasks, permutations, projections


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
    seed_R = torch.tensor([0, 1, 0, 1], device=device)
    num_tasks_R = torch.tensor([4, 10, 30, 2**32], device=device)
    task_RxB = torch.tensor([[0, 3, 3], [9, 0, 4], [29, 1, 0], [2**32 - 1, 7, 0]], device=device)
    expected = projections(seed_R[:, None], task_RxB, 5)
    one_task = 2 * 5 * 5 * 4  # bytes, for both seeds
    for room, length in [(0, 0), (4, 4), (29, 10), (30, 30)]:
        tasks = SeenTasks(seed_R, num_tasks_R, 5, table_bytes=room * one_task)
        assert tasks.length == length
        assert torch.equal(tasks.projections(task_RxB), expected)
    only = SeenTasks(seed_R[:2], num_tasks_R[:2], 5, table_bytes=2**20)
    assert only.all_tabled
    assert torch.equal(only.projections(task_RxB[:2]), expected[:2])

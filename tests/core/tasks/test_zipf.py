import math

import numpy as np
import pytest
import torch
from scipy import stats

from metaphase.core import rng
from metaphase.core.tasks.zipf import ROUNDS, ZipfTasks, stairs


def harmonic(n, exponent):
    """sum over r = 1 ... n of r^-exponent: the first 10,000 by themselves, the others by
    Euler-Maclaurin."""
    m = min(n, 10**4)
    head = float((np.arange(1, m + 1) ** -float(exponent)).sum())
    if n == m:
        return head

    def integral(x):
        return math.log(x) if exponent == 1 else x ** (1 - exponent) / (1 - exponent)

    ends = (n**-exponent - m**-exponent) / 2
    slopes = exponent / 12 * (m ** -(exponent + 1) - n ** -(exponent + 1))
    return head + integral(n) - integral(m) + ends + slopes


def ranks(zipf, count, seed=0, purpose=rng.TRAIN_ZIPF):
    """rank_SxI of as many sequences as said."""
    seeds = torch.full_like(zipf.num_tasks_S, seed)
    steps = torch.arange(count // 1000)[:, None]
    return zipf.draw(seeds, purpose, (torch.arange(1000), steps)).flatten(1) + 1


def test_stairs_cover_all_ranks_once():
    low, bits = stairs()
    assert low[0] == 1
    assert [r + 2**b for r, b in zip(low, bits, strict=True)][:-1] == low[1:]
    assert low[-1] == 2**32


@pytest.mark.parametrize(
    ("num_tasks", "exponent"), [(7, 1.0), (7, 2.5), (40, 0.3), (200, 1.0), (1000, 0.7)]
)
def test_a_few_tasks_have_the_frequencies_of_the_law(num_tasks, exponent):
    zipf = ZipfTasks([exponent], [num_tasks], torch.device("cpu"))
    counts = torch.bincount(ranks(zipf, 100_000)[0], minlength=num_tasks + 1)[1:]
    assert len(counts) == num_tasks
    share = np.arange(1, num_tasks + 1) ** -exponent
    assert stats.chisquare(counts, 100_000 * share / share.sum()).pvalue > 1e-3


def test_the_tail_of_all_tasks_there_can_be_has_its_share():
    exponents, numbers = [1.0, 0.5, 1.3, 0.0], [2**32, 2**32 - 12345, 3 * 10**9 + 1, 2**32]
    zipf = ZipfTasks(exponents, numbers, torch.device("cpu"))
    for rank, a, n in zip(ranks(zipf, 50_000), exponents, numbers, strict=True):
        edges = np.unique(np.geomspace(1, n, 60).astype(np.int64))
        share = np.diff([0.0, *(harmonic(int(edge), a) for edge in edges)]) / harmonic(n, a)
        counts = np.diff([0, *((rank.numpy() <= edge).sum() for edge in edges)])
        often = share * 50_000 > 5
        rest = 1 - share[often].sum()
        if rest * 50_000 > 1:
            share = np.array([*share[often], rest])
            counts = np.array([*counts[often], counts[~often].sum()])
        assert stats.chisquare(counts, 50_000 * share / share.sum()).pvalue > 1e-3
        assert rank.max() <= n


def test_proposals_are_hardly_ever_all_rejected():
    """What is said of the error: the stairs' area beyond the law's, to the power of ROUNDS."""
    low, bits = (np.array(t, dtype=float) for t in stairs())
    for n in (2**7 + 1, 2**20 + 1, 2**31 + 1, 2**32):
        for a in (0.0, 0.5, 1.0, 1.5, 3.0, 10.0):
            area = (2**bits * low**-a)[low <= n].sum()
            assert 1 - harmonic(n, a) / area < 0.03
    assert 0.03**ROUNDS < 1e-12


def test_streams_draw_alone_what_they_draw_together():
    numbers, exponents = [2**32, 5, 1000], [1.0, 2.0, 0.5]
    together = ranks(ZipfTasks(exponents, numbers, torch.device("cpu")), 3000)
    for s, (n, a) in enumerate(zip(numbers, exponents, strict=True)):
        alone = ranks(ZipfTasks([a], [n], torch.device("cpu")), 3000)
        assert torch.equal(alone[0], together[s])
    other = ranks(ZipfTasks(exponents, numbers, torch.device("cpu")), 3000, seed=1)
    assert not torch.equal(other, together)

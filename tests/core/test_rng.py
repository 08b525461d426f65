import math

import pytest
import torch
from scipy import stats

from metaphase.core import rng

# Random123's known answers (kat_vectors): rounds, counter, key, result.
KNOWN_ANSWERS = [
    (7, [0] * 4, [0] * 2, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
    (10, [0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (10, [2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        10,
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("rounds", "counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(device, rounds, counter, key, expected):
    counters = tuple(torch.tensor(c, device=device) for c in counter)
    words = rng.philox(torch.tensor(key[0], device=device), key[1], counters, rounds)
    assert [int(word) for word in words] == expected


def test_any_number_alone_is_the_same_as_in_a_batch(device):
    seed = torch.arange(7, device=device)
    together = rng.normal_matrix(seed[:, None], rng.INIT, 3, 6, low=torch.arange(11, device=device))
    for s, low in [(0, 0), (3, 10), (6, 5)]:
        alone = rng.normal_matrix(seed[s], rng.INIT, 3, 6, low=torch.tensor(low, device=device))
        assert torch.equal(together[s, low], alone)


def test_uniform_stays_inside_the_open_interval():
    u = rng.uniform(torch.tensor([0, 1, 2**31, 2**32 - 1]))
    assert u.min() > 0
    assert u.max() < 1


def test_normals_are_standard_normal():
    z = rng.normal_matrix(torch.tensor(5), rng.PROJECTION, 1000, 400).double()
    n = z.numel()
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert stats.kstest(z.flatten()[:100_000].numpy(), "norm").pvalue > 1e-3
    # the four numbers of a counter are uncorrelated, and so are their squares
    four = z.reshape(-1, 4)
    for t in (four, four**2):
        off_diagonal = torch.corrcoef(t.T) - torch.eye(4)
        assert off_diagonal.abs().max() < 5 / math.sqrt(len(four))


@pytest.mark.parametrize("bound", [1, 10, 721, 2**20, 2**32])
def test_integers_are_uniform(bound):
    words = torch.stack(rng.philox(torch.tensor(1), rng.TRAIN_TASKS, (torch.arange(50_000),)))
    values = rng.integer(words, bound).flatten()
    assert values.min() >= 0
    assert values.max() < bound
    bins = min(bound, 100)
    if bins > 1:
        counts = torch.bincount(values * bins // bound, minlength=bins).double()
        width = torch.bincount(torch.arange(bound) * bins // bound) if bound < 2**20 else None
        expected = (
            counts.sum() * width / bound
            if width is not None
            else counts.sum() / bins * torch.ones(bins)
        )
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("count", "bound"), [(5, 5), (16, 37), (16, 721), (100, 60_000)])
def test_permutations_are_that_and_uniform(count, bound):
    keys = [
        word[:, None]
        for block in range(rng.SHUFFLE_ROUNDS // 4)
        for word in rng.philox(torch.tensor(3), rng.TRAIN_IMAGES, (torch.arange(20_000), 0, block))
    ]
    x = rng.permuted(keys, torch.arange(count), bound)
    assert x.shape == (20_000, count)
    assert 0 <= x.min() < bound
    assert x.max() < bound
    assert (x.sort(dim=1).values.diff(dim=1) > 0).all()
    bins = min(bound, 50)
    for position in (0, count - 1):
        binned = torch.bincount(x[:, position] * bins // bound, minlength=bins).double()
        width = torch.bincount(torch.arange(bound) * bins // bound).double()
        assert stats.chisquare(binned, 20_000 * width / bound).pvalue > 1e-4
    if bound == 37:  # every ordered pair is equally likely
        pairs = torch.bincount(x[:, 0] * bound + x[:, 9], minlength=bound**2).double()
        off_diagonal = pairs.view(bound, bound)[~torch.eye(bound, dtype=torch.bool)]
        assert stats.chisquare(off_diagonal).pvalue > 1e-4


def test_a_permutation_reaches_everything_once_up_to_the_largest_bound():
    words = [
        word[:, None]
        for block in range(rng.SHUFFLE_ROUNDS // 4)
        for word in rng.philox(torch.tensor(3), rng.EVAL_TASKS, (torch.arange(3), 0, block))
    ]
    bound = torch.tensor([[5], [1000], [1]])
    for row, n in enumerate([5, 1000, 1]):
        keys = [word[row : row + 1] for word in words]
        assert rng.permuted(keys, torch.arange(n), n)[0].sort().values.tolist() == list(range(n))
        together = rng.permuted(words, torch.zeros(3, 1, dtype=torch.int64), bound)
        assert together[row, 0] == rng.permuted(keys, torch.zeros(1, dtype=torch.int64), n)[0, 0]
    far = rng.permuted(words, torch.arange(2000), 2**32)
    assert far.min() >= 0
    assert 2**31 < far.max() < 2**32
    assert len(far[0].unique()) == 2000
    elsewhere = rng.permuted(words, torch.arange(1000), 1000, offset=1000)
    assert (elsewhere != rng.permuted(words, torch.arange(1000), 1000)).double().mean() > 0.9

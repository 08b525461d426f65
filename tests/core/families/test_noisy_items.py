"""Noisy items: the sequences, and the predictors against brute force and on their own priors."""

import functools
import math

import pytest
import torch

from metaphase.core import schema
from metaphase.core.cell import MAX_TASKS, Cell
from metaphase.core.evaluation.predictions import Predictions
from metaphase.core.settings import ConfigError
from metaphase.core.tasks.sequences import open_sequences

D, T, V = 3, 6, 0.5
SETTINGS = {"task_family": "noisy_items", "dimension": D, "sequence_length": T}
COPY = V / D / (1 + V)  # variance of each number of an input, given its item


@functools.cache
def opened(count=12, tasks=5, **more):
    cell = Cell.from_dict({**SETTINGS, "num_tasks": tasks, "seed": 3, **more})
    sequences = open_sequences([cell], "data", "cpu")
    return sequences, Predictions.of(sequences, count)


def drawn(sequences, split, count=12):
    batch = sequences.evaluation_batch(split, torch.arange(count))
    return batch.x_RxBxTxX[0].double(), batch.y_RxBxT[0]


def items(sequences, task_n):
    p_nxP = sequences.family.parameters(sequences.tasks(0, task_n)).double()
    return p_nxP[:, :-1], p_nxP[:, -1].long()


def density(x_X, covariance_XxX):
    """Of N(0, covariance), up to a factor that depends on the number of dimensions alone."""
    square = x_X @ torch.linalg.solve(covariance_XxX, x_X)
    return math.exp(-square.item() / 2) / covariance_XxX.det().item() ** 0.5


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_memorizing_is_bayes_rule_over_the_items_given_the_input(split):
    sequences, said = opened()
    x, _ = drawn(sequences, split)
    item_nxX, label_n = items(sequences, torch.arange(5))
    for b in range(12):
        for t in range(T):
            off_n = [math.dist(x[b, t], item / (1 + V) ** 0.5) for item in item_nxX]
            weight = [math.exp(-(off**2) / (2 * COPY)) for off in off_n]
            one = sum(w for w, label in zip(weight, label_n, strict=True) if label) / sum(weight)
            got = said(split)[0].of["memorizing"][b, t].tolist()
            assert got == pytest.approx([1 - one, one], rel=1e-5, abs=2e-9)


def test_generalizing_is_bayes_rule_over_the_items_shown():
    """By the joint density of all inputs, in which the query and one of the others are two copies
    of an item drawn from the prior and all others are copies of items of their own."""
    sequences, said = opened()
    x, y = drawn(sequences, "unseen")
    found = said("unseen")[0].of["generalizing"]
    assert bool((found[:, :-1] == 0.5).all())
    for b in range(12):
        weight = []
        for s in range(T - 1):
            shared = torch.eye(T, dtype=torch.float64)  # variances of items, which sum to 1 + v
            shared[s, -1] = shared[-1, s] = 1.0
            scaled = (shared + V * torch.eye(T)) / (1 + V) / D
            covariance = torch.kron(scaled, torch.eye(D, dtype=torch.float64))
            weight.append(density(x[b].flatten(), covariance))
        one = sum(w for w, label in zip(weight, y[b], strict=False) if label) / sum(weight)
        assert found[b, -1].tolist() == pytest.approx([1 - one, one], rel=1e-5, abs=2e-9)


@pytest.mark.parametrize("variance", [1e-9, 1e9])
def test_predictors_are_finite_at_the_ends_of_what_is_allowed(variance):
    sequences, said = opened(within_class_variance=variance)
    for name in ("memorizing", "generalizing"):
        assert bool(said("seen")[0].of[name].isfinite().all())
    if variance < 1:  # the query's item can be told
        y_B = drawn(sequences, "seen")[1][:, -1]
        assert torch.equal(said("seen")[0].of["generalizing"][:, -1].argmax(dim=-1), y_B)


@pytest.mark.parametrize("variance", [1e-17, 1e-10, 1e10, 1e200])
def test_variances_beyond_float64_are_refused_before_anything_is_drawn(variance):
    with pytest.raises(ConfigError, match="within_class_variance"):
        Cell.from_dict({**SETTINGS, "within_class_variance": variance})


def test_the_query_repeats_an_item_shown_and_the_rest_are_drawn_from_all():
    """With hardly any noise inputs are their items."""
    sequences, _ = opened(tasks=7, within_class_variance=1e-6)
    for split in schema.SPLITS:
        x, y = drawn(sequences, split, 700)
        task_B = sequences.evaluation_tasks(split, torch.arange(700))[0]
        item_BxX, label_B = items(sequences, task_B)
        assert torch.allclose(x[:, -1], item_BxX, atol=0.01)
        assert torch.equal(y[:, -1], label_B)
        nearest_BxJ = torch.cdist(x[:, -1:], x[:, :-1])[:, 0]
        assert bool((nearest_BxJ.amin(dim=1) < 0.02).all())
        slot_J = nearest_BxJ.argmin(dim=1).bincount(minlength=T - 1)
        assert bool((slot_J - 140).abs().max() < 4 * (700 * 0.2 * 0.8) ** 0.5 + 20)
        pool_nxX, pool_label_n = items(sequences, torch.arange(7))
        off_Ixn = torch.cdist(x.flatten(0, 1), pool_nxX)
        if split == schema.UNSEEN:  # every position but the repeated one has an item of its own
            assert x.flatten(0, 1).mul(50).round().unique(dim=0).shape[0] > 0.75 * 700 * T
            assert (off_Ixn.amin(dim=1) > 0.02).double().mean() > 0.99
        else:
            of_I = off_Ixn.argmin(dim=1)
            assert bool((off_Ixn.amin(dim=1) < 0.02).all())
            assert torch.equal(pool_label_n[of_I], y.flatten())
            share_n = of_I.bincount(minlength=7) / len(of_I)
            assert bool(((share_n - 1 / 7).abs() < 0.03).all())


def test_inputs_have_the_variance_of_items_and_labels_are_as_often():
    x, y = drawn(opened()[0], "unseen", 2048)
    assert x.square().mean().item() == pytest.approx(1 / D, rel=0.05)
    assert y.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_each_is_best_on_its_own_prior():
    """M before the query, G anywhere: a mixture with the other loses more, to first order too. At
    the query M loses least of what sees the query alone."""
    _, said = opened(2048, tasks=8)

    def chance(split, name):
        at = said(split)[0]
        return at.of[name].double().gather(-1, at.y[..., None])[..., 0]

    def above(gain_B, least):
        return gain_B.mean().item() > least * gain_B.std().item() / math.sqrt(len(gain_B))

    for split, best, other, where in (
        ("seen", "memorizing", "generalizing", slice(None, -1)),
        ("unseen", "generalizing", "memorizing", slice(None)),
    ):
        p, q = chance(split, best), chance(split, other)
        assert above((p.log() - q.log())[:, where].mean(dim=1), 4)
        assert above((1 - q / p)[:, where].mean(dim=1), -4)
        assert above((p.log() - chance(split, "no_context").log()).mean(dim=1), 4)
    gain_B = (chance("seen", "memorizing").log() + math.log(2))[:, -1]
    assert above(gain_B, 4)


def test_others_are_of_a_stream_s_own_tasks():
    """Alone and beside a stream with more tasks, and of new tasks never a seen one."""
    few, many = (Cell.from_dict({**SETTINGS, "num_tasks": n, "seed": 3}) for n in (2, 2**20))
    both = open_sequences([many, few], "data", "cpu")
    for split in schema.SPLITS:
        alone = opened(tasks=2)[0].evaluation_batch(split, torch.arange(16))
        beside = both.evaluation_batch(split, torch.arange(16))
        assert torch.equal(alone.x_RxBxTxX[0], beside.x_RxBxTxX[1])
        assert torch.equal(alone.y_RxBxT[0], beside.y_RxBxT[1])
    one, new = (
        opened(tasks=1)[0].evaluation_batch(s, torch.arange(64)) for s in ("seen", "unseen")
    )
    assert one.y_RxBxT.unique().numel() == 1  # the one task has one label
    assert new.y_RxBxT.unique().numel() == 2
    assert MAX_TASKS == 2**32  # halves of numbers tell seen tasks from new ones

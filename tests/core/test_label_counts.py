"""What naming the commonest label so far reaches, against exact sums and the datasets' images."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from metaphase.core import label_counts
from metaphase.core.datasets import DATASETS


def exact(counts, position):
    """Of the best guess given the labels before a position: the sum over all their sequences of the
    largest probability, over permutations, that one comes next."""
    p = np.array(counts) / sum(counts)
    orders = [p[list(order)] for order in itertools.permutations(range(len(p)))]
    total = 0.0
    for labels in itertools.product(range(len(p)), repeat=position - 1):
        joint = sum(q[list(labels)].prod() * q for q in orders) / len(orders)
        total += joint.max()
    return total


@pytest.mark.parametrize("counts", [(3, 1), (5, 3, 2), (1, 1, 1), (6, 1, 1)])
def test_it_is_the_best_that_labels_allow(counts):
    found = label_counts.expected_accuracy(counts, 6)
    assert found == pytest.approx([exact(counts, t) for t in range(1, 7)], abs=0.006)
    assert found[0] == pytest.approx(1 / len(counts))


def test_equal_classes_are_right_once_in_c_exactly_and_no_level_exceeds_chance():
    assert label_counts.level((36,) * 5, 1000) == 0.2
    for counts in ((9, 1), (5, 3, 2), DATASETS["SVHN"].heldout_counts):
        level = label_counts.level(counts, 30)
        assert 1 / len(counts) < level < max(counts) / sum(counts) + 1e-9


def test_the_level_of_the_last_tenth():
    accuracy = label_counts.expected_accuracy((5, 3, 2), 25)
    assert label_counts.level((5, 3, 2), 25) == pytest.approx(np.mean(accuracy[-3:]))


def test_the_loss_of_a_guess_is_the_entropy_of_the_classes():
    assert label_counts.guess_loss((4, 4, 4)) == pytest.approx(math.log(3))
    assert label_counts.guess_loss((3, 1, 0)) == pytest.approx(0.5623, abs=1e-4)


def test_known_levels():
    """MNIST's at 100 examples; digits', whose 5 first classes are nearly equal; and what isn't."""
    assert label_counts.known_level("MNIST", 10, 100, 0.1135) == pytest.approx(0.102, abs=0.001)
    assert label_counts.known_level("digits", 5, 16, 37 / 180) == pytest.approx(0.2002, abs=2e-4)
    assert label_counts.known_level("CIFAR10", 10, 100, 0.1) == 0.1
    assert label_counts.known_level("MNIST", 10, 100, 0.2) == 0.2
    assert label_counts.known_guess_loss("MNIST", 10, 0.2) == pytest.approx(math.log(10))


def test_the_datasets_class_counts_are_those_of_their_images():
    torch = pytest.importorskip("torch")
    from metaphase.core.datasets import digits

    counts = torch.bincount(digits.load(train=False)[2]).tolist()
    assert counts == list(DATASETS["digits"].heldout_counts)
    for info in DATASETS.values():
        if info.heldout_counts:
            assert sum(info.heldout_counts) == info.num_heldout


def test_the_level_on_another_datasets_images():
    svhn = label_counts.level_on("SVHN", 10, 100)
    assert svhn == label_counts.level(DATASETS["SVHN"].heldout_counts, 100) > 0.17
    assert label_counts.level_on("SVHN", 2, 16) > 0.7  # 5,099 of the second class, 1,744
    assert label_counts.level_on("FashionMNIST", 10, 100) == 0.1
    assert math.isnan(label_counts.level_on("mine", 10, 100))

"""Classifiers agree with scikit-learn's and torch's on the same data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from metaphase.core import label_counts
from metaphase.core.datasets.images import load_images
from metaphase.core.evaluation import classifiers, yardsticks
from metaphase.core.tasks.sampler import Sampler
from tests.conftest import small_cell

CELL = small_cell(sequence_length=16, eval_sequences=40)
CLASSES = 5


@pytest.fixture(scope="module")
def sequences():
    """Coordinates and labels of the evaluation sequences of new tasks."""
    batch = Sampler([CELL], load_images(CELL, "data", "cpu")).evaluation_batch(
        "unseen", torch.arange(CELL.eval_sequences)
    )
    return yardsticks.coordinates(batch.x_RxBxTxX[0]).double(), batch.y_RxBxT[0]


def predictions(sequences, algorithm, sklearn, n):
    """Of the (n+1)-th label from the n before, ours and scikit-learn's; one-class ones left out."""
    z, y = sequences
    ours = algorithm(z[:, :n], y[:, :n], z[:, n], CLASSES).argmax(dim=1)
    pairs = []
    for b in range(len(z)):
        if len(y[b, :n].unique()) > 1:
            model = sklearn(len(y[b, :n].unique())).fit(z[b, :n].numpy(), y[b, :n].numpy())
            pairs.append((ours[b].item(), model.predict(z[b, n : n + 1].numpy()).item()))
        else:
            assert ours[b] == y[b, 0]
    return np.array(pairs).T


@pytest.mark.parametrize("n", [1, 2, 5, 15])
def test_nearest_neighbour_is_scikit_learns(sequences, n):
    pairs = predictions(
        sequences, classifiers.nearest_neighbour, lambda _: KNeighborsClassifier(1), n
    )
    if n > 1:
        assert (pairs[0] == pairs[1]).all()


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("n", [2, 5, 15])
def test_ridge_is_scikit_learns(sequences, n, alpha):
    ours, theirs = predictions(
        sequences,
        lambda *e: classifiers.ridge(*e, alpha),
        lambda _: RidgeClassifier(alpha, solver="cholesky"),
        n,
    )
    assert (ours == theirs).all()


def test_ridge_scores_are_scikit_learns(sequences):
    z, y = sequences
    scores = classifiers.ridge(z[:, :15], y[:, :15], z[:, 15], CLASSES, 0.1)
    for b in range(10):
        model = RidgeClassifier(0.1).fit(z[b, :15].numpy(), y[b, :15].numpy())
        theirs = (1 + model.decision_function(z[b, 15:].numpy())[0]) / 2  # from -1 ... 1 to 0 ... 1
        ours = scores[b, torch.tensor(model.classes_)].numpy()
        assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("lam", [0.01, 1.0])
@pytest.mark.parametrize("n", [2, 5, 15])
def test_logistic_regression_is_scikit_learns(sequences, n, lam):
    ours, theirs = predictions(
        sequences,
        lambda *e: classifiers.logistic(*e, lam),
        # With two classes scikit-learn has one weight vector: the same problem at lam / 2.
        lambda k: LogisticRegression(C=(2 if k == 2 else 1) / lam, tol=1e-9, max_iter=10_000),
        n,
    )
    assert (ours == theirs).all()


def test_logistic_scores_are_the_optimum_in_single_precision_too(sequences):
    z, y = sequences
    for data in (z, z.float()):
        scores = classifiers.logistic(data[:, :15], y[:, :15], data[:, 15], CLASSES)
        for b in range(len(z)):
            model = LogisticRegression(C=100, tol=1e-9, max_iter=10_000)
            model.fit(z[b, :15].numpy(), y[b, :15].numpy())
            theirs = model.decision_function(z[b, 15:].numpy())[0]
            ours = scores[b, torch.tensor(model.classes_)].double().numpy()
            if len(model.classes_) > 2:
                assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=2e-3)


def test_the_mlp_is_a_plain_one_trained_by_torch_sgd(sequences):
    z, y = sequences
    w1 = yardsticks.initial_weights(CELL.seed, torch.arange(len(z)), z.shape[2]).double()
    for n in (1, 4, 15):
        scores = classifiers.mlp(z[:, :n], y[:, :n], z[:, n], CLASSES, w1)
        for b in range(3):
            twin = nn.Sequential(
                nn.Linear(z.shape[2], classifiers.MLP_HIDDEN), nn.ReLU(),
                nn.Linear(classifiers.MLP_HIDDEN, CLASSES),
            ).double()  # fmt: skip
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.zero_()
                twin[0].weight.copy_(w1[b].T)
            sgd = torch.optim.SGD(
                twin.parameters(), classifiers.MLP_RATE, momentum=classifiers.MLP_MOMENTUM
            )
            for _ in range(classifiers.MLP_STEPS):
                sgd.zero_grad()
                nn.functional.cross_entropy(twin(z[b, :n]), y[b, :n]).backward()
                sgd.step()
            assert torch.allclose(scores[b], twin(z[b, n]), atol=1e-9)


def test_label_counts_reach_the_level_that_learning_has_to_beat():
    """Of 6 images of one class and one of each of two others, on sequences of new tasks."""
    rng = np.random.default_rng(0)
    class_BxT = rng.choice(3, p=[6 / 8, 1 / 8, 1 / 8], size=(4000, 20))
    rho_BxC = rng.permuted(np.tile(np.arange(3), (4000, 1)), axis=1)
    y_BxT = torch.tensor(np.take_along_axis(rho_BxC, class_BxT, axis=1))
    x_BxTxX = torch.zeros(4000, 20, 1)
    expected = label_counts.expected_accuracy((6, 1, 1), 20)
    for t in (1, 2, 5, 19):
        examples = (x_BxTxX[:, :t], y_BxT[:, :t], x_BxTxX[:, t], 3)
        right_B = classifiers.label_counts(*examples).argmax(dim=1) == y_BxT[:, t]
        assert right_B.double().mean().item() == pytest.approx(expected[t], abs=0.03)

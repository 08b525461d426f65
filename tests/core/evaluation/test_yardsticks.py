"""Yardsticks agree with scikit-learn's on the same data, and equal sequences share a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from metaphase.core import schema
from metaphase.core.datasets.images import load_images
from metaphase.core.evaluation import classifiers, yardsticks
from metaphase.core.tasks.sampler import Sampler
from metaphase.sweeps.commands import yardsticks as command
from metaphase.sweeps.store.results import Results
from tests.conftest import small_cell
from tests.tools.synthetic import make_results

CELL = small_cell(sequence_length=16, eval_sequences=40, unseen_datasets=["digits", "random"])
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


def test_coordinates_keep_lengths_and_angles():
    x = torch.randn(3, 7, 50, dtype=torch.float64)
    z = yardsticks.coordinates(x)
    assert z.shape == (3, 7, 7)
    assert torch.allclose(z @ z.mT, (x @ x.mT / 50).float(), atol=1e-5)
    assert yardsticks.coordinates(x[:, :, :5]).shape == (3, 7, 5)


@pytest.mark.parametrize("length", [2, 8, 16, 17, 40, 100, 1000])
def test_positions(length):
    at = yardsticks.positions(length)
    assert at == sorted(set(at))
    assert at[: min(length, 8)] == list(range(1, min(length, 8) + 1))
    assert at[-1] == length
    assert len(at) == length if length <= 20 else len(at) <= 20
    assert len([t for t in at if t > length - np.ceil(length / 10)]) >= 1  # `last` has some


@pytest.mark.parametrize("split", ["train", "seen", "unseen", "unseen/digits", "unseen/random"])
def test_every_split_of_the_models_sequences_can_be_evaluated(split, device):
    images = load_images(CELL, "data", device)
    table = pd.DataFrame(yardsticks.evaluate(CELL, images, split))
    assert set(table["yardstick"]) == set(yardsticks.YARDSTICKS)
    last = table[table["position"] == 16].set_index("yardstick")["accuracy"]
    if split != "unseen/random":  # random labels can't be learned
        assert (last.drop("chance") > last["chance"] + 0.2).all()
    at_first = table[(table["position"] == 1) & (table["yardstick"] != "chance")]
    assert at_first["accuracy"].nunique() == 1
    # An error is that of a mean over sequences, as in the curves table.
    row = table[(table["position"] == 9) & (table["yardstick"] == "ridge")].iloc[0]
    right = np.arange(40) < round(row["accuracy"] * 40)
    assert row["accuracy_se"] == pytest.approx(right.std(ddof=1) / np.sqrt(40))


def test_chunks_and_the_model_make_no_difference(monkeypatch):
    images = load_images(CELL, "data", "cpu")
    whole = yardsticks.evaluate(CELL, images, "unseen")
    monkeypatch.setattr(yardsticks, "CHUNK", 7 * 16 * 64)
    other = replace(CELL, model_size=32, num_tasks=9, steps=7, architecture="lstm")
    parts = yardsticks.evaluate(other, images, "unseen")
    for a, b in zip(whole, parts, strict=True):
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.026)  # one of 40 at most
    assert sum(a != b for a, b in zip(whole, parts, strict=True)) <= 1


def test_cells_that_share_sequences_share_a_table():
    cells = [
        replace(CELL, model_size=size, num_tasks=n, seed=seed)
        for size in (8, 16)
        for n in (1, 64)
        for seed in (0, 1)
    ]
    tables = command.tables(cells)
    assert sorted((c.seed, split) for c, split in tables.values()) == [
        (seed, f"unseen{s}") for seed in (0, 1) for s in ("", "/digits", "/random")
    ]
    assert len(command.tables([CELL, replace(CELL, eval_sequences=41)])) == 6


def test_the_command_computes_what_is_missing(tmp_path, capsys):
    path = tmp_path / "results" / "s"
    make_results(path, (8, 16), (1, 16), (0, 1), base=CELL)
    (path / "cells" / "torn.parquet").write_bytes(b"PAR1")
    assert command.main([str(path)]) == 0
    assert "6 of 6 tables to compute" in capsys.readouterr().out
    table = pd.read_parquet(path / "yardsticks")
    assert tuple(table.columns) == schema.YARDSTICK_COLUMNS
    assert not table.duplicated(["seed", "split", "yardstick", "position"]).any()
    assert len(table) == 2 * 3 * 5 * 16
    assert (table["n"] == 40).all()
    assert command.main([str(path)]) == 0
    assert "0 of 6 tables to compute" in capsys.readouterr().out
    assert Results(str(tmp_path / "results"), "s").yardstick_keys() == {
        file.stem for file in (path / "yardsticks").iterdir()
    }


def test_no_sweep_there_is_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1

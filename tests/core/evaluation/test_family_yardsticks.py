"""Yardsticks on families without images, against the families' own predictors."""

import pandas as pd
import pytest

from metaphase.core.cell import Cell
from metaphase.core.evaluation.family_yardsticks import evaluate_family
from metaphase.core.tasks.sequences import open_sequences


def accuracies(**settings):
    cell = Cell.from_dict({"eval_sequences": 512, **settings})
    table = pd.DataFrame(evaluate_family(cell, "unseen", "cpu"))
    assert (table["n"] == 512).all()
    return cell, table.pivot(index="yardstick", columns="position", values="accuracy")


def test_regression_has_nearest_neighbour_and_ridge():
    cell, found = accuracies(
        task_family="linear_regression", dimension=2, sequence_length=24, noise_variance=0.01
    )
    assert set(found.index) == {"nearest_neighbour", "ridge", "chance"}
    last = found[24]
    assert last["ridge"] > 0.95 > last["nearest_neighbour"] > last["chance"] + 0.1
    assert last["chance"] == open_sequences([cell], "", "cpu").levels.chance
    assert found.loc["ridge", 1] == found.loc["nearest_neighbour", 1]  # of 0


def test_symbols_have_counts_and_chains_need_those_of_two():
    _, urns = accuracies(
        task_family="balls_and_urns", symbols=4, sequence_length=64, token_format="shifted"
    )
    assert set(urns.index) == {"label_counts", "bigram_counts", "chance"}
    assert urns.loc["label_counts", 64] > urns.loc["bigram_counts", 64] > urns.loc["chance", 64]
    # The largest of 4 shares of Dirichlet(1, ..., 1) is (1 + 1/2 + 1/3 + 1/4) / 4 on average.
    assert urns.loc["label_counts", 64] == pytest.approx(25 / 48, abs=0.08)
    _, chains = accuracies(
        task_family="markov_chains", states=4, sequence_length=128, token_format="shifted"
    )
    assert chains.loc["bigram_counts", 128] > chains.loc["label_counts", 128] + 0.03

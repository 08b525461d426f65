"""Yardsticks can be evaluated on every split, with errors as the curves' have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from metaphase.core.datasets.images import load_images
from metaphase.core.evaluation import yardsticks
from tests.conftest import small_cell

CELL = small_cell(sequence_length=16, eval_sequences=40, unseen_datasets=["digits", "random"])


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
        assert (last.drop(["chance", "label_counts"]) > last["chance"] + 0.2).all()
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

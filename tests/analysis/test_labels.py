"""Numbers and conditions as they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis import labels


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "2^0"), (np.int64(1024), "2^10"), (2.0**32, "2^32"), (100, "100"), (0.5, "0.5"),
     (0, "0"), (-4, "-4"), (1.5, "1.5"), (100_000, "100,000")],
)  # fmt: skip
def test_powers_of_two(value, text):
    assert labels.power_of_two(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (300, "300"), (1000, "1k"), (1024, "1024"), (16384, "16.4k"), (30_000, "30k"),
     (2.5e6, "2.5M"), (100_000, "100k"), (999_999, "1M"), (1.5, "1.5"), (0.01, "0.01")],
)  # fmt: skip
def test_short_numbers(value, text):
    assert labels.short_number(value) == text


def test_conditions():
    condition = {"architecture": "lstm", "learning_rate": 0.003, "unseen_datasets": ("a", "b/c")}
    assert labels.file_suffix({}) == ""
    assert labels.file_suffix(condition) == "-lstm-learning_rate=0.003-unseen_datasets=_a_b_c_"
    plug_in = {"architecture": "mine.py:Gated@1f2e3d4c5b6a", "expansion": float("nan")}
    assert labels.condition_words(plug_in) == ["Gated@1f2e3d"]
    cells = pd.DataFrame({"sweep": ["s", "s"]})
    assert labels.title(cells, {}) == "s"
    assert labels.title(cells, condition) == (
        "s, lstm, learning_rate=0.003, unseen_datasets=('a', 'b/c')"
    )

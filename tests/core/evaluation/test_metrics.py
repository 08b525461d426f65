import math

import numpy as np
import torch

from metaphase.core.evaluation.metrics import split_metrics


def test_statistics_are_means_over_sequences_with_their_errors():
    generator = torch.Generator().manual_seed(0)
    correct = torch.rand(3, 50, 20, generator=generator) < torch.linspace(0.2, 0.9, 20)
    loss = torch.rand(3, 50, 20, generator=generator)
    metrics = split_metrics(loss, correct, torch.tensor([False, False, True]))
    for r in (0, 1):
        row, c = metrics.row(r), correct[r].double().numpy()
        first, last = c[:, 0], c[:, 18:].mean(axis=1)
        for name, values in [("first", first), ("last", last), ("improvement", last - first)]:
            assert math.isclose(row[name], values.mean(), abs_tol=1e-12)
            assert math.isclose(row[f"{name}_se"], values.std(ddof=1) / math.sqrt(50), rel_tol=1e-9)
        assert math.isclose(row["loss"], loss[r].double().mean().item(), rel_tol=1e-9)
        assert row["n"] == 50
        curve = metrics.curve(r)
        assert [point["position"] for point in curve] == list(range(1, 21))
        np.testing.assert_allclose([p["accuracy"] for p in curve], c.mean(axis=0))
        np.testing.assert_allclose(
            [p["accuracy_se"] for p in curve], c.std(axis=0, ddof=1) / math.sqrt(50)
        )
    assert all(math.isnan(v) for k, v in metrics.row(2).items() if k != "n")


def test_the_last_tenth_is_at_least_one_position():
    correct = torch.zeros(1, 4, 5, dtype=torch.bool)
    correct[..., 4] = True
    metrics = split_metrics(torch.zeros(1, 4, 5), correct, torch.tensor([False]))
    assert metrics.row(0)["last"] == 1.0
    assert metrics.row(0)["last_se"] == 0.0

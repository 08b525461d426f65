"""State size or parameter count: the right models are correlated, and drawn."""

from __future__ import annotations

import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from scipy import stats

from metaphase.analysis.questions import state_size
from tests.analysis.questions import draw, find


def test_state_size_uses_the_most_tasks_and_averages_seeds(architectures):
    answer = find(architectures)["state_size-num_tasks=65536"]
    assert len(answer.table) == 2 * 3 * 2
    found = state_size.correlations(answer.table)
    means = answer.table.groupby(["architecture", "model_size"]).mean(numeric_only=True)
    expected = stats.spearmanr(means["state_size"], means["accuracy"]).statistic
    assert found["state_size"][0] == pytest.approx(expected)
    assert found["state_size"][0] > 0.7 > abs(found["num_parameters"][0])
    assert "over 6 models" in answer.text
    axes = draw(answer).axes
    assert [ax.get_xlabel() for ax in axes] == ["state size (numbers carried)", "parameters"]
    assert f"{found['state_size'][0]:+.2f}" in axes[0].get_title()
    seeds, *_ = [c for c in axes[0].collections if isinstance(c, PathCollection)]
    lines = [line for line in axes[0].lines if len(line.get_xdata()) == 3]
    for architecture, line in zip(("lstm", "transformer"), lines, strict=True):
        assert list(line.get_ydata()) == list(means.loc[architecture, "accuracy"])
        rows = answer.table["architecture"] == architecture  # dots have their mean's colour
        colors = {to_hex(color) for color in seeds.get_facecolors()[rows.to_numpy()]}
        assert colors == {to_hex(line.get_color())}
    [legend] = axes[0].figure.legends
    shown = dict(zip([t.get_text() for t in legend.get_texts()], legend.get_lines(), strict=True))
    assert list(shown) == ["chance", "LSTM", "transformer"]
    assert [shown[n].get_color() for n in ("LSTM", "transformer")] == [
        line.get_color() for line in lines
    ]

"""Architectures stand side by side where there are several."""

from __future__ import annotations

from tests.analysis.questions import draw, find
from tests.tools.synthetic import make_results


def test_architectures_stand_side_by_side(architectures):
    answer = find(architectures)["architectures"]
    table = answer.table
    assert len(table) == 2 * 3 * 2
    assert set(table.loc[table["architecture"] == "lstm", "phase"]) == {"untrained"}
    assert (table.loc[table["architecture"] == "transformer", "unseen"] > 0.6).all()
    assert (table["seeds"] == 2).all()
    axes = draw(answer).axes
    assert [ax.get_title() for ax in axes[:2]] == ["LSTM", "transformer"]
    # a tile a grid point in each of the four panels
    assert [len(ax.collections[0].get_paths()) for ax in axes[:4]] == [6] * 4


def test_one_architecture_has_nothing_beside_it(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16), (0,), lambda cell: "memorizing")
    assert "architectures" not in find(tmp_path / "s")

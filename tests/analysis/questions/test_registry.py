"""A sweep answers only what it was made for."""

from __future__ import annotations

from tests.analysis.questions import find
from tests.tools.synthetic import make_results

ALWAYS = {
    "transitions-by-delta", "order-parameter", "variance-peak"
}  # fmt: skip


def test_a_plain_sweep_is_asked_about_its_transitions_alone(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), (0, 1))
    assert ALWAYS <= set(find(tmp_path / "s")) <= ALWAYS | {"modes", "budget-crossings"}
    make_results(tmp_path / "t", (8, 16), (256,), (0,))
    assert find(tmp_path / "t") == {}

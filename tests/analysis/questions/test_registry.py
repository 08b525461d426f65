"""A sweep answers only what it was made for."""

from __future__ import annotations

from tests.analysis.questions import find
from tests.tools.synthetic import make_results


def test_a_plain_sweep_has_none(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), (0, 1))
    assert find(tmp_path / "s") == {}

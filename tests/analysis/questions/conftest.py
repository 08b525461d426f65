"""A sweep of two architectures."""

from __future__ import annotations

import pytest

from tests.analysis.questions import change
from tests.tools.synthetic import make_results


@pytest.fixture
def architectures(tmp_path):
    path = tmp_path / "s"
    kinds = [{"architecture": a} for a in ("transformer", "lstm")]
    truth = {"transformer": "generalizing", "lstm": "untrained"}
    make_results(
        path, (8, 16, 32), (1, 65536), (0, 1), lambda c: truth[c.architecture], settings=kinds,
        random_seed=1,
    )  # fmt: skip

    def sizes(frame):
        small = frame["architecture"].iloc[0] == "lstm"
        size = frame["model_size"].iloc[0]
        return frame.assign(state_size=2 * size if small else 64 * size, num_parameters=size**2)

    change(path, "cells", sizes)
    return path

"""Which columns of a cells table are settings."""

import pandas as pd

from metaphase.analysis.statistics.settings import setting_columns


def test_no_tree_can_call_a_result_a_setting():
    said = "noise,cell_id,sweep,unseen_last,seed,nowhere,,"
    cells = pd.DataFrame(
        [{"cell_id": "a", "sweep": "b", "seed": 0, "unseen_last": 0.5, "noise": 1.0}]
    ).assign(own_settings=said)
    assert setting_columns(cells) == ["seed", "noise"]

"""Whatever a preset or --set says: cells, or one line that names the key. Never anything else."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaphase.core.cell import SETTINGS, ConfigError
from metaphase.sweeps.preset import load_preset

KEYS = list(SETTINGS)
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**32, 2**32 + 1, 10**30]),
    st.floats(),
    st.booleans(),
)
values = st.one_of(
    numbers,
    st.none(),
    st.text(max_size=8),
    st.sampled_from(
        ["digits", "MNIST", "shifted", "rotary", "bf16", "lstm", "3e-3", "1e999", "yes"]
    ),
)
nested = st.recursive(
    values, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=2)
)
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=12), st.integers(0, 3))
presets = st.one_of(
    nested,
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.just("fuzz"), nested),
            "description": nested,
            "base": st.one_of(st.sampled_from(["quickstart", "./fuzz.yaml", "none"]), nested),
            "cell": st.one_of(st.dictionaries(keys, nested, max_size=5), nested),
            "grid": st.one_of(
                st.dictionaries(keys, st.one_of(st.lists(values, max_size=4), nested), max_size=3),
                nested,
            ),
            "extra": nested,
        },
    ),
)
overrides = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.builds(
            lambda k, v: f"{k}={yaml.safe_dump(v, default_flow_style=True).strip()}", keys, nested
        ),
    ),
    max_size=2,
)


def check(folder, preset, changes) -> None:
    path = folder / "fuzz.yaml"
    path.write_text(yaml.safe_dump(preset) if not isinstance(preset, str) else preset)
    try:
        sweep = load_preset(str(path), changes)
    except ConfigError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 2000
        return
    assert sweep.cells
    assert len({cell.cell_id for cell in sweep.cells}) == len(sweep.cells)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(preset=presets, changes=overrides)
def test_accepted_or_refused_in_one_line(tmp_path, preset, changes):
    check(tmp_path, preset, changes)


@pytest.mark.slow
@settings(
    max_examples=6000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(preset=presets, changes=overrides)
def test_thousands_accepted_or_refused_in_one_line(tmp_path, preset, changes):
    check(tmp_path, preset, changes)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(alphabet="abc:{}[]&*!|>-?#%@\n '\"1", max_size=60))
def test_any_text_is_a_preset_or_refused(tmp_path, text):
    check(tmp_path, text, [])

"""A sweep answers only what it was made for."""

from __future__ import annotations

import re

from metaphase.analysis.questions import registry
from metaphase.sweeps.store.layout import FILES, FOLDERS
from tests import ROOT
from tests.analysis.questions import find
from tests.tools.synthetic import make_results

ALWAYS = {
    "transitions_by_delta", "order_parameter", "variance_peak"
}  # fmt: skip


def test_a_plain_sweep_is_asked_about_its_transitions_alone(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), (0, 1))
    assert ALWAYS <= set(find(tmp_path / "s")) <= ALWAYS | {"modes", "budget_crossings"}
    make_results(tmp_path / "t", (8, 16), (256,), (0,))
    assert find(tmp_path / "t") == {}


def test_names_are_words_joined_by_underscores():
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in registry.NAMES)


def test_the_results_readme_tells_every_file_and_folder():
    readme = (ROOT / "results" / "README.md").read_text()
    layout, _, rest = readme.partition("Read a table by its folder")
    told = set(re.findall(r"^      ([\w.]+)", layout, re.MULTILINE))
    assert told == {*FOLDERS, *FILES}
    _, _, written = rest.partition("## Written by the analysis")
    tables = set(re.findall(r"`([a-z_]+)\.csv`", written))
    assert tables == {*registry.NAMES, "phases", "grid", "transitions"}

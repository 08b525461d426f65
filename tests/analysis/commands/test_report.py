"""The report: one file that loads nothing, whole or half-finished, with everything escaped."""

from __future__ import annotations

import base64
import html
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from metaphase.analysis.commands import report, report_page
from metaphase.analysis.published import reference
from metaphase.core import phase_rules
from metaphase.sweeps import cli, preset
from metaphase.sweeps.preset import load_preset
from tests.tools.synthetic import BASE, make_results


def make_sweep(path):
    def truth(cell):
        if cell.num_tasks == 256 and cell.model_size == 16:
            return "missing"
        if (cell.num_tasks, cell.model_size, cell.seed) == (256, 8, 1):
            return "failed"
        return {1: "memorizing", 16: "identifying", 256: "generalizing"}[cell.num_tasks]

    make_results(path, (8, 16), (1, 16, 256), (0, 1), truth)
    (path / "sweep.yaml").write_text("name: s\ndescription: a <script>alert(1)</script>\n")
    return path


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "s")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep whose report is written; a page takes seconds."""
    path = make_sweep(tmp_path_factory.mktemp("written") / "s")
    assert cli.main(["report", str(path)]) == 0
    return path


@pytest.fixture
def one_cell(tmp_path):
    make_results(tmp_path / "s", (8,), (1,), (0,))
    settings = load_preset("quickstart", ["name=s"]).settings
    (tmp_path / "s" / "sweep.yaml").write_text(preset.dump_settings(settings))
    return tmp_path / "s"


class Page(HTMLParser):
    """Tags and their attributes; complains about tags that don't nest."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_with_all_figures_inside(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4
    for source in images:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[1:4] == b"PNG"
    alternatives = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert any(text.startswith("s, Phases: Phase of every cell; ") for text in alternatives)
    assert len(set(alternatives)) == 4
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"(src|href)=.?http", text)
    assert "9 done, 0 diverged, 1 failed, 0 in training" in text
    assert "out of memory" in text
    plain = html.unescape(text)
    assert "2^4 | M" in plain  # the text map
    assert "number of tasks where a phase begins" in plain
    assert f"metaphase run {written}/sweep.yaml --root {written.parent}" in plain


def test_everything_is_escaped(written):
    text = (written / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_half_finished_without_settings_elsewhere(sweep, tmp_path, capsys, monkeypatch):
    (sweep / "sweep.yaml").unlink()
    for file in sorted((sweep / "cells").iterdir())[3:]:
        file.unlink()
    monkeypatch.chdir(tmp_path)
    assert report.main([str(sweep), "--out", "page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    Page(text)
    assert "7 in training" in text
    assert "metaphase run" not in text
    assert not (sweep / "report.html").exists()


def test_out_may_be_a_folder_and_nothing_else_is_left(one_cell, tmp_path, capsys):
    (tmp_path / "out_old").mkdir()
    assert report.main([str(one_cell), "--out", str(tmp_path / "out_old")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path}/out_old/report.html\n"
    assert report.main([str(one_cell), "--out", f"{tmp_path}/new/"]) == 0
    for name in ("out_old", "new"):
        assert [p.name for p in (tmp_path / name).iterdir()] == ["report.html"]
    (tmp_path / "blocked" / "report.html").mkdir(parents=True)
    assert report.main([str(one_cell), "--out", f"{tmp_path}/blocked"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in (tmp_path / "blocked").iterdir()] == ["report.html"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocked", "new", "out_old", "s"]


def rerun_command(page):
    return shlex.split(re.search(r"metaphase (run .*)$", html.unescape(page), re.M)[1])


@pytest.mark.parametrize("place", ["{}/s/", "s/.", "renamed"])
def test_the_rerun_command_runs(place, one_cell, tmp_path, monkeypatch, capsys):
    if place == "renamed":
        one_cell.rename(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    command = rerun_command(report_page.render(place.format(tmp_path)))
    assert cli.main([*command, "--dry-run"]) == 0
    where = tmp_path / ("renamed" if place == "renamed" else "s")
    assert f"results: {where}\n" in capsys.readouterr().out


@pytest.mark.parametrize("parameters", ["", "?scheme=http&endpoint_override={}&region=us-east-1"])
def test_the_rerun_command_runs_from_a_bucket(
    parameters, s3, one_cell, tmp_path, monkeypatch, capsys
):
    client, address = s3
    if not parameters:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    for path in one_cell.rglob("*.*"):
        client.upload_file(str(path), "bucket", f"here/{path.relative_to(tmp_path)}")
    place = f"s3://bucket/here/s{parameters.format(address)}"
    assert cli.main(["report", place]) == 0
    page = client.get_object(Bucket="bucket", Key="here/s/report.html")["Body"].read().decode()
    assert cli.main([*rerun_command(page), "--dry-run"]) == 0
    assert f"results: {place}\n" in capsys.readouterr().out
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="bucket")["Contents"]]
    assert not [key for key in keys if ".tmp" in key or "?" in key]


def test_no_result_is_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_equal_results_equal_page(written):
    assert report_page.render(str(written)) == (written / "report.html").read_text()


def test_a_sweep_of_the_paper_is_compared_with_it(tmp_path):
    base = replace(BASE, dataset="MNIST", num_classes=10)
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), (0, 1), base=base)
    text = report_page.render(str(tmp_path / "s"))
    page = Page(text)
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 5
    section = html.unescape(text.split("<h2>Beside the paper</h2>")[1].split("<h2>")[0])
    assert "Kirsch et al. 2022, Figure 2" in section
    assert "6 grid points in common" in section
    assert "mean absolute difference of the last accuracies" in section
    assert section.count("<img") == 1
    assert section.count("<table>") == 2  # grid points and transitions
    paper = reference.load_figure2().set_index(["split", "model_size", "num_tasks"])["accuracy"]
    assert f"<td>{paper['unseen', 16, 256]:.3f}</td>" in section


def test_what_a_table_has_not_is_a_dash():
    values = (None, float("nan"), pd.NA, 0, 0.25, "x", float("-inf"), -0.0, -0.0001)
    assert [report_page.table_text(v) for v in values] == [
        "–", "–", "–", "0", "0.250", "x", "-∞", "0.000", "0.000",
    ]  # fmt: skip


def test_a_sweep_of_something_else_is_not(written):
    assert "Beside the paper" not in (written / "report.html").read_text()


def test_the_rule_and_its_thresholds_are_told(one_cell):
    page = report_page.render(str(one_cell))
    assert "<p>With delta 0.05 and intervals at 99%. " in page
    page = report_page.render(str(one_cell), 0.4, 0.999, phase_rules.by_accuracy)
    assert "<p>By the rule accuracy, with delta 0.4 and intervals at 99.9%. " in page
